"""Range-separated features against their definition, and the experiment on a handful of water molecules."""

import importlib
import importlib.util
import json
from pathlib import Path

import ase
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from bnn_jax import InputError

FOLDER = Path(__file__).parents[2] / "experiments" / "rigidity"


def needs(name):
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")


@pytest.fixture
def experiment():
    return importlib.import_module("range_separation")


@pytest.fixture
def features():
    return importlib.import_module("multi_length_scale")


@pytest.fixture
def water(monkeypatch):
    module = importlib.import_module("water_dimers")
    # The sums over reciprocal space are shorter.
    monkeypatch.setattr(module, "BOX", 16.0)
    monkeypatch.setattr(module, "OTHER_BOX", 14.0)
    return module


def test_monomers_have_their_bonds_and_angles_in_every_orientation(water):
    rng = np.random.default_rng(0)
    monomers = np.array([water.monomer(rng) for _ in range(2000)])
    bonds = monomers[:, 1:] - monomers[:, :1]
    lengths = np.linalg.norm(bonds, axis=-1)
    angles = np.rad2deg(np.arccos(np.prod(bonds / lengths[..., None], axis=1).sum(axis=-1)))
    assert_allclose([lengths.mean(), lengths.std()], [water.BOND, water.BOND_STD], rtol=0.05)
    assert_allclose([angles.mean(), angles.std()], [water.ANGLE, water.ANGLE_STD], rtol=0.05)
    assert_allclose((bonds[:, 0] / lengths[:, :1]).mean(axis=0), 0, atol=0.06)


@pytest.mark.parametrize("shortest", [3.0, 4.7, 10.0])
def test_nearest_atoms_of_a_dimer_are_as_far_apart_as_asked_for(water, shortest):
    for seed in range(20):
        molecules = water.dimer(np.random.default_rng(seed), shortest)
        assert cdist(molecules[:3], molecules[3:]).min() == pytest.approx(shortest, abs=1e-9)


@needs("tblite")
def test_far_dimers_have_the_energy_of_their_monomers(water):
    xtb = importlib.import_module("xtb")
    molecules = water.dimer(np.random.default_rng(1), 60.0)
    parts = water.structures([molecules, molecules[:3], molecules[3:]])
    whole, first, second = xtb.energies(parts, water.ELECTRONIC_TEMPERATURE)
    assert whole == pytest.approx(first + second, abs=1e-4)
    found = water.labelled(2, num_dimers=2, num_monomers=1)
    assert_allclose(found["monomers"]["energy"][0], first / 3, atol=0.5)
    assert found["shortest"] == water.labelled(2, num_dimers=2, num_monomers=1)["shortest"]


@needs("featomic")
def test_features_are_as_many_as_published_and_invariant(features, water):
    molecules = water.dimer(np.random.default_rng(3), 3.0)
    exchanged = molecules[[3, 5, 4, 0, 1, 2]]
    shifted = molecules + np.array([0.3, -2.0, 1.1])
    systems = water.structures([molecules, exchanged, shifted])
    short = features.short_range(systems)
    long = features.long_range(features.range_separated_lode(systems, 3), systems)
    assert short.shape == (3, features.NUM_SHORT) and long.shape == (3, features.NUM_LONG)
    turned = water.structures([molecules, Rotation.random(rng=np.random.default_rng(4)).apply(molecules)])
    short_turned = features.short_range(turned)
    for block in (short, long, short_turned):
        assert np.abs(block).max() > 1e-4
        assert_allclose(block, np.broadcast_to(block[0], block.shape), atol=1e-9 * np.abs(block).max())
    # The box is not turned with the molecules: its images and the sum's cutoff leave a little.
    long_turned = features.long_range(features.range_separated_lode(turned, 3), turned)
    assert_allclose(long_turned[1], long_turned[0], atol=0.05 * np.abs(long_turned).max())


@needs("featomic")
def test_nothing_is_left_of_monomers_when_the_range_is_separated(features, water):
    systems = water.structures([water.monomer(np.random.default_rng(5))])
    assert max(np.abs(each).max() for each in features.lode(systems, 3)) > 0.1
    assert max(np.abs(each).max() for each in features.range_separated_lode(systems, 3)) < 1e-12


@needs("featomic")
@pytest.mark.parametrize("exponent", [1, 3])
def test_range_separated_expansion_is_that_of_the_far_atoms(features, water, exponent):
    """Expansions add: what is left around an atom of a dimer is what the other molecule alone makes there.

    A ghost of the centre, of the element that the other molecule lacks, is subtracted again.
    """
    molecules = water.dimer(np.random.default_rng(6), 3.2)
    (whole,) = water.structures([molecules])
    separated = features.range_separated_lode([whole], exponent)
    probe = whole[[0, 3, 4, 5]]  # an oxygen, and the other molecule
    alone = whole[[0]]
    with_far, own = features.lode([probe], exponent), features.lode([alone], exponent)
    for found, far, centre in zip(separated, with_far, own, strict=True):
        assert_allclose(found[0], far[0] - centre[0], atol=1e-10)
        assert np.abs(found[0]).max() > 1e-4


@needs("featomic")
def test_atoms_within_the_cutoff_of_another_molecule_are_near(features, water):
    molecules = water.dimer(np.random.default_rng(7), 1.8)
    (system,) = water.structures([molecules])
    distances = cdist(molecules, molecules)
    centre = int(np.argmin(distances[:3, 3:].min(axis=1)))
    far = np.flatnonzero(distances[centre] >= features.CUTOFF)
    assert 0 < len(far) < 3
    found = features.range_separated_lode([system], 3)
    with_far = features.lode([system[[centre, *far]]], 3)
    own = features.lode([system[[centre]]], 3)
    for each, rest, alone in zip(found, with_far, own, strict=True):
        assert_allclose(each[centre], rest[0] - alone[0], atol=1e-10)


@needs("featomic")
def test_subtraction_in_real_space_is_about_the_same(features, water, monkeypatch):
    """Another way to the same integrals: by splines of the potential around each near atom.

    Only the spherical part feels the mean over the box, which the sum in reciprocal space lacks.
    """
    monkeypatch.setattr(water, "BOX", 30.0)
    systems = water.structures([water.dimer(np.random.default_rng(8), 3.0)])
    exact = features.range_separated_lode(systems, 3)
    approximate = features.approximately_separated_lode(systems, 3)
    for degree, (one, other) in enumerate(zip(exact, approximate, strict=True)):
        assert_allclose(other, one, atol=2e-2 if degree == 0 else 1e-4)
        assert np.abs(one).max() > (0.1 if degree == 0 else 2e-3)


def test_long_range_features_are_a_power_spectrum_by_element_of_the_centre(features):
    rng = np.random.default_rng(9)
    system = ase.Atoms("OH", np.zeros((2, 3)))
    channels = len(features.ELEMENTS) * features.NUM_RADIAL
    expansion = [rng.normal(size=(2, 2 * degree + 1, channels)) for degree in range(features.L_MAX + 1)]
    (found,) = features.long_range(expansion, [system])
    of_hydrogen, of_oxygen = found.reshape(2, features.L_MAX + 1, channels, channels)
    for degree, each in enumerate(expansion):
        expected = each.swapaxes(1, 2) @ each / np.sqrt(2 * degree + 1) / 2  # the mean over two atoms
        assert_allclose(of_oxygen[degree], expected[0])
        assert_allclose(of_hydrogen[degree], expected[1])


def test_means_are_over_the_atoms_of_each_structure(features):
    systems = [ase.Atoms("OHH"), ase.Atoms("OHHOHH")]
    rows = np.arange(9.0)[:, None]
    assert_allclose(features.means(rows, systems), [[1.0], [5.5]])


def test_rigidity_is_split_only_where_blocks_are_apart(experiment):
    """Long-range features that vanish for some structures leave both components held; copies of others neither."""
    rng = np.random.default_rng(10)
    setting = experiment.Setting(alpha=1e-8, sizes=(40,))
    short, long = np.zeros((80, 384)), np.zeros((80, 512))
    short[:, :5] = rng.normal(size=(80, 5))
    long[::2, :5] = rng.normal(size=(40, 5))
    weights = rng.normal(size=896)
    ratios = {}
    for name, second in (("apart", long), ("copied", np.pad(short, [(0, 0), (0, 128)]))):
        rows = np.concatenate([short, second], axis=1)
        energy = rows @ weights
        test = {"dimers": rows[40:], "monomers": rows[41::2], "monomers, other box": rows[41::2]}
        test_energy = {"dimers": energy[40:], "monomers": energy[41::2]}
        found = experiment.evaluate(rows[:40], energy[:40] - energy[:40].mean(), test, test_energy, setting)["40"]
        ratios[name] = found["cpr"]
    assert min(ratios["apart"].values()) > 1 and max(ratios["copied"].values()) < 1e-6


def test_evaluation_is_of_the_first_structures_only(experiment):
    rng = np.random.default_rng(11)
    setting = experiment.Setting(alpha=1e-2, sizes=(3, 6), num_test=4)
    rows, energy = rng.normal(size=(6, 896)), rng.normal(size=6)
    test = {"dimers": rows, "monomers": rows[:3], "monomers, other box": 2 * rows[:3]}
    labels = {"dimers": energy, "monomers": energy[:3]}
    found = experiment.evaluate(rows, energy, test, labels, setting)
    weights = np.linalg.solve(rows[:3].T @ rows[:3] + 1e-2 * np.eye(896), rows[:3].T @ (energy[:3] - energy[:3].mean()))
    assert_allclose(found["3"]["monomer_predicted"], rows[:3] @ weights + energy[:3].mean(), rtol=1e-8)
    errors = 2 * rows[:3] @ weights + energy[:3].mean() - energy[:3]
    assert found["3"]["monomer_other_box_rmse"] == pytest.approx(np.sqrt(np.mean(errors**2)))
    assert found["6"]["dimer_rmse"] < 1e-3 < found["3"]["dimer_rmse"]


@needs("featomic")
@needs("tblite")
@pytest.mark.usefixtures("water")
def test_whole_experiment_resumes_and_draws_again(experiment, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    # The splines of the third take seconds; it has a test of its own.
    monkeypatch.setattr(experiment, "MODELS", {name: experiment.MODELS[name] for name in experiment.DRAWN})
    arguments = ["--seeds", "0", "1", "--sizes", "2", "4", "--test", "3", "--out", str(out)]
    experiment.main(arguments)
    text = capsys.readouterr().out
    assert text == (out / "table.md").read_text() + "\n"
    results = json.loads((out / "results.json").read_text())
    assert [each["seed"] for each in results["seeds"]] == [0, 1]
    models = results["seeds"][0]["models"]
    assert tuple(models) == experiment.DRAWN
    assert models["range-separated"]["largest_long_range_of_monomers"] < 1e-12
    for order in experiment.ORDERS:
        assert text.count(f"| range-separated | {order} |") == 2
        cpr = [models[name][order]["4"]["cpr"][experiment.LONG] for name in ("all atoms", "range-separated")]
        assert cpr[1] > 100 * cpr[0]
    # What has no far atoms does not feel the box.
    separated = models["range-separated"]["random"]["4"]
    assert separated["monomer_other_box_rmse"] == pytest.approx(separated["monomer_rmse"], rel=1e-6)
    other = models["all atoms"]["random"]["4"]
    assert other["monomer_other_box_rmse"] != pytest.approx(other["monomer_rmse"], rel=1e-2)
    # All four training dimers are the same set in whatever order.
    whole = [models["all atoms"][order]["4"]["monomer_rmse"] for order in experiment.ORDERS]
    assert whole[0] == pytest.approx(whole[1], rel=1e-3)
    assert (out / "range_separation-cpr.png").stat().st_size > 10_000

    def no_work(*_, **__):
        raise AssertionError("a finished piece was computed again")

    monkeypatch.setattr(experiment.water_dimers, "labelled", no_work)
    before = (out / "seed-1.json").read_text()
    (out / "seed-1.json").unlink()
    experiment.main(arguments)
    after = json.loads((out / "seed-1.json").read_text())
    assert after["models"]["all atoms"] == json.loads(before)["models"]["all atoms"]
    monkeypatch.setattr(experiment, "evaluate", no_work)
    (out / "table.md").unlink()
    experiment.main(["--table-only", "--out", str(out)])
    assert (out / "table.md").read_text() + "\n" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"seed-0\.json has another setting; choose another --out\."):
        experiment.main([*arguments, "--exponent", "1"])


@pytest.mark.parametrize("missing", ["featomic", "tblite"])
def test_command_without_a_library_fails_before_any_work(experiment, tmp_path, monkeypatch, missing):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else object())
    with pytest.raises(
        InputError, match=rf"{missing}, which .* is not installed; pip install 'bnn_jax\[experiments\]'"
    ):
        experiment.main(["--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "0", "5"], "--sizes, --test and --exponent must be at least 1"),
        (["--table-only"], "does not exist; run the experiment without --table-only first"),
    ],
)
def test_command_says_what_is_wrong_without_a_traceback(tmp_path, run_script, arguments, message):
    code, printed = run_script(FOLDER / "range_separation.py", *arguments, "--out", str(tmp_path / "out"))
    assert code == 2 and message in printed
