"""SGHMC on a small Bayesian linear regression agrees with the closed-form posterior and with BlackJAX's NUTS."""

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.base import SamplingAlgorithm
from numpy.testing import assert_allclose

from bnn_jax.sampling import diagnostics, sghmc

NUM_DATA, NOISE_STD = 40, 0.5
DESIGN = np.random.default_rng(0).normal(size=(NUM_DATA, 3)) @ np.array(
    [[1.0, 0.8, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 2.0]]
)
TARGETS = DESIGN @ np.array([1.0, -2.0, 0.5]) + NOISE_STD * np.random.default_rng(1).normal(size=NUM_DATA)
COVARIANCE = np.linalg.inv(np.eye(3) + DESIGN.T @ DESIGN / NOISE_STD**2)  # prior N(0, 1)
MEAN = COVARIANCE @ DESIGN.T @ TARGETS / NOISE_STD**2


def log_density(weights):
    """The weights are a pytree, as a network's are."""
    flat = jnp.concatenate([weights["slopes"], weights["last"][None]])
    residual = jnp.asarray(TARGETS, jnp.float32) - jnp.asarray(DESIGN, jnp.float32) @ flat
    return -0.5 * jnp.sum(flat**2) - 0.5 * jnp.sum(residual**2) / NOISE_STD**2


START = {"slopes": jnp.zeros(2), "last": jnp.zeros(())}


def sghmc_algorithm():
    # The mass is the curvature's diagonal, as an adapted one roughly is; eta k is 0.05, a bias of 1.5 % in variance.
    inverse_mass = jnp.asarray(1 / np.diag(np.linalg.inv(COVARIANCE)), jnp.float32)
    algorithm = sghmc.as_top_level_api(
        lambda position, _: jax.grad(log_density)(position),
        data_size=NUM_DATA,
        alpha=0.2,
        inverse_mass={"slopes": inverse_mass[:2], "last": inverse_mass[2]},
    )
    return SamplingAlgorithm(algorithm.init, lambda key, state: algorithm.step(key, state, None, 0.05 * NUM_DATA / 0.2))


def nuts_algorithm():
    return blackjax.nuts(log_density, step_size=0.5, inverse_mass_matrix=jnp.asarray(np.diag(COVARIANCE), jnp.float32))


@pytest.mark.parametrize(
    "algorithm, num_steps", [(sghmc_algorithm(), 10_000), (nuts_algorithm(), 1_000)], ids=["sghmc", "nuts"]
)
def test_posterior_of_linear_regression(algorithm, num_steps):
    def one_chain(rng_key):
        _, positions = blackjax.util.run_inference_algorithm(
            rng_key,
            algorithm,
            num_steps + 500,
            initial_position=START,
            transform=lambda state, _: jnp.concatenate([state.position["slopes"], state.position["last"][None]]),
        )
        return positions[500:]

    draws = jax.jit(jax.vmap(one_chain))(jax.random.split(jax.random.key(2), 8))
    white = (np.asarray(draws, np.float64) - MEAN) @ np.linalg.inv(np.linalg.cholesky(COVARIANCE)).T
    assert (np.asarray(diagnostics.function_space_rhat(draws)) < 1.02).all()
    ess = np.asarray(
        diagnostics.function_space_ess(jnp.asarray(np.concatenate([white, white**2], axis=2), jnp.float32))
    )
    assert ess.min() > 500
    flat = white.reshape(-1, 3)
    assert_allclose(flat.mean(axis=0), 0, atol=5 / np.sqrt(ess[:3].min()))
    assert_allclose(flat.T @ flat / len(flat), np.eye(3), atol=5 * np.sqrt(2 / ess.min()) + 0.02)
