"""Whatever structures come as is read the same, by load and by what takes structures; anything else is one sentence."""

import dataclasses
import inspect
from collections.abc import Iterator
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from posteriors import random_posterior
from systems import ammonia, labelled_series, strained_copper

import bnn_jax
from bnn_jax import Dataset
from bnn_jax.atoms.sources import UNNAMED, families
from bnn_jax.types import InputError

SERIES = labelled_series(ammonia(), 6)
WHOLE = Dataset.from_atoms(SERIES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The series in two files of four and two structures, and as a trajectory."""
    folder = tmp_path_factory.mktemp("files")
    ase.io.write(folder / "run1.xyz", SERIES[:4])
    (folder / "deep").mkdir()
    ase.io.write(folder / "deep" / "run2.xyz", SERIES[4:])
    ase.io.write(folder / "all.traj", SERIES)
    ase.io.write(folder / "odd@1.xyz", SERIES[:1])
    return folder


def frames_of(path: Path) -> Iterator[ase.Atoms]:
    with ase.io.Trajectory(path) as frames:
        yield from frames


WAYS = {
    "a file and an index": (lambda at: f"{at}/run1.xyz@1:3", slice(1, 3)),
    "an index from the end": (lambda at: f"{at}/run1.xyz@-1", slice(3, 4)),
    "a path with an index": (lambda at: at / "all.traj@::2", slice(0, 6, 2)),
    "a name that has an @": (lambda at: f"{at}/odd@1.xyz", slice(0, 1)),
    "that and an index": (lambda at: f"{at}/odd@1.xyz@:", slice(0, 1)),
    "a list of files": (lambda at: [str(at / "run1.xyz"), at / "deep" / "run2.xyz"], slice(0, 6)),
    "files with indices": (lambda at: [f"{at}/run1.xyz@:2", f"{at}/run1.xyz@2:", f"{at}/deep/run2.xyz"], slice(0, 6)),
    "a tuple of one": (lambda at: (at / "all.traj",), slice(0, 6)),
    "an iterator of files": (lambda at: at.glob("run*.xyz"), slice(0, 4)),
    "a pattern": (lambda at: f"{at}/run?.xyz", slice(0, 4)),
    "a deep pattern": (lambda at: f"{at}/**/run2.xyz", slice(4, 6)),
    "a pattern and an index": (lambda at: f"{at}/run*.xyz@:3", slice(0, 3)),
    "structures": (lambda _: SERIES, slice(0, 6)),
    "an iterator of structures": (lambda _: iter(SERIES), slice(0, 6)),
    "ase.io.iread": (lambda at: ase.io.iread(at / "run1.xyz", ":"), slice(0, 4)),
    "a trajectory": (lambda at: frames_of(at / "all.traj"), slice(0, 6)),
    "one structure": (lambda _: SERIES[2], slice(2, 3)),
    "a data set": (lambda _: WHOLE, slice(0, 6)),
}


def assert_same(found: Dataset, expected: Dataset) -> None:
    for item in dataclasses.fields(Dataset):
        np.testing.assert_allclose(getattr(found, item.name), getattr(expected, item.name), atol=1e-7)


@pytest.mark.parametrize("name", WAYS)
def test_every_way_in(folder, name):
    source, part = WAYS[name]
    assert_same(bnn_jax.load(source(folder)), WHOLE[part])


@pytest.mark.parametrize("name", ["a file and an index", "a list of files", "a pattern", "a trajectory"])
def test_predict_evaluate_and_calibrate_take_them_too(folder, name):
    posterior = random_posterior(labelled_series(ammonia(), 3, seed=70), num_samples=2)
    source, part = WAYS[name]
    expected = posterior.predict(WHOLE[part])
    np.testing.assert_allclose(posterior.predict(source(folder)).forces, expected.forces, atol=1e-5)
    assert posterior.predictor.predict(source(folder)).energy.shape == expected.energy.shape
    scores = bnn_jax.evaluate(posterior, source(folder))
    assert scores["forces_rmse"] == pytest.approx(bnn_jax.evaluate(posterior, WHOLE[part])["forces_rmse"], rel=1e-4)
    if len(WHOLE[part]) > 2:
        assert posterior.calibrated(source(folder), "variance").calibration is not None


def test_a_name_may_have_an_index_and_stand_in_a_list():
    assert len(bnn_jax.load("ammonia@:5")) == 5
    assert_same(bnn_jax.load(["ammonia@:5", "ammonia@5:8"]), bnn_jax.load("ammonia")[:8])


def test_a_fit_takes_them(folder, monkeypatch):
    taken = []
    monkeypatch.setattr("bnn_jax.api.registry.get", lambda _: pytest.fail("passed"))
    monkeypatch.setattr("bnn_jax.api.check_parts", lambda *sets: taken.append(sets))
    with pytest.raises(pytest.fail.Exception, match="passed"):
        bnn_jax.fit(f"{folder}/run1.xyz", iter(SERIES[4:]))
    ((train, others, _),) = taken
    assert_same(train, WHOLE[:4])
    assert_same(others["valid"], WHOLE[4:])


NO_WAYS = {
    "number": (
        3.5,
        r"^3\.5 is no structure; give a file, a pattern, FILE@INDEX, a known name, several of these, ASE str",
    ),
    "nothing": (None, "^None is no structure; give"),
    "array": (np.zeros((2, 3)), r"^Item 0 of 2 is array\(\[0\., 0\., 0\.\]\), no file like the others; give"),
    "bytes": (b"ab", "^Item 0 of 2 is 97, no file"),
    "empty list": ([], "^There is no structure; give"),
    "empty iterator": (iter(()), "^There is no structure; give"),
    "structure and name": ([SERIES[0], "ammonia"], r"^Item 0 of 2 is Atoms\(symbols.*, no file like the others"),
    "nested list": ([SERIES], r"^Item 0 of 1 is \[Atoms"),
    "pattern of none": ("/no/such/*.xyz", r"^No file is named like '/no/such/\*\.xyz'; check the pattern\."),
    "index of none": ("/no/such.xyz@:3", r"^'/no/such\.xyz' is no file and no known data set; check the path"),
    "letter for an index": ("ammonia@:x", r"^Index ':x' of .* is not understood"),
    "no index": ("ammonia@", r"^Index '' of .* is not understood"),
    "beyond the end": ("ammonia@900:", r" holds no structure; check the path and the index"),
}


@pytest.mark.parametrize("name", NO_WAYS)
def test_anything_else_is_one_sentence(name):
    source, sentence = NO_WAYS[name]
    load = inspect.unwrap(bnn_jax.load)  # users have no run-time type checks
    with pytest.raises(InputError, match=sentence):
        load(source)


def test_keys_that_mean_nothing_are_refused():
    with pytest.raises(InputError, match="energy_unit, index cannot be given beside a data set, which was read"):
        bnn_jax.load(WHOLE, energy_unit="Hartree", index=":2")
    with pytest.raises(InputError, match=r"index cannot be given beside ASE structures \(slice them instead\); leave"):
        bnn_jax.load(SERIES[0], index=":2")


def test_an_index_is_given_once():
    with pytest.raises(InputError, match="Index ':2' is given beside that of ammonia; leave one out"):
        bnn_jax.load("ammonia@:3", index=":2")


def test_files_that_contradict_one_another_are_refused(tmp_path):
    """Each is sound by itself."""
    frames = strained_copper(40, repeat=2)
    for atoms in frames[20:]:
        atoms.calc.results["energy"] += 0.5
    paths = [tmp_path / "first.xyz", tmp_path / "second.xyz"]
    ase.io.write(paths[0], frames[:20])
    ase.io.write(paths[1], frames[20:])
    assert [len(bnn_jax.load(path)) for path in paths] == [20, 20]
    with pytest.raises(
        InputError, match=r"2 files \(.*first\.xyz, .*second\.xyz\) together: energies fall into two gro"
    ):
        bnn_jax.load(paths)
    assert len(bnn_jax.load(paths, energy_unit="eV")) == 40


def test_gaps_between_files_need_consent(tmp_path):
    bare = SERIES[5].copy()
    bare.calc = SinglePointCalculator(bare, energy=SERIES[5].get_potential_energy())
    ase.io.write(tmp_path / "a.xyz", SERIES[:5])
    ase.io.write(tmp_path / "b.xyz", bare)
    with pytest.raises(InputError, match=r"2 files .* together: forces is missing in 1 of 6 structures"):
        bnn_jax.load(str(tmp_path / "*.xyz"), require_labels=True)
    assert len(bnn_jax.load(str(tmp_path / "*.xyz"), require_labels=True, allow_missing_labels=True)) == 6


def test_predictions_leave_labels_alone():
    """Whatever they are: nobody asks for them."""
    posterior = random_posterior(labelled_series(ammonia(), 3), num_samples=2)
    frames = labelled_series(ammonia(), 20, seed=5)
    for atoms in frames:
        atoms.calc.results["forces"] = -1e3 * atoms.calc.results["forces"]
    frames[0].info["energy"] = "none"
    with pytest.raises(InputError, match="none"):
        bnn_jax.load(frames)
    assert posterior.predict(frames).energy.shape == (20,)
    bare = [ase.Atoms(atoms.numbers, atoms.positions) for atoms in frames]
    np.testing.assert_array_equal(posterior.predict(frames).forces, posterior.predict(bare).forces)
    assert np.isnan(bnn_jax.load(frames, use_labels=False).energy).all()


def test_families_are_those_that_files_name(tmp_path):
    frames = [ase.Atoms("OH2", positions=[[0, 0, 0], [1, 0, 0], [0, 1, 0]]) for _ in range(4)]
    for atoms, name in zip(frames, ("bulk", "ice", None, "bulk"), strict=True):
        atoms.info |= {} if name is None else {"config_type": name}
    ase.io.write(tmp_path / "a.xyz", frames[:2])
    ase.io.write(tmp_path / "b.xyz.gz", frames[2:], format="extxyz")
    pattern = str(tmp_path / "*.xyz*")
    found = families(pattern, "config_type")
    assert {name: indices.tolist() for name, indices in found.items()} == {"bulk": [0, 3], "ice": [1], UNNAMED: [2]}
    assert list(families(f"{tmp_path / 'a.xyz'}@1:", "config_type")) == ["ice"]
    with pytest.raises(InputError, match=r"no structure has the entry 'kind'; name one that there is \(config_type"):
        families(pattern, "kind")
    with pytest.raises(InputError, match="no structure has the entry 'config_type'; name one that there is"):
        families("ammonia", "config_type")
