"""One-dimensional densities, a mass that adapts up to some step, and the comparison of variances with quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate
from numpy.testing import assert_allclose

from bnn_jax.sampling import amsgrad, sghmc

ALPHA, BETA, STABILITY, DATA_SIZE = 0.5, 0.5, 0.3, 10
NUM_CHAINS, NUM_STEPS, BURN_IN = 4_000, 4_000, 50

POTENTIALS = {
    "quartic": lambda x: x**4 / 4,
    "skewed": lambda x: jnp.exp(x) - x,
    "gaussian": lambda x: x**2 / 2,
}


def true_variance(potential):
    """By quadrature."""
    x = np.linspace(-12, 6, 20_001)
    density = np.exp(-np.asarray(potential(jnp.asarray(x)), np.float64))
    norm, first, second = (scipy.integrate.simpson(density * x**k, x=x) for k in range(3))
    return second / norm - (first / norm) ** 2


def final_positions(potential, freeze_step):
    """Of many chains whose mass follows the running mean of g^2 until freeze_step: float64 [chain].

    The running mean itself (Adam, RMSprop), not its maximum, so that the adaptation never comes to rest.
    """
    kernel = sghmc.build_kernel(ALPHA, DATA_SIZE)

    def one_chain(rng_key):
        def step(carry, inputs):
            state, mass = carry
            index, key = inputs
            gradient = -jax.grad(potential)(state.position)
            updated = amsgrad.update(mass, gradient / DATA_SIZE, BETA)
            updated = amsgrad.AMSGradState(updated.mean_square, updated.mean_square, updated.count)
            mass = jax.tree.map(lambda new, old: jnp.where(index < freeze_step, new, old), updated, mass)
            inverse_mass = amsgrad.inverse_mass(mass, BETA, STABILITY / DATA_SIZE)
            state, _ = kernel(key, state, lambda *_: gradient, None, 0.02, inverse_mass)
            return (state, mass), None

        start = jax.random.normal(rng_key)
        inputs = (jnp.arange(NUM_STEPS), jax.random.split(jax.random.fold_in(rng_key, 1), NUM_STEPS))
        (state, _), _ = jax.lax.scan(step, (sghmc.init(start), amsgrad.init(start)), inputs)
        return state.position

    return np.asarray(jax.jit(jax.vmap(one_chain))(jax.random.split(jax.random.key(0), NUM_CHAINS)), np.float64)


def assert_same_variance(draws, variance):
    """Within five standard errors."""
    squares = (draws - draws.mean()) ** 2
    assert_allclose(squares.mean(), variance, atol=5 * squares.std() / np.sqrt(len(draws)))
