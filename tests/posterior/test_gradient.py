"""The minibatch estimator: unbiased, and in the sign and scale of BlackJAX's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.sgmcmc import gradients
from scipy import stats

from bnn_jax.atoms import node_structure
from bnn_jax.posterior import log_density_estimator, log_likelihood, normal_log_prior, value_and_grad_estimator
from tests.posterior.labelled import SPECIES, batch_of, packed_data, random_prediction

pytestmark = pytest.mark.usefixtures("x64")

STRESS_STD = 0.02
DATA_SIZE = 6


def weights() -> dict:
    return {
        "energies": jnp.asarray(np.random.default_rng(0).normal(size=len(SPECIES))),
        "log_std": jnp.asarray(0.3),
        "stiffness": jnp.asarray([0.2, -0.4]),
    }


def apply(params, graph):
    """A potential simple enough to check by hand, with a derivative by every weight."""
    num_structures = graph.n_node.shape[0]
    atom_energies = params["energies"][graph.nodes["species"]]
    positions = graph.nodes["positions"]
    return random_prediction(num_structures)._replace(
        energy=jnp.zeros(num_structures).at[node_structure(graph)].add(atom_energies),
        forces=-params["stiffness"][0] * positions,
        stress=params["stiffness"][1] * jnp.broadcast_to(jnp.eye(3), (num_structures, 3, 3)),
        energy_std=jnp.full(num_structures, jnp.exp(params["log_std"])),
        forces_std=jnp.full(len(positions), jnp.exp(params["log_std"])),
    )


ESTIMATE = log_density_estimator(apply, lambda params: normal_log_prior(params, 0.1, 0.7), DATA_SIZE, STRESS_STD)


def assert_trees_close(first, second) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12), first, second)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_mean_over_the_minibatches_of_an_epoch_is_the_full_batch(batch_size: int) -> None:
    value_and_grad = jax.jit(value_and_grad_estimator(ESTIMATE))
    (full, _), full_gradient = value_and_grad(weights(), batch_of(np.arange(DATA_SIZE)))
    order = np.random.default_rng(1).permutation(DATA_SIZE).reshape(-1, batch_size)
    parts = [value_and_grad(weights(), batch_of(indices)) for indices in order]
    np.testing.assert_allclose(np.mean([value for (value, _), _ in parts]), full, rtol=1e-12)
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *[gradient for _, gradient in parts])
    assert_trees_close(mean, full_gradient)
    spread = np.std([value for (value, _), _ in parts])
    assert spread > 1e-3  # else any minibatch would do


def test_parts_say_what_they_are() -> None:
    batch = batch_of(np.arange(DATA_SIZE))
    value, parts = ESTIMATE(weights(), batch)
    prediction = apply(weights(), batch.graph)
    np.testing.assert_allclose(parts.log_prior, normal_log_prior(weights(), 0.1, 0.7))
    np.testing.assert_allclose(parts.log_likelihood, log_likelihood(prediction, batch, STRESS_STD).sum() / DATA_SIZE)
    np.testing.assert_allclose(value, parts.log_prior + DATA_SIZE * parts.log_likelihood)
    known = np.asarray(batch.labels.forces_mask)
    errors = (prediction.forces - batch.labels.forces)[known]
    np.testing.assert_allclose(parts.forces_square_error, np.mean(errors**2))


def test_square_error_of_a_batch_without_forces_is_zero() -> None:
    _, parts = ESTIMATE(weights(), batch_of(np.array([1])))
    assert parts.forces_square_error == 0


def test_gradient_is_the_derivative_of_the_density_itself() -> None:
    """Uphill, of the full-data density: a step along it raises the density by its squared norm."""
    batch = batch_of(np.array([0, 4]))
    (value, _), gradient = value_and_grad_estimator(ESTIMATE)(weights(), batch)
    square = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient))
    step = 1e-9
    moved = jax.tree.map(lambda x, g: x + step * g, weights(), gradient)
    np.testing.assert_allclose((ESTIMATE(moved, batch)[0] - value) / step, square, rtol=1e-4)


def test_sign_and_scale_are_those_of_blackjax() -> None:
    """BlackJAX's own estimator on energies alone, where structures are rows of an array."""
    packed = packed_data()
    known = np.flatnonzero(np.asarray(packed.energy_mask) & ~np.asarray(packed.stress_mask))[:2]
    batch = batch_of(known)
    no_forces = batch._replace(labels=batch.labels._replace(forces_mask=jnp.zeros(32, bool)))
    counts = np.zeros((len(known), len(SPECIES)))
    for row, i in enumerate(known):
        np.add.at(counts[row], packed.species[packed.node_offset[i] : packed.node_offset[i + 1]], 1)

    def log_likelihood_fn(params, datum):
        composition, energy = datum
        return jax.scipy.stats.norm.logpdf(energy, composition @ params["energies"], jnp.exp(params["log_std"]))

    reference = gradients.grad_estimator(
        lambda params: normal_log_prior(params, 0.1, 0.7), log_likelihood_fn, DATA_SIZE
    )
    _, gradient = value_and_grad_estimator(ESTIMATE)(weights(), no_forces)
    assert_trees_close(gradient, reference(weights(), (jnp.asarray(counts), jnp.asarray(packed.energy[known]))))


def test_value_equals_scipy_on_one_structure() -> None:
    value, _ = ESTIMATE(weights(), batch_of(np.array([1])))  # ammonia with an energy only
    packed = packed_data()
    mean = 3 * weights()["energies"][0] + weights()["energies"][1]
    density = stats.norm.logpdf(packed.energy[1], mean, np.exp(weights()["log_std"]))
    np.testing.assert_allclose(value, DATA_SIZE * density + normal_log_prior(weights(), 0.1, 0.7), rtol=1e-12)
