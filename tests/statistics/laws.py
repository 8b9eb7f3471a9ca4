"""Samplers on normal targets: the exact law of the discrete chain, many parallel chains, and their comparison.

With x = (theta - mu, v) and a potential (theta - mu) P (theta - mu) / 2 the kernel is linear, x <- A x + noise, so
that its law is normal and known: after any number of steps by iterating mean and covariance, at stationarity by the
discrete Lyapunov equation C = A C A^T + Q. Many parallel chains are compared with that law, not with the target, so
that only Monte Carlo error separates the two.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.stats
from numpy.testing import assert_allclose

from bnn_jax.sampling import sghmc

DATA_SIZE = 20
NUM_CHAINS = 4_000
NUM_SIGMA = 5  # two-sided chance 6e-7 for each of the few hundred numbers compared here


class Target(NamedTuple):
    mean: np.ndarray
    precision: np.ndarray


def rotated_target(eigenvalues):
    rotation = scipy.stats.ortho_group.rvs(len(eigenvalues), random_state=3)
    return Target(np.arange(1.0, 1.0 + len(eigenvalues)), rotation @ np.diag(eigenvalues) @ rotation.T)


ROUND = rotated_target(np.array([1.0, 2.0, 4.0]))
ILL_CONDITIONED = Target(np.array([1.0, -2.0, 3.0]), np.diag([1e-2, 1.0, 1e2]))


def linear_chain(target, alpha, step_size, inverse_mass, temperature, gradient_covariance=0.0):
    """A and Q of the kernel's recursion, from its defining equations."""
    dimension = len(target.mean)
    eye, scale = np.eye(dimension), np.diag(step_size * inverse_mass)
    v_of_x = np.hstack([-alpha * target.precision / DATA_SIZE, (1 - alpha) * eye])
    transition = np.vstack([np.hstack([eye, 0 * eye]) + scale @ v_of_x, v_of_x])
    noise = np.diag(2 * temperature / (DATA_SIZE * step_size * inverse_mass)) + gradient_covariance / DATA_SIZE**2 * eye
    into = np.vstack([scale, eye])
    return transition, alpha**2 * into @ noise @ into.T


def stationary_covariance(target, alpha, step_size, inverse_mass, temperature, gradient_covariance=0.0):
    """Solved in units of the target's and the momenta's widths: else an ill-conditioned target loses all digits."""
    transition, noise = linear_chain(target, alpha, step_size, inverse_mass, temperature, gradient_covariance)
    momentum = 2 * alpha * temperature / ((2 - alpha) * DATA_SIZE * step_size * inverse_mass)
    units = np.sqrt(np.r_[temperature / np.diag(target.precision), momentum])
    covariance = scipy.linalg.solve_discrete_lyapunov(
        transition * units / units[:, None], noise / np.outer(units, units)
    )
    return covariance * np.outer(units, units)


def iterate_law(chains, mean, covariance):
    """Covariance and mean after one step of each of the linear chains (A, Q), from the given start."""
    for transition, noise in chains:
        mean, covariance = transition @ mean, transition @ covariance @ transition.T + noise
    return covariance, mean


@partial(jax.jit, static_argnames=("alpha", "gradient_std", "rescale"))
def jitted_chains(rng_keys, mean, precision, step_sizes, inverse_mass, temperature, alpha, gradient_std, rescale):
    kernel = sghmc.build_kernel(alpha, DATA_SIZE)

    def grad_estimator(position, minibatch):
        return -precision @ (position - mean) + minibatch

    def one_chain(rng_key):
        def step(carry, inputs):
            state, previous = carry
            key, step_size = inputs
            noise_key, step_key = jax.random.split(key)
            minibatch = gradient_std * jax.random.normal(noise_key, mean.shape) if gradient_std else 0.0
            state = sghmc.rescale_momentum(state, previous, step_size) if rescale else state
            state, _ = kernel(step_key, state, grad_estimator, minibatch, step_size, inverse_mass, temperature)
            return (state, step_size), None

        keys = jax.random.split(rng_key, len(step_sizes))
        (state, _), _ = jax.lax.scan(step, (sghmc.init(mean + 1.0), step_sizes[0]), (keys, step_sizes))
        return jnp.concatenate([state.position - mean, state.momentum])

    return jax.vmap(one_chain)(rng_keys)


def run_chains(
    target, alpha, step_sizes, inverse_mass, temperature, gradient_std=0.0, rescale=False, num_chains=NUM_CHAINS
):
    """Final (theta - mu, v) of chains started at rest one unit off the mean: float64 [chain, 2 d]."""
    arrays = (jnp.asarray(x, jnp.float32) for x in (*target, step_sizes, inverse_mass, temperature))
    keys = jax.random.split(jax.random.key(0), num_chains)
    return np.asarray(jitted_chains(keys, *arrays, alpha, gradient_std, rescale), np.float64)


def assert_same_normal(draws, covariance, mean=0.0):
    """Whitened by the exact law, the draws' mean is zero and their second moment one, within Monte Carlo error."""
    factor = np.linalg.cholesky(covariance)
    white = scipy.linalg.solve_triangular(factor, (draws - mean).T, lower=True)
    num_draws = white.shape[1]
    assert_allclose(white.mean(axis=1), 0, atol=NUM_SIGMA / np.sqrt(num_draws))
    second = white @ white.T / num_draws
    # Variance of a second moment of normals: 2 / n, off the diagonal 1 / n.
    error = np.sqrt((1 + np.eye(len(second))) / num_draws)
    assert np.max(np.abs(second - np.eye(len(second))) / error) < NUM_SIGMA, second


def steps_to_forget(transition):
    """Steps after which the start has decayed by 1000, below the Monte Carlo error; few distinct lengths to compile."""
    steps = np.log(1e-3) / np.log(np.max(np.abs(np.linalg.eigvals(transition))))
    return 2 ** int(np.ceil(np.log2(steps)))
