"""The linear potential that judges labels: exact derivatives of one energy, which depends on the structure alone."""

import ase
import numpy as np
import pytest
from systems import ethanol, isolated_atom, random_rotation, rattled, sodium_chloride, triclinic_crystal, water

from bnn_jax.atoms import Dataset
from bnn_jax.atoms.linear import MAX_KINDS, MAX_ORDER, NUM_RADIAL, design

STEP = 1e-5


def energies(*structures: ase.Atoms) -> np.ndarray:
    return design(Dataset.from_atoms(structures)).energy


def many_elements() -> ase.Atoms:
    """More pairs of elements than have functions of their own."""
    atoms = rattled(ethanol(), std=0.1, seed=2)
    atoms.numbers = [6, 7, 8, 9, 14, 15, 16, 17, 1]
    return atoms


@pytest.mark.parametrize("build", [ethanol, many_elements, sodium_chloride, triclinic_crystal])
def test_forces_and_virial_are_derivatives_of_the_energy(build):
    atoms, other = rattled(build(), std=0.1, seed=1), water()  # whose pairs share the elements' functions
    found = design(Dataset.from_atoms([other, atoms]))
    for i in range(min(len(atoms), 3)):
        for axis in range(3):
            moved = [atoms.copy() for _ in range(2)]
            for copy, sign in zip(moved, (1, -1), strict=True):
                copy.positions[i, axis] += sign * STEP
            up, down = (energies(other, copy)[1] for copy in moved)
            np.testing.assert_allclose(found.forces[3 + i, axis], -(up - down) / (2 * STEP), rtol=1e-6, atol=1e-7)
    if atoms.pbc.all():
        for i, j in np.ndindex(3, 3):
            strained = [atoms.copy() for _ in range(2)]
            for copy, sign in zip(strained, (1, -1), strict=True):
                strain = np.eye(3)
                strain[j, i] += sign * STEP
                copy.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            up, down = (energies(other, copy)[1] for copy in strained)
            np.testing.assert_allclose(found.virial[1, j, i], (up - down) / (2 * STEP), rtol=1e-6, atol=1e-6)


def test_energy_does_not_change_with_orientation_order_or_cell():
    molecule, crystal = rattled(ethanol()), rattled(sodium_chloride())
    turned = molecule.copy()
    turned.positions = molecule.positions @ random_rotation(3).T + 7.0
    order = np.random.default_rng(0).permutation(len(molecule))
    first = energies(molecule, turned, molecule[order])
    np.testing.assert_allclose(first, first[[0, 0, 0]], rtol=1e-9, atol=1e-12)
    one, two = energies(crystal, crystal.repeat((2, 1, 1)))
    np.testing.assert_allclose(two, 2 * one, rtol=1e-9, atol=1e-12)


def test_number_of_coefficients_is_bounded():
    per_kind = NUM_RADIAL * (2 + MAX_ORDER)
    assert energies(water()).shape == (1, 2 * per_kind)
    assert energies(many_elements()).shape == (1, MAX_KINDS * per_kind)


def test_atoms_without_neighbours_have_no_energy():
    assert not energies(isolated_atom("N"), isolated_atom("O")).any()
