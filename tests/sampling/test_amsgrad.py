"""The AMSGrad mass against a plain NumPy loop, and its freezing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bnn_jax.sampling import amsgrad

BETA, STABILITY = 0.9, 1e-3
POSITION = {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(2)}


def random_gradients(num_steps):
    rng = np.random.default_rng(0)
    decay = np.exp(-np.arange(num_steps) / 5)
    return {
        "kernel": jnp.asarray(rng.normal(size=(num_steps, 2, 3)) * decay[:, None, None], jnp.float32),
        "bias": jnp.asarray(rng.normal(size=(num_steps, 2)), jnp.float32),
    }


def numpy_mass(gradients, beta, stability):
    a = maximum = np.zeros(gradients.shape[1:])
    for g in np.asarray(gradients, np.float64):
        a = beta * a + (1 - beta) * g * g
        maximum = np.maximum(maximum, a)
    return np.sqrt(maximum / (1 - beta ** len(gradients))) + stability


@pytest.mark.parametrize("num_steps", [1, 2, 40])
def test_equals_numpy_loop(num_steps):
    gradients = random_gradients(num_steps)
    state = amsgrad.init(POSITION)
    for t in range(num_steps):
        state = amsgrad.update(state, jax.tree.map(lambda g, t=t: g[t], gradients), BETA)
    inverse_mass = amsgrad.inverse_mass(state, BETA, STABILITY)
    assert int(state.count) == num_steps
    for name in POSITION:
        assert_allclose(inverse_mass[name], 1 / numpy_mass(gradients[name], BETA, STABILITY), rtol=2e-6)


def test_mass_does_not_forget_large_gradients():
    state = amsgrad.update(amsgrad.init(jnp.zeros(1)), jnp.ones(1), BETA)
    for _ in range(200):
        state = amsgrad.update(state, jnp.zeros(1), BETA)
    assert_allclose(state.maximum, 1 - BETA, rtol=1e-5)
    assert_allclose(state.mean_square, (1 - BETA) * BETA**200, rtol=1e-4)


@pytest.mark.parametrize("beta", [0.0001, 0.9, 0.999, 0.99999])
def test_constant_gradient_gives_its_size_at_once_and_for_ever(beta):
    gradient = jnp.array([1e-4, -3.0])
    state = amsgrad.init(gradient)
    for _ in range(5):
        state = amsgrad.update(state, gradient, beta)
        assert_allclose(amsgrad.inverse_mass(state, beta, 1e-5), 1 / (np.abs(gradient) + 1e-5), rtol=1e-5)


def test_sign_of_the_gradient_does_not_matter():
    gradient = jnp.array([0.5, -2.0])
    left, right = (amsgrad.update(amsgrad.init(gradient), sign * gradient, BETA) for sign in (1, -1))
    assert_array_equal(left.maximum, right.maximum)


def test_unit_mass_before_any_gradient():
    assert_array_equal(amsgrad.inverse_mass(amsgrad.init(jnp.zeros(3)), BETA, STABILITY), np.ones(3))


def test_frozen_state_keeps_its_bias_correction():
    """What design 5 asks: a frozen mass depends on the state alone, not on how many steps follow."""
    state = amsgrad.update(amsgrad.init(jnp.zeros(1)), jnp.full(1, 2.0), 0.999)
    assert int(state.count) == 1  # so that the correction is 1 - 0.999 = 0.001 and cancels that of a
    assert_allclose(amsgrad.inverse_mass(state, 0.999, 0.0), [0.5], rtol=1e-5)


def test_jit_scan_and_vmap_equal_eager():
    gradients = random_gradients(10)

    def mass(gradients):
        final, _ = jax.lax.scan(lambda s, g: (amsgrad.update(s, g, BETA), None), amsgrad.init(POSITION), gradients)
        return amsgrad.inverse_mass(final, BETA, STABILITY)

    state = amsgrad.init(POSITION)
    for t in range(10):
        state = amsgrad.update(state, jax.tree.map(lambda g, t=t: g[t], gradients), BETA)
    eager = amsgrad.inverse_mass(state, BETA, STABILITY)
    stacked = jax.vmap(mass)(jax.tree.map(lambda g: jnp.stack([g, 2 * g]), gradients))
    for name in POSITION:
        assert_allclose(jax.jit(mass)(gradients)[name], eager[name], rtol=1e-6)
        assert_allclose(stacked[name][0], eager[name], rtol=1e-6)


def test_traced_beta():
    gradient = jnp.array([0.5, -2.0])
    state = jax.jit(amsgrad.update)(amsgrad.init(gradient), gradient, 0.999)
    assert_allclose(jax.jit(amsgrad.inverse_mass)(state, 0.999, 0.0), 1 / np.abs(gradient), rtol=1e-4)


def test_dtypes_are_kept_under_x64():
    with jax.enable_x64(True):
        position = {"single": jnp.ones(2, jnp.float32), "double": jnp.ones(2, jnp.float64)}
        state = amsgrad.update(amsgrad.init(position), position, 0.9)
        inverse_mass = amsgrad.inverse_mass(state, 0.9, 1e-5)
        for tree in (state.mean_square, state.maximum, inverse_mass):
            assert jax.tree.map(lambda leaf: leaf.dtype, tree) == {"single": jnp.float32, "double": jnp.float64}
