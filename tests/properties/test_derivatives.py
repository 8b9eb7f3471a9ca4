"""Promise 1: forces and stress are the derivatives of the energy."""

import ase
import numpy as np
import pytest

from tests import systems
from tests.properties.networks import each_variant, evaluate, network

pytestmark = pytest.mark.usefixtures("x64")

STEP = 1e-4


def structures() -> list[ase.Atoms]:
    return [systems.rattled(systems.water()), systems.rattled(systems.triclinic_crystal())]


def displaced(atoms: ase.Atoms, atom: int, axis: int, step: float) -> ase.Atoms:
    copy = atoms.copy()
    copy.positions[atom, axis] += step
    return copy


def strained(atoms: ase.Atoms, row: int, column: int, step: float) -> ase.Atoms:
    copy = atoms.copy()
    deformation = np.eye(3)
    deformation[row, column] += step
    copy.set_cell(atoms.cell.array @ deformation.T, scale_atoms=True)
    return copy


def central_differences(net, pairs: list[tuple[ase.Atoms, ase.Atoms]]) -> np.ndarray:
    energies = [result.energy for result in evaluate(net, [atoms for pair in pairs for atoms in pair])]
    return (np.array(energies[::2]) - np.array(energies[1::2])) / (2 * STEP)


@each_variant
def test_forces_are_minus_the_gradient_of_the_energy(variant: str) -> None:
    net = network(variant)
    for atoms, result in zip(structures(), evaluate(net, structures()), strict=True):
        coordinates = np.ndindex(len(atoms), 3)
        pairs = [tuple(displaced(atoms, *each, step) for step in (STEP, -STEP)) for each in coordinates]
        gradient = central_differences(net, pairs).reshape(-1, 3)
        # The error of a central difference is STEP^2 / 6 times a third derivative, of order forces / Angstrom^2 x 10.
        np.testing.assert_allclose(result.forces, -gradient, atol=1e-5 * np.abs(gradient).max())


@each_variant
def test_stress_is_the_strain_derivative_of_the_energy_over_the_volume(variant: str) -> None:
    net = network(variant)
    crystal = structures()[1]
    pairs = [tuple(strained(crystal, *each, step) for step in (STEP, -STEP)) for each in np.ndindex(3, 3)]
    stress = central_differences(net, pairs).reshape(3, 3) / crystal.get_volume()
    result = evaluate(net, [crystal])[0].stress
    np.testing.assert_allclose(result, stress, atol=1e-5 * np.abs(stress).max())
    np.testing.assert_array_equal(result, result.T)


@each_variant
def test_no_net_force_and_no_torque(variant: str) -> None:
    molecule, crystal = evaluate(network(variant), structures())
    for result in (molecule, crystal):
        np.testing.assert_allclose(result.forces.sum(axis=0), 0, atol=1e-11)
    np.testing.assert_allclose(np.cross(structures()[0].positions, molecule.forces).sum(axis=0), 0, atol=1e-11)
