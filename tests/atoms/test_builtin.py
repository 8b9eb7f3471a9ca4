"""The ammonia set that is shipped with the package."""

import hashlib
import importlib.resources
import json

import numpy as np
import pytest

from bnn_jax.atoms.sources import describe, load
from bnn_jax.units import EV_PER_KCAL_PER_MOL

FOLDER = importlib.resources.files("bnn_jax.atoms.builtin")
PARTS = {"train": 78, "test": 200, "path": 21}


@pytest.fixture(scope="module")
def provenance():
    return json.loads((FOLDER / "ammonia.json").read_text())


@pytest.fixture(params=PARTS)
def dataset(request):
    return load(f"ammonia/{request.param}")


def above_minimum(dataset, provenance):
    """In kcal/mol."""
    return (dataset.energy - provenance["energy_min_ev"]) / EV_PER_KCAL_PER_MOL


@pytest.mark.parametrize(("part", "count"), PARTS.items())
def test_files_are_those_of_the_provenance(part, count, provenance):
    name = f"ammonia_{part}.xyz"
    content = (FOLDER / name).read_bytes()
    assert provenance["files"][name] == {"frames": count, "sha256": hashlib.sha256(content).hexdigest()}
    assert len(load(f"ammonia/{part}")) == describe(f"ammonia/{part}").num_structures == count


def test_short_name_is_the_training_set():
    np.testing.assert_array_equal(load("ammonia").energy, load("ammonia/train").energy)
    assert len(load("ammonia", index=":10")) == 10


def test_set_is_small_enough_to_ship():
    assert sum(len((FOLDER / f"ammonia_{part}.xyz").read_bytes()) for part in PARTS) < 200_000


def test_training_energies_are_even_up_to_5_kcal_per_mol(provenance):
    slices = np.floor(above_minimum(load("ammonia"), provenance) * 78 / 5).astype(int)
    np.testing.assert_array_equal(np.bincount(slices), np.ones(78))


def test_two_test_geometries_in_each_kcal_per_mol(provenance):
    bins = np.floor(above_minimum(load("ammonia/test"), provenance)).astype(int)
    np.testing.assert_array_equal(np.bincount(bins), np.full(100, 2))


def test_no_geometry_occurs_twice():
    distances = []
    for part in ("train", "test"):
        positions = load(f"ammonia/{part}").positions.reshape(-1, 4, 3)
        lengths = np.linalg.norm(positions[:, :, None] - positions[:, None], axis=-1)
        bonds, gaps = np.sort(lengths[:, 0, 1:], axis=1), np.sort(lengths[:, [1, 1, 2], [2, 3, 3]], axis=1)
        distances.append(np.concatenate([bonds, gaps], axis=1))
        assert bonds.min() > 0.75 and bonds.max() < 2.25 and gaps.min() > 0.75
    distances = np.concatenate(distances)
    apart = np.abs(distances[:, None] - distances).max(axis=-1) + np.eye(len(distances))
    assert apart.min() > 1e-3


def test_molecules_feel_no_net_force_or_torque(dataset):
    """Both vanish but for the integration grid, whose part in these labels was measured at under 1e-4."""
    forces = dataset.forces.reshape(-1, 4, 3)
    positions = dataset.positions.reshape(-1, 4, 3)
    centred = positions - positions.mean(axis=1, keepdims=True)
    assert np.abs(forces.sum(axis=1)).max() < 3e-4
    assert np.abs(np.cross(centred, forces).sum(axis=1)).max() < 3e-4


def test_path_is_symmetric_and_peaks_at_the_planar_image(provenance):
    path = load("ammonia/path")
    np.testing.assert_array_equal(path.energy, path.energy[::-1])
    assert np.all(np.diff(path.energy[:11]) > 0)
    assert 1e3 * (path.energy[10] - provenance["energy_min_ev"]) == pytest.approx(
        provenance["inversion_barrier_mev"], abs=0.01
    )
    assert path.energy[0] - provenance["energy_min_ev"] < 1e-5
    positions, forces = path.positions.reshape(-1, 4, 3), path.forces.reshape(-1, 4, 3)
    np.testing.assert_array_equal(positions[::-1] * [1, 1, -1], positions)
    np.testing.assert_array_equal(forces[::-1] * [1, 1, -1], forces)
    assert np.abs(positions[10][:, 2]).max() < 1e-7
    assert np.abs(forces[10]).max() < 3e-4  # a stationary point: N-H relaxed, and no force out of the plane
    assert np.abs(forces[0]).max() < 3e-4


def test_energies_along_the_path_are_the_work_of_the_forces():
    """Simpson's rule over pairs of steps, for units and signs of the forces; its own error here is 1e-5 eV."""
    path = load("ammonia/path")
    positions, forces = path.positions.reshape(-1, 12), path.forces.reshape(-1, 12)
    slopes = np.gradient(positions, axis=0, edge_order=2)
    power = -np.sum(slopes * forces, axis=1)
    work = (power[0:-2:2] + 4 * power[1:-1:2] + power[2::2]) / 3
    np.testing.assert_allclose(work, np.diff(path.energy[::2]), atol=1e-4)


def test_provenance_says_how_it_was_made(provenance):
    assert provenance["level"]["functional"] == "GGA_X_B88,GGA_C_P86VWN"
    assert provenance["level"]["basis"] == "def2-svp"
    assert "--seed" in provenance["command"] and provenance["versions"]["pyscf"]
    comparison = provenance["comparison_with_published"]
    assert comparison["energy_difference_std_mev"] < 0.3 and comparison["forces_rms_mev_per_angstrom"] < 4
