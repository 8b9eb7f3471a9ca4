"""Simulations end where they should, leave what they found, and go on after a kill as if nothing had been."""

import dataclasses
import os
import re
import subprocess
import sys

import ase.build
import ase.io
import jax
import numpy as np
import pytest
import systems
from commands import environment
from springs import CUTOFF, springs

from bnn_jax import InputError
from bnn_jax.dynamics import Bounds, Settings, simulate
from bnn_jax.dynamics.run import Folder
from bnn_jax.validated import EnvironmentRange, ValidatedRange

WATER = systems.water()
SETTINGS = Settings(ensemble="nve", kelvin=1000.0, timestep_fs=0.2, stride=5)
LENGTHS = {"picoseconds": 0.03, "num_replicas": 2, "progress": False}


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    monkeypatch.setattr("bnn_jax.dynamics.run.STEPS_PER_CHUNK", 50)


def equal(one, other) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_frames_and_files(tmp_path):
    predictor = springs(WATER)
    found = simulate(predictor, WATER, SETTINGS, **LENGTHS, out=tmp_path / "md")
    assert found.times_fs.tolist() == pytest.approx([1.0 * i for i in range(1, 31)])
    assert found.num_frames.tolist() == [30, 30] and found.reasons == ("", "")
    assert not np.allclose(found.frames.positions[:, 0], found.frames.positions[:, 1])
    frames = ase.io.read(tmp_path / "md" / "replica-01.xyz", ":")
    assert len(frames) == 30 and frames[3].info["time_fs"] == pytest.approx(4.0)
    last = predictor.predict(frames[-1])
    np.testing.assert_allclose(frames[-1].get_forces(), last.forces, atol=1e-5)
    np.testing.assert_allclose(frames[-1].arrays["forces_std"], last.forces_std, atol=1e-5)
    kinetic = found.frames.kinetic_energy[-1, 1]
    assert frames[-1].get_kinetic_energy() == pytest.approx(float(kinetic), rel=1e-4)


def test_it_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    predictor = springs(WATER)
    settings = Settings(ensemble="langevin", kelvin=1000.0, timestep_fs=0.2, stride=5, forces="each")
    whole = simulate(predictor, WATER, settings, **LENGTHS)
    save = Folder.save

    def dies(self, number, *rest):
        save(self, number, *rest)
        if number == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Folder, "save", dies)
    out = tmp_path / "md"
    with pytest.raises(KeyboardInterrupt):
        simulate(predictor, WATER, settings, **LENGTHS, out=out)
    monkeypatch.setattr(Folder, "save", save)
    with pytest.raises(InputError, match="holds a simulation; go on with resume"):
        simulate(predictor, WATER, settings, **LENGTHS, out=out)
    with pytest.raises(InputError, match="has other seed; give the same"):
        simulate(predictor, WATER, settings, **LENGTHS, out=out, seed=1, resume=True)
    with pytest.raises(InputError, match="has other samples; give the same"):
        simulate(springs(WATER, (21.0, 30.0)), WATER, settings, **LENGTHS, out=out, resume=True)
    assert equal(simulate(predictor, WATER, settings, **LENGTHS, out=out, resume=True), whole)
    again = simulate(predictor, WATER, settings, **LENGTHS, out=out, resume=True)
    assert equal(again, whole)


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [
        (Bounds(forces_std=0.1), r"the std of a force is .* eV/Å, above 0.1"),
        (Bounds(kelvin=100.0), "K, above 100"),
        (Bounds(closest=1.5), r"are 0.9.* Å apart, below 1.5"),
        (Bounds(stretch=1.05), r"the bond of [HO]\d and [HO]\d is 1.* times its length, above 1.05"),
    ],
    ids=["std", "temperature", "distance", "bond"],
)
def test_bounds_end_a_replica_and_say_why(bounds, reason):
    found = simulate(springs(WATER), WATER, SETTINGS, **LENGTHS, bounds=bounds)
    assert (found.num_frames < 30).all() and (found.num_frames >= 1).all()
    for text, number in zip(found.reasons, found.num_frames, strict=True):
        assert text.startswith(f"after {number} frames ")
        assert re.search(reason, text)


def test_a_replica_ends_where_no_label_has_checked(tmp_path):
    """Bonds within five per cent of their length: a hot molecule leaves them."""
    none_else = {"fewest": (2, 2), "most": (2, 2)}
    lengths = ((1.52, 0.96), (0.96, 3.0))  # of H: to H, to O; of O: to H, to O, of which there is no other
    known = EnvironmentRange(shortest=lengths, longest=lengths, **none_else)
    validated = ValidatedRange((1, 8), (10.0, 10.0), 5, known)
    predictor = dataclasses.replace(springs(WATER), validated=validated)
    bounds = Bounds(validated=True)
    found = simulate(predictor, WATER, SETTINGS, **LENGTHS, bounds=bounds, out=tmp_path / "md")
    beyond = found.frames.estimate.beyond_validated
    for k, text in enumerate(found.reasons):
        assert re.fullmatch(r"after \d+ frames [HO]\d is beyond the validated range", text)
        last = int(found.num_frames[k]) - 1
        assert not beyond[:last, k].any() and beyond[last, k].any()
        frames = ase.io.read(tmp_path / "md" / f"replica-{k:02d}.xyz", ":")
        np.testing.assert_array_equal(frames[-1].arrays["beyond_validated"], beyond[last, k])
        np.testing.assert_array_equal(predictor.predict(frames[-1]).beyond_validated, beyond[last, k])
    with pytest.raises(InputError, match="no validated range to stay in; fit with a validation set"):
        simulate(springs(WATER), WATER, SETTINGS, **LENGTHS, bounds=bounds)


def test_the_others_go_on_when_one_has_left_its_bounds():
    resting = ase.Atoms("OHH", [[0.0, 0, 0], [1, 0, 0], [0.5, 0.75**0.5, 0]])  # all at the springs' length
    stretched = resting.copy()
    stretched.positions[1] += 0.6 * (stretched.positions[1] - stretched.positions[0])
    settings = Settings(ensemble="nve", kelvin=100.0, timestep_fs=0.2, stride=5)
    alone = simulate(springs(resting), [resting, stretched], settings, **LENGTHS)
    found = simulate(springs(resting), [resting, stretched], settings, **LENGTHS, bounds=Bounds(kelvin=1500.0))
    assert found.num_frames[0] == 30 and found.num_frames[1] < 30
    np.testing.assert_allclose(found.frames.positions[:, 0], alone.frames.positions[:, 0], atol=1e-4)


def test_each_replica_has_the_cell_of_its_start():
    crystal = ase.build.bulk("Ar", "fcc", a=1.6, cubic=True)
    wide = crystal.copy()
    wide.set_cell(1.1 * crystal.cell.array, scale_atoms=True)
    predictor = springs(crystal)
    found = simulate(predictor, [crystal, wide], Settings(ensemble="nve", timestep_fs=0.2, stride=5), **LENGTHS)
    for k, start in enumerate((crystal, wide)):
        last = found.atoms(crystal, k)[-1]
        np.testing.assert_allclose(last.cell.array, start.cell.array, rtol=1e-6)
        np.testing.assert_allclose(last.get_forces(), predictor.predict(last).forces, atol=2e-4)


def test_room_for_neighbours_grows():
    """Two molecules that meet: each has its own pairs at first, then all have all."""
    atoms = WATER + WATER
    atoms.positions[3:] += [6.0, 0, 0]
    predictor = springs(atoms)
    pulled = atoms.copy()
    pulled.positions[3:] -= [4.5, 0, 0]
    settings = Settings(ensemble="nve", kelvin=10.0, timestep_fs=0.1, stride=5, skin=0.1)
    found = simulate(predictor, [atoms, pulled], settings, **LENGTHS)
    assert np.isfinite(found.frames.positions).all()
    expected = predictor.predict(found.atoms(atoms, 1)[-1]).forces
    np.testing.assert_allclose(found.frames.estimate.forces[-1, 1], expected, atol=1e-4)


def test_a_start_with_more_pairs_within_the_cutoff_than_the_first_has_room_too():
    """Two clusters that are apart by a little more than the cutoff in the first start, by less in the second."""
    cluster = ase.build.molecule("CH4").positions
    starts = [
        ase.Atoms("CH4" * 2, np.concatenate([cluster, cluster + np.array([apart, 0, 0])])) for apart in (4.6, 2.6)
    ]
    few, many = (np.sum(each.get_all_distances()[np.triu_indices(10, 1)] < CUTOFF) for each in starts)
    assert few == 20 and many > 1.5 * few
    predictor = springs(starts[1])
    found = simulate(predictor, starts, dataclasses.replace(SETTINGS, skin=3.5), **LENGTHS)
    assert np.isfinite(found.frames.positions).all()
    expected = predictor.predict(found.atoms(starts[1], 1)[-1]).forces
    np.testing.assert_allclose(found.frames.estimate.forces[-1, 1], expected, atol=1e-4)


def test_what_cannot_be_simulated(tmp_path):
    predictor = springs(WATER)
    for change, message in (
        ({"picoseconds": 0.0}, "picoseconds is 0.0; it must be positive"),
        ({"num_replicas": 0}, "num_replicas is 0; it must be at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            simulate(predictor, WATER, SETTINGS, **(LENGTHS | change))
    with pytest.raises(InputError, match="Structure 1 has other atoms than structure 0"):
        simulate(predictor, [WATER, systems.ammonia()], SETTINGS, **LENGTHS)
    (tmp_path / "precious").write_text("")
    with pytest.raises(InputError, match="is not empty and holds no simulation"):
        simulate(predictor, WATER, SETTINGS, **LENGTHS, out=tmp_path)
    with pytest.raises(InputError, match="The bound kelvin is -1"):
        Bounds(kelvin=-1.0)


ON_TWO_DEVICES = """
import jax, numpy as np, systems
from bnn_jax.dynamics import Settings, simulate
from springs import CUTOFF, springs
settings = Settings(ensemble="langevin", kelvin=1000.0, timestep_fs=0.2, stride=5)
found = simulate(springs(systems.water()), systems.water(), settings, picoseconds=0.03, num_replicas=4, progress=False)
print(jax.local_device_count(), *found.frames.positions[-1].ravel().tolist())
"""


def test_replicas_on_two_devices_move_as_on_one():
    settings = Settings(ensemble="langevin", kelvin=1000.0, timestep_fs=0.2, stride=5)
    alone = simulate(springs(WATER), WATER, settings, **(LENGTHS | {"num_replicas": 4}))
    done = subprocess.run(
        [sys.executable, "-c", ON_TWO_DEVICES],
        env=environment() | {"JAX_NUM_CPU_DEVICES": "2", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    number, *positions = (float(word) for word in done.stdout.split())
    assert number == 2
    np.testing.assert_allclose(
        np.reshape(positions, alone.frames.positions[-1].shape), alone.frames.positions[-1], atol=1e-4
    )
