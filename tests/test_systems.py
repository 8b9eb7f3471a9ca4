"""The test systems are what their names say; in particular the labels are derivatives of one another."""

import numpy as np
import pytest

from tests import systems


def test_labelled_forces_are_minus_the_gradient_of_the_energy():
    atoms = systems.rattled(systems.ethanol())
    forces, step = systems.labelled(atoms).get_forces(), 1e-5
    for atom, axis in [(0, 0), (3, 1), (8, 2)]:
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            energies.append(systems.labelled(moved).get_potential_energy())
        # Central difference of a smooth energy of order 10 eV: error step^2 + 1e-15 * 10 / step.
        assert forces[atom, axis] == pytest.approx(-(energies[0] - energies[1]) / (2 * step), abs=1e-7)


def test_rotation_keeps_distances_and_the_chiral_molecule_is_chiral():
    atoms = systems.chiral_molecule()
    turned = systems.rotated(atoms, systems.random_rotation(1))
    np.testing.assert_allclose(turned.get_all_distances(), atoms.get_all_distances(), atol=1e-12)
    handedness = [np.linalg.det(x.positions[1:4] - x.positions[0]) for x in (atoms, turned)]
    mirrored = systems.rotated(atoms, -np.eye(3))
    assert handedness[0] == pytest.approx(handedness[1])
    assert np.linalg.det(mirrored.positions[1:4] - mirrored.positions[0]) == pytest.approx(-handedness[0])


def test_systems_are_fresh_and_a_series_varies():
    systems.water().positions[:] = 0.0
    assert np.ptp(systems.water().positions) > 0.5
    first, second = systems.labelled_series(systems.water(), 2)
    assert np.abs(first.positions - second.positions).max() > 1e-3
    assert all(atoms.cell.rank == 3 and atoms.pbc.all() for atoms in systems.crystals())
    assert not any(atoms.pbc.any() for atoms in systems.molecules())
