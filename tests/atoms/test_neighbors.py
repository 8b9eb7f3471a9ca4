import ase
import numpy as np
import pytest
from ase.neighborlist import neighbor_list as ase_neighbor_list

from bnn_jax.atoms import neighbor_list


def edges(receivers, senders, shifts):
    return sorted(zip(receivers.tolist(), senders.tolist(), *shifts.T.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(60))
def test_neighbor_list_equals_that_of_ase(seed):
    """Triclinic cells of any handedness, some smaller than the cutoff, partly periodic, atoms far outside."""
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(1.5, 6.0, 3)) + rng.normal(scale=0.5, size=(3, 3))
    cell *= rng.choice([-1.0, 1.0])
    pbc = rng.random(3) < 0.6
    positions = rng.uniform(-1.2, 2.0, (rng.integers(1, 12), 3)) @ cell
    cutoff = rng.uniform(1.0, 5.0)
    atoms = ase.Atoms("H" * len(positions), positions=positions, cell=cell, pbc=pbc)

    senders, receivers, shifts = neighbor_list(positions, cell, pbc, cutoff)

    assert edges(receivers, senders, shifts) == edges(*ase_neighbor_list("ijS", atoms, cutoff))
    for ours, reverse in ((senders, receivers), (receivers, senders), (shifts, -shifts)):
        np.testing.assert_array_equal(ours[1::2], reverse[::2])
    vectors = positions[senders] + shifts @ cell - positions[receivers]
    assert (np.linalg.norm(vectors, axis=1) < cutoff).all()
    assert senders.dtype == receivers.dtype == shifts.dtype == np.int32


def test_edges_of_one_atom_are_its_images():
    senders, receivers, shifts = neighbor_list(np.zeros((1, 3)), np.eye(3) * 2.0, np.ones(3, bool), 2.5)
    assert len(senders) == 6
    assert not senders.any() and not receivers.any()
    assert (np.abs(shifts).sum(axis=1) == 1).all()


def test_a_slab_needs_no_third_cell_vector():
    cell = np.diag([3.0, 3.0, 0.0])
    senders, _, shifts = neighbor_list(np.zeros((1, 3)), cell, np.array([True, True, False]), 3.5)
    assert len(senders) == 4
    assert not shifts[:, 2].any()


def test_neighbor_list_is_the_same_in_every_run():
    positions = np.random.default_rng(0).uniform(0, 8, (100, 3))
    first, second = (neighbor_list(positions, np.eye(3) * 8, np.ones(3, bool), 4.0) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
