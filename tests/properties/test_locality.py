"""Promise 1: smooth at the cutoff; isolated atoms keep their shift; fragments far apart add up."""

import ase
import numpy as np
import pytest

from tests import systems
from tests.properties.networks import CUTOFF, assert_close, each_variant, evaluate, network

pytestmark = pytest.mark.usefixtures("x64")


def carbon_near(distance: float) -> ase.Atoms:
    """A carbon that only the oxygen of a water molecule can see, ``distance`` away on the side without hydrogens."""
    molecule = systems.water()
    return molecule + ase.Atoms("C", [molecule.positions[0] + [0, 0, distance]])


def separated() -> ase.Atoms:
    return carbon_near(100.0)


@each_variant
def test_smooth_at_the_cutoff(variant: str) -> None:
    """Value, force and second derivative are continuous.

    What an atom adds goes as the fourth power of its distance to the cutoff: three of the envelope, one of the Bessel
    functions.
    """
    net = network(variant)
    gaps = np.array([4e-2, 2e-2, 1e-2])
    apart, *near = evaluate(net, [separated(), *(carbon_near(CUTOFF - gap) for gap in gaps)])
    energies = np.array([result.energy - apart.energy for result in near])
    forces = np.array([result.forces[3, 2] for result in near])
    stds = np.array([result.energy_std - apart.energy_std for result in near])
    assert abs(near[0].forces[3, 2]) > 0
    # The next power adds some gap / cutoff, a few per cent; another exponent would be off by a factor of four.
    for values, power in ((energies, 4), (forces, 3), (stds, 4)):
        np.testing.assert_allclose(values / gaps**power, (values / gaps**power)[-1], rtol=0.3)


@each_variant
def test_nothing_is_felt_beyond_the_cutoff(variant: str) -> None:
    apart, inside, *outside = evaluate(
        network(variant),
        [separated(), carbon_near(0.5 * CUTOFF), *(carbon_near(CUTOFF * factor) for factor in (1.0, 1 + 1e-9, 1.1))],
    )
    assert np.abs(inside.forces[3]).max() > 1e-3
    assert abs(inside.energy - apart.energy) > 1e-3
    for result in outside:
        # The centroid, about which positions are rounded, moves with the far atom.
        assert_close(result, apart, atol=1e-13, rtol=1e-13)


@each_variant
def test_an_isolated_atom_has_zero_energy_above_its_shift(variant: str) -> None:
    boxed = systems.isolated_atom("Si")
    boxed.set_cell(np.eye(3) * (CUTOFF + 0.1))
    boxed.pbc = True
    atoms = [systems.isolated_atom(symbol) for symbol in ("H", "C", "O", "Br")]
    for result in evaluate(network(variant), [*atoms, boxed]):
        assert result.energy == 0  # not merely close
        np.testing.assert_array_equal(result.forces, 0)
        assert np.isfinite(result.energy_std) and result.energy_std > 0


@each_variant
def test_far_fragments_add_up(variant: str) -> None:
    """NequIP's own test of large separation: additivity, and each fragment moves as a rigid body for free."""
    water, ammonia, both, turned = systems.water(), systems.ammonia(), systems.far_fragments(), systems.far_fragments()
    turned.positions[3:] += [3.0, -7.0, 4.0]
    first, second, together, after = evaluate(network(variant), [water, ammonia, both, turned])
    assert abs(first.energy) > 1e-3
    np.testing.assert_allclose(together.energy, first.energy + second.energy, rtol=1e-11)
    np.testing.assert_allclose(together.energy_std, np.hypot(first.energy_std, second.energy_std), rtol=1e-11)
    np.testing.assert_allclose(together.forces, np.concatenate([first.forces, second.forces]), atol=1e-11)
    assert_close(after, together, atol=1e-12 * max(10, np.abs(together.forces).max()))


@each_variant
def test_structures_of_a_batch_do_not_feel_one_another(variant: str) -> None:
    """NequIP's cross-frame gradient: no change of one structure reaches the others, to the last bit."""
    crystal = systems.rattled(systems.triclinic_crystal())
    first = evaluate(network(variant), [systems.water(), systems.ammonia(), crystal])
    second = evaluate(network(variant), [systems.water(), systems.rattled(systems.ammonia(), 0.2), crystal])
    assert first[1].energy != second[1].energy
    for index in (0, 2):
        assert_close(second[index], first[index], atol=0, rtol=0)
