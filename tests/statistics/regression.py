"""A small Bayesian linear regression with its posterior in closed form, and the comparison of draws with it."""

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from blackjax.base import SamplingAlgorithm
from numpy.testing import assert_allclose

from bnn_jax.sampling import diagnostics, sghmc

NUM_DATA, NOISE_STD = 40, 0.5
DESIGN = np.random.default_rng(0).normal(size=(NUM_DATA, 3)) @ np.array(
    [[1.0, 0.8, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 2.0]]
)
TARGETS = DESIGN @ np.array([1.0, -2.0, 0.5]) + NOISE_STD * np.random.default_rng(1).normal(size=NUM_DATA)
PRECISION = np.eye(3) + DESIGN.T @ DESIGN / NOISE_STD**2  # prior N(0, 1)
COVARIANCE = np.linalg.inv(PRECISION)
MEAN = COVARIANCE @ DESIGN.T @ TARGETS / NOISE_STD**2

START = {"slopes": jnp.zeros(2), "last": jnp.zeros(())}
"""The weights are a pytree, as a network's are."""


def flat(weights):
    return jnp.concatenate([weights["slopes"], weights["last"][None]])


def log_density(weights):
    residual = jnp.asarray(TARGETS, jnp.float32) - jnp.asarray(DESIGN, jnp.float32) @ flat(weights)
    return -0.5 * jnp.sum(flat(weights) ** 2) - 0.5 * jnp.sum(residual**2) / NOISE_STD**2


def sghmc_algorithm(temperature=1.0):
    # The mass is the curvature's diagonal, as an adapted one roughly is; eta k is 0.05, a bias of 1.5 % in variance.
    alpha, inverse_mass = 0.2, jnp.asarray(1 / np.diag(PRECISION), jnp.float32)
    algorithm = sghmc.as_top_level_api(
        lambda position, _: jax.grad(log_density)(position),
        data_size=NUM_DATA,
        alpha=alpha,
        inverse_mass={"slopes": inverse_mass[:2], "last": inverse_mass[2]},
    )
    step_size = 0.05 * NUM_DATA / alpha
    return SamplingAlgorithm(
        algorithm.init, lambda key, state: algorithm.step(key, state, None, step_size, temperature)
    )


def draw(algorithm, num_steps, num_chains, every=1, position_of=lambda state: state.position):
    """Weights after each step, or each so many, but the first 500: float32 [chain, step, 3]."""

    def one_chain(rng_key):
        _, positions = blackjax.util.run_inference_algorithm(
            rng_key,
            algorithm,
            num_steps + 500,
            initial_position=START,
            transform=lambda state, _: flat(position_of(state)),
        )
        return positions[500::every]

    return jax.jit(jax.vmap(one_chain))(jax.random.split(jax.random.key(2), num_chains))


def assert_mixed(draws, least_ess=500):
    """Chains agree and hold enough draws to tell; says nothing of whether their law is the posterior."""
    assert (np.asarray(diagnostics.function_space_rhat(draws)) < 1.02).all()
    assert effective_sizes(draws).min() > least_ess


def whitened(draws):
    return (np.asarray(draws, np.float64) - MEAN) @ np.linalg.inv(np.linalg.cholesky(COVARIANCE)).T


def effective_sizes(draws):
    """Of the whitened coordinates and their squares: [6]."""
    white = whitened(draws)
    quantities = jnp.asarray(np.concatenate([white, white**2], axis=2), jnp.float32)
    return np.asarray(diagnostics.function_space_ess(quantities))


def assert_posterior(draws):
    """Mean and covariance are the posterior's within five Monte Carlo errors and two per cent."""
    white, sizes = whitened(draws).reshape(-1, 3), effective_sizes(draws)
    assert_allclose(white.mean(axis=0), 0, atol=5 / np.sqrt(sizes[:3].min()))
    assert_allclose(white.T @ white / len(white), np.eye(3), atol=5 * np.sqrt(2 / sizes.min()) + 0.02)
