"""Properties of springs, whose values are known in closed form for every stiffness."""

import ase.build
import ase.units
import numpy as np
import pytest
from ase.constraints import FixAtoms, FixedPlane
from springs import CUTOFF, springs

from bnn_jax import BNNCalculator, InputError
from bnn_jax.properties import (
    barrier,
    cold_curve,
    elastic_constants,
    equation_of_state,
    frequencies,
    phonons,
    relax,
)
from bnn_jax.properties.elastic import stiffness
from bnn_jax.units import GPA_PER_EV_PER_ANGSTROM3

STIFFNESS = np.array([10.0, 20.0, 60.0])
SOLID = {"stiffness": tuple(STIFFNESS), "cutoff": 1.3}  # of nearest neighbours alone
QUIET = {"progress": False}


def fcc(number: str = "Ar", factor: float = 1.0):
    """Whose nearest neighbours are at the springs' length."""
    return ase.build.bulk(number, "fcc", a=factor * 2**0.5)


def curvature(cutoff: float):
    """Of a spring at its length."""
    return STIFFNESS * (1 - 1 / cutoff) ** 2


def test_frequency_of_two_atoms():
    atoms = ase.Atoms("CO", [[0, 0, 0], [0.6, 0.5, 0.7]])
    found = frequencies(springs(atoms, tuple(STIFFNESS)), atoms, max_force=1e-3, **QUIET)
    masses = atoms.get_masses()
    angular = np.sqrt(curvature(CUTOFF) * masses.sum() / masses.prod() * ase.units._e / ase.units._amu) * 1e10
    assert found.draws.shape == (3, 1)  # of a linear molecule
    np.testing.assert_allclose(found.draws[:, 0], angular / (2e2 * np.pi * ase.units._c), rtol=2e-3)


def test_modes_of_three_atoms():
    """An equilateral triangle: a breathing mode of sqrt(3 k / m), and two of sqrt(3 k / 2 m)."""
    atoms = ase.Atoms("Ar3", [[0, 0, 0], [1.02, 0, 0], [0.5, 0.85, 0.01]])
    found = frequencies(springs(atoms, tuple(STIFFNESS)), atoms, max_force=1e-4, **QUIET)
    unit = np.sqrt(curvature(CUTOFF) / atoms.get_masses()[0] * ase.units._e / ase.units._amu) * 1e10
    expected = np.sqrt([1.5, 1.5, 3.0]) * (unit / (2e2 * np.pi * ase.units._c))[:, None]
    np.testing.assert_allclose(found.draws, expected, rtol=2e-3)
    with pytest.raises(InputError, match="A periodic structure has phonons"):
        frequencies(springs(fcc()), fcc())


def test_elastic_constants_of_central_forces():
    """Nearest neighbours of an fcc crystal of side a: C11 = 2 k / a, C12 = C44 = k / a."""
    found = elastic_constants(springs(fcc(), **SOLID), fcc(factor=1.01), max_force=1e-3, **QUIET)
    unit = curvature(SOLID["cutoff"]) / 2**0.5 * GPA_PER_EV_PER_ANGSTROM3
    expected = np.diag([2.0, 2, 2, 1, 1, 1])
    expected[:3, :3] += 1 - np.eye(3)
    np.testing.assert_allclose(found.draws, unit[:, None, None] * expected, atol=0.01 * unit.min(), rtol=0.01)
    with pytest.raises(InputError, match="Elastic constants are of crystals"):
        elastic_constants(springs(fcc()), ase.Atoms("Ar"))


@pytest.mark.usefixtures("x64")
def test_atoms_follow_a_strain():
    """Stresses of a crystal strained a little, its atoms relaxed again: two kinds of places without symmetry."""
    crystal = ase.Atoms(
        "Ar2", [[0, 0, 0], [0.55, 0.5, 0.62]], cell=[[1.1, 0, 0], [0.1, 1.15, 0], [0, 0.2, 1.2]], pbc=True
    )
    predictor = springs(crystal, (20.0,), cutoff=1.6)
    found = elastic_constants(predictor, crystal, max_force=1e-6, **QUIET).mean
    rest = relax(crystal, BNNCalculator(predictor), 1e-6, cell=True)
    step, columns = 1e-4, []
    for number, (i, j) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
        stresses = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[i, j] += sign * step / 2
            strain[j, i] += sign * step / 2
            moved = rest.copy()
            moved.set_cell(rest.cell.array @ (np.eye(3) + strain), scale_atoms=True)
            stresses.append(relax(moved, BNNCalculator(predictor), 1e-7).get_stress())
        columns.append((stresses[0] - stresses[1]) / (2 * step) * GPA_PER_EV_PER_ANGSTROM3)
        assert number == len(columns) - 1
    np.testing.assert_allclose(found, np.array(columns).T, rtol=2e-3, atol=2e-3 * np.abs(found).max())
    clamped = stiffness(np.eye(12), 1.0)  # without coupling nothing follows
    np.testing.assert_allclose(clamped, np.eye(6) * GPA_PER_EV_PER_ANGSTROM3)


def test_cold_curve_and_its_minimum():
    """V0 = a^3 / 4 and B = (C11 + 2 C12) / 3 of the same crystal."""
    crystal = fcc(factor=1.003)
    volumes = 2**1.5 / 4 * np.linspace(0.985, 1.015, 9)
    curve = cold_curve(springs(crystal, **SOLID), crystal, volumes, **QUIET)
    lengths = np.cbrt(volumes / (2**1.5 / 4))
    expected = 6 * STIFFNESS[:, None] / 2 * ((lengths - 1) * (1 - lengths / 1.3)) ** 2
    shift = curve.energy.draws - expected
    np.testing.assert_allclose(shift, shift[0, 0], atol=2e-6)
    found = equation_of_state(curve)
    np.testing.assert_allclose(found.volume.draws, 2**1.5 / 4, rtol=1e-3)
    modulus = 4 / 3 * curvature(1.3) / 2**0.5 * GPA_PER_EV_PER_ANGSTROM3
    np.testing.assert_allclose(found.bulk_modulus.draws, modulus, rtol=0.02)
    relaxed = cold_curve(springs(crystal, **SOLID), crystal, volumes, relax_atoms=True, **QUIET)
    np.testing.assert_allclose(relaxed.energy.draws, curve.energy.draws, atol=2e-6)
    with pytest.raises(InputError, match=r"curves of samples \[0, 1, 2\] have no minimum between"):
        equation_of_state(cold_curve(springs(crystal, **SOLID), crystal, volumes + 0.05, **QUIET))
    with pytest.raises(InputError, match="volumes must be positive"):
        cold_curve(springs(crystal), crystal, np.array([-1.0, 1.0]))
    with pytest.raises(InputError, match="A cold curve is of crystals"):
        cold_curve(springs(crystal), ase.Atoms("Ar"))


def test_phonons_of_central_forces():
    """At X of an fcc crystal of nearest neighbours: 8 k / m along the wave vector, 4 k / m across it."""
    pytest.importorskip("phonopy")
    crystal = fcc()
    found = phonons(springs(crystal, **SOLID), crystal, (4, 4, 4), path="GX", num_points=21)
    unit = np.sqrt(curvature(1.3) / crystal.get_masses()[0] * ase.units._e / ase.units._amu) * 1e10 / (2e12 * np.pi)
    at_x = np.sqrt([4.0, 4.0, 8.0]) * unit[:, None]
    np.testing.assert_allclose(found.frequencies.draws[:, -1], at_x, rtol=2e-3)
    np.testing.assert_allclose(found.frequencies.draws[:, 0], 0, atol=0.01 * unit.min())
    np.testing.assert_allclose(found.frequencies.draws[:, 10], at_x * np.sin(np.pi / 4), rtol=2e-3)
    assert [name for _, name in found.labels] == ["G", "X"] and found.frequencies.std.shape == (21, 3)
    with pytest.raises(InputError, match="Phonons are of crystals"):
        phonons(springs(crystal), ase.Atoms("Ar"))


@pytest.mark.parametrize("each", [False, True])
def test_barrier_between_two_that_are_fixed(each):
    """In a plane an atom at two fixed ones slips from one side of them to the other, through the middle of both."""
    apart, constraints = 1.2, [FixAtoms([0, 1]), FixedPlane(2, (0, 0, 1))]
    start = ase.Atoms("Ar2Ne", [[0, 0, 0], [apart, 0, 0], [0.6, 0.78, 0]], constraint=constraints)
    end = start.copy()
    end.positions[2] = [0.63, -0.8, 0.0]
    found = barrier(springs(start, tuple(STIFFNESS)), start, end, 5, max_force=5e-3, each=each, **QUIET)
    half = apart / 2
    expected = STIFFNESS * ((half - 1) * (1 - half / CUTOFF)) ** 2
    np.testing.assert_allclose(found.forward.draws, expected, rtol=5e-3)
    np.testing.assert_allclose(found.reverse.draws, expected, rtol=5e-3)
    assert len(found.images) == 7 and found.distances[-1] == pytest.approx(1.6, rel=0.05)
    np.testing.assert_allclose(found.energies.draws[:, 0], 0)
    np.testing.assert_allclose(found.energies.draws.max(axis=1), expected, rtol=5e-3)


def test_paths_that_are_none():
    water = ase.Atoms("OHH", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    with pytest.raises(InputError, match="The ends of the path have other atoms"):
        barrier(springs(water), water, water[[1, 0, 2]])
    with pytest.raises(InputError, match="num_images is 0"):
        barrier(springs(water), water, water, 0)
    with pytest.raises(InputError, match="Both ends relax to one structure"):
        barrier(springs(water), water, water, **QUIET)
