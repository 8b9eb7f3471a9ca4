"""Simulations of jax-md, with each format of its neighbour lists, move atoms by the posterior's forces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import systems
from jax_md import partition, quantity, simulate, space
from posteriors import molecular_posterior, random_posterior

from bnn_jax import InputError
from bnn_jax.compose import energy_fn, jax_md_energy_fn

FORMATS = list(partition.NeighborListFormat)
MOLECULE = systems.ethanol()
MOLECULE.rattle(0.1, seed=3)
CRYSTAL = systems.sodium_chloride() * (2, 2, 2)
CRYSTAL.rattle(0.1, seed=3)
CRYSTAL.set_cell(CRYSTAL.cell.array @ np.array([[1.0, 0, 0], [0.1, 1.0, 0], [0.05, -0.1, 1.0]]), scale_atoms=True)


@pytest.fixture(scope="module")
def crystal():
    return random_posterior(systems.labelled_series(systems.sodium_chloride(), 4)).predictor


def test_the_formats_of_its_lists(crystal):
    expected = crystal.predict(CRYSTAL)
    box = jnp.asarray(CRYSTAL.cell.array.T, jnp.float32)
    displacement, _ = space.periodic_general(box, fractional_coordinates=True)
    energy = jax_md_energy_fn(crystal, CRYSTAL, fractional_coordinates=True)
    fractional = jnp.asarray(CRYSTAL.get_scaled_positions(), jnp.float32)
    plain = energy_fn(crystal, CRYSTAL)(CRYSTAL.positions)
    for kind in FORMATS:
        lists = partition.neighbor_list(
            displacement,
            box,
            4.0,
            dr_threshold=0.3,
            capacity_multiplier=1.5,
            format=kind,
            fractional_coordinates=True,
            disable_cell_list=True,
        )
        neighbor = lists.allocate(fractional)
        assert energy(fractional, neighbor=neighbor) == pytest.approx(float(plain), rel=1e-5)
        forces = jax.jit(quantity.force(energy))(fractional, neighbor=neighbor)
        np.testing.assert_allclose(forces, expected.forces, rtol=1e-4, atol=1e-4)


def test_pressure_is_that_of_the_stress(crystal):
    expected = crystal.predict(CRYSTAL)
    assert expected.stress is not None
    box = jnp.asarray(CRYSTAL.cell.array.T, jnp.float32)
    energy = jax_md_energy_fn(crystal, CRYSTAL, fractional_coordinates=True)
    fractional = jnp.asarray(CRYSTAL.get_scaled_positions(), jnp.float32)
    pressure = quantity.pressure(energy, fractional, box)
    assert pressure == pytest.approx(-np.trace(expected.stress[0]) / 3, rel=1e-4)
    grown = energy(fractional, box=1.01 * box)
    assert energy(fractional, perturbation=1.01) == pytest.approx(float(grown), rel=1e-5)
    assert grown != pytest.approx(float(energy(fractional)), rel=1e-4)


@pytest.mark.usefixtures("x64")
@pytest.mark.filterwarnings("ignore:scatter inputs have incompatible types")  # of jax-md's lists
def test_molecules_conserve_energy():
    predictor = molecular_posterior(MOLECULE).predictor
    displacement, shift = space.free()
    energy = jax_md_energy_fn(predictor, MOLECULE)
    lists = partition.neighbor_list(
        displacement, 20.0, 4.0, 0.5, format=partition.OrderedSparse, disable_cell_list=True
    )
    positions = jnp.asarray(MOLECULE.positions)
    init, apply = simulate.nve(energy, shift, dt=0.01)
    state = init(jax.random.key(0), positions, kT=0.025, mass=jnp.asarray(MOLECULE.get_masses()),
                 neighbor=lists.allocate(positions))  # fmt: skip

    def step(carry, _):
        state, neighbor = carry
        neighbor = neighbor.update(state.position)
        state = apply(state, neighbor=neighbor)
        total = energy(state.position, neighbor=neighbor) + simulate.kinetic_energy(state)
        return (state, neighbor), (total, simulate.kinetic_energy(state))

    _, (totals, kinetic) = jax.jit(lambda *carry: jax.lax.scan(step, carry, length=100))(
        state, lists.allocate(positions)
    )
    assert np.ptp(totals) < 1e-2 * np.ptp(kinetic) and np.ptp(kinetic) > 0.1


def test_what_would_be_wrong_is_nan_or_refused(crystal):
    small = systems.sodium_chloride()
    energy = jax_md_energy_fn(crystal, small)
    assert np.isfinite(energy(small.positions))
    with pytest.raises(InputError, match="narrower than twice the cutoff of 4 Å"):
        energy(small.positions, neighbor=object())
    box = jnp.asarray(CRYSTAL.cell.array.T, jnp.float32)
    displacement, _ = space.periodic_general(box, fractional_coordinates=False)
    lists = partition.neighbor_list(displacement, box, 4.0, 0.0, format=partition.Sparse, capacity_multiplier=1.0,
                                    disable_cell_list=True)  # fmt: skip
    neighbor = lists.allocate(jnp.asarray(CRYSTAL.positions))
    crowded = jnp.asarray(0.8 * CRYSTAL.positions)
    assert np.isnan(jax_md_energy_fn(crystal, CRYSTAL)(crowded, neighbor=neighbor.update(crowded)))
