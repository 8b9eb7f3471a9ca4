"""Functions of positions give what the posterior predicts, in every combination of JAX's transformations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import systems
from posteriors import molecular_posterior, random_posterior

import bnn_jax
from bnn_jax import InputError, load_exported
from bnn_jax.atoms import pack
from bnn_jax.atoms.environments import environments
from bnn_jax.compose import energy_fn, forces_fn, neighbor_fn, predict_fn
from bnn_jax.validated import EnvironmentRange, ValidatedRange

CRYSTAL, MOLECULE = systems.triclinic_crystal(), systems.ethanol()
CRYSTAL.rattle(0.1, seed=2)
MOLECULE.rattle(0.1, seed=2)


def case_of(atoms):
    posterior = random_posterior(systems.labelled_series(atoms, 4))
    return posterior.predictor, atoms, posterior.predict(atoms)


@pytest.fixture(scope="module", params=["molecule", "crystal"])
def case(request):
    return case_of({"molecule": MOLECULE, "crystal": CRYSTAL}[request.param])


@pytest.fixture(scope="module")
def crystal():
    return case_of(CRYSTAL)


def shift_of(predictor, atoms) -> float:
    species, shifts = predictor.statistics.species, predictor.statistics.shifts
    return float(shifts[np.searchsorted(species, atoms.numbers)].sum())


def test_they_are_what_the_posterior_predicts(case):
    predictor, atoms, expected = case
    found = jax.jit(predict_fn(predictor, atoms))(atoms.positions)
    assert found.energy == pytest.approx(expected.energy[0] - shift_of(predictor, atoms), rel=1e-5, abs=1e-5)
    assert found.energy_std == pytest.approx(expected.energy_std[0], rel=1e-5)
    np.testing.assert_allclose(found.forces, expected.forces, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.forces_std, expected.forces_std, rtol=1e-4, atol=1e-5)
    if atoms.pbc.any():
        np.testing.assert_allclose(found.stress, expected.stress[0], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.stress_std, expected.stress_std_epistemic[0], rtol=1e-4, atol=1e-6)
    else:
        assert found.stress is None and found.stress_std is None


@pytest.mark.parametrize("atoms", [MOLECULE, CRYSTAL], ids=["molecule", "crystal"])
def test_what_is_beyond_the_validated_range(atoms):
    """The same atoms as on the host, by their stds and by their neighbours, whatever skin the edges have."""
    posterior = random_posterior(labelled := systems.labelled_series(atoms, 6))
    data = bnn_jax.Dataset.from_atoms(labelled)
    packed = pack(data, posterior.predictor.cutoff, posterior.statistics.species, posterior.statistics.shifts)
    around = environments(packed, posterior.predictor.cutoff, len(posterior.statistics.species))
    is_labelled = np.ones(len(data.numbers), bool)
    found = [ValidatedRange.of(posterior.predict(data), data.numbers, is_labelled, EnvironmentRange.of([around]))]
    found.append(found[0]._replace(environments=None))
    search = neighbor_fn(posterior.predictor, atoms, skin=0.6, headroom=1.0)
    shares = []
    for validated in found:
        predictor = dataclasses.replace(posterior.predictor, validated=validated)
        estimate = jax.jit(predict_fn(predictor, atoms, headroom=1.0))
        for noise in 0.0, 0.1, 0.2, 0.4:
            moved = atoms.copy()
            moved.positions += noise * np.random.default_rng(1).normal(size=moved.positions.shape)
            expected = predictor.predict(moved).beyond_validated
            place = moved.positions, moved.cell.array
            assert expected is not None
            np.testing.assert_array_equal(estimate(place[0]).beyond_validated, expected)
            edges = search.find(*(jnp.asarray(each, jnp.float32) for each in place))
            np.testing.assert_array_equal(estimate(*place, edges).beyond_validated, expected)
            shares.append(expected.mean())
    assert min(shares) < 0.3 and max(shares) > 0.5  # both answers are given


@pytest.mark.usefixtures("x64")
def test_forces_and_stress_are_gradients_in_the_precision_of_the_positions(case):
    predictor, atoms, _ = case
    energy, forces = energy_fn(predictor, atoms), forces_fn(predictor, atoms)
    positions, cell = jnp.asarray(atoms.positions), jnp.asarray(atoms.cell.array)
    assert energy(positions).dtype == jnp.float64
    np.testing.assert_allclose(-jax.grad(energy)(positions), forces(positions), rtol=1e-9, atol=1e-12)
    if not atoms.pbc.any():
        return
    strained = lambda strain: energy(positions @ (jnp.eye(3) + strain), cell @ (jnp.eye(3) + strain))  # noqa: E731
    stress = predict_fn(predictor, atoms)(positions).stress
    np.testing.assert_allclose(
        jax.grad(strained)(jnp.zeros((3, 3))) / atoms.get_volume(), stress, rtol=1e-8, atol=1e-12
    )


def test_one_sample_all_and_their_mean(crystal):
    predictor, atoms, expected = crystal
    every = forces_fn(predictor, atoms, "all")(atoms.positions)
    np.testing.assert_allclose(every, expected.forces_samples, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(forces_fn(predictor, atoms, 1)(atoms.positions), every[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(energy_fn(predictor, atoms, "all")(atoms.positions).mean(),
                               energy_fn(predictor, atoms)(atoms.positions), rtol=1e-5)  # fmt: skip
    with pytest.raises(InputError, match="There is no sample 3; there are 3, counted from 0"):
        forces_fn(predictor, atoms, 3)
    with pytest.raises(InputError, match="samples is 'median'; give 'mean', 'all'"):
        forces_fn(predictor, atoms, "median")


def test_edges_of_a_skin_change_nothing(crystal):
    predictor, atoms, _ = crystal
    search = neighbor_fn(predictor, atoms, skin=0.6)
    forces = jax.jit(forces_fn(predictor, atoms))
    cell = np.where(atoms.pbc.any(), atoms.cell.array, 0)
    edges = search.find(atoms.positions, cell)
    moved = atoms.positions + np.random.default_rng(0).normal(scale=0.05, size=atoms.positions.shape)
    assert not search.is_stale(moved, cell, edges)
    np.testing.assert_allclose(forces(moved, None, edges), forces(moved), rtol=1e-4, atol=1e-5)


def test_they_go_through_vmap_and_scan(crystal):
    predictor, atoms, _ = crystal
    forces = forces_fn(predictor, atoms)
    many = atoms.positions + 0.02 * np.random.default_rng(0).normal(size=(3, *atoms.positions.shape))
    compiled = jax.jit(forces)
    one_by_one = np.stack([compiled(each) for each in many])
    np.testing.assert_allclose(jax.vmap(forces)(many), one_by_one, rtol=1e-4, atol=1e-5)
    _, scanned = jax.lax.scan(lambda carry, each: (carry, forces(each)), 0, many.astype(np.float32))
    np.testing.assert_allclose(scanned, one_by_one, rtol=1e-4, atol=1e-5)


def test_an_exported_file_has_them_too(tmp_path):
    posterior = molecular_posterior(MOLECULE)
    predictor = load_exported(posterior.export(tmp_path / "file", platforms=["cpu"]))
    found = jax.jit(predict_fn(predictor, MOLECULE))(MOLECULE.positions)
    np.testing.assert_allclose(found.forces, posterior.predict(MOLECULE).forces, rtol=1e-4, atol=1e-5)


def test_what_no_function_can_be_made_for():
    predictor = molecular_posterior(MOLECULE).predictor
    with pytest.raises(InputError, match="2 structures were given; a function is made for one"):
        forces_fn(predictor, [MOLECULE, MOLECULE])
    with pytest.raises(InputError, match="holds N, which the potential does not know"):
        forces_fn(predictor, systems.ammonia())
