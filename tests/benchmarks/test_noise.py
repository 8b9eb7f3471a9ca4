"""The running variance of gradients."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

from benchmarks.samplers import noise

VARIANCES = np.array([1e-6, 1.0, 100.0], np.float32)


def after(num_steps, num_repeats=20_000, drift=0.0):
    """Mean over independent repetitions of the estimate after so many gradients."""
    gradients = VARIANCES**0.5 * jax.random.normal(jax.random.key(0), (num_repeats, num_steps, 3)) + 5.0
    gradients = gradients + drift * VARIANCES**0.5 * jnp.arange(num_steps)[:, None]

    def one(steps):
        state, _ = jax.lax.scan(lambda state, g: (noise.update(state, g), None), noise.init(jnp.zeros(3)), steps)
        return noise.variance(state)

    return np.asarray(jax.jit(jax.vmap(one))(gradients)).mean(axis=0) / VARIANCES


def test_it_is_unbiased_from_the_second_gradient_on():
    assert_allclose(noise.variance(noise.update(noise.init(jnp.zeros(3)), jnp.ones(3))), 0)
    for num_steps in (2, 3, 30):
        assert_allclose(after(num_steps)[1:], 1, atol=0.06)
    assert_allclose(after(500, 200)[1:], 1, atol=0.05)


def test_a_drift_counts_little():
    """A tenth of a standard deviation in a step, ten of them in a hundred steps: the mean lags by two steps."""
    assert_allclose(after(800, 200, drift=0.1)[1:], 1, atol=0.08)


def test_shares_are_of_the_injected_noise():
    shares = noise.shares({"a": jnp.array([2.0])}, {"a": jnp.array([0.5])}, jnp.float32(0.1), 2.0, 40)
    assert_allclose(shares, 2.0 * 0.5 * 40 * 0.1 / 4)
