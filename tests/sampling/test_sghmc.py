"""The SGHMC kernel: its equation, pytrees and dtypes, transformations, BlackJAX's interface."""

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.base import SamplingAlgorithm
from numpy.testing import assert_allclose, assert_array_equal

from bnn_jax.sampling import sghmc
from bnn_jax.types import InputError

ALPHA, DATA_SIZE, STEP_SIZE, TEMPERATURE = 0.3, 40, 0.05, 0.7
POSITION = {
    "layer": {"kernel": jnp.arange(6.0).reshape(2, 3) - 2, "bias": jnp.array([0.5, -1.0])},
    "shift": jnp.array(3.0),
}
INVERSE_MASS = jax.tree.map(lambda x: 1.0 + jnp.abs(x), POSITION)


def grad_estimator(position, minibatch):
    return jax.tree.map(lambda x: -minibatch * x**3, position)


KERNEL = jax.jit(sghmc.build_kernel(ALPHA, DATA_SIZE), static_argnums=2)


def run_steps(rng_key, state, inverse_mass=INVERSE_MASS, kernel=KERNEL, num_steps=3):
    for key in jax.random.split(rng_key, num_steps):
        state, info = kernel(key, state, grad_estimator, 2.0, STEP_SIZE, inverse_mass, TEMPERATURE)
    return state, info


def assert_trees_close(left, right, **tolerance):
    jax.tree.map(lambda a, b: assert_allclose(a, b, **tolerance), left, right)


def test_init_is_at_rest_with_or_without_key():
    state = sghmc.init(POSITION)
    assert_trees_close(state.position, POSITION, rtol=0)
    assert all(not leaf.any() for leaf in jax.tree.leaves(state.momentum))
    assert_trees_close(sghmc.init(POSITION, jax.random.key(0)), state, rtol=0)


def test_kernel_is_equation_15_of_chen_2014():
    """v = lr M^-1 momentum obeys dv = -eta grad U - alpha v + N(0, 2 alpha eta T), eta = alpha gamma / (M N)."""
    with jax.enable_x64(True):
        position = jnp.array([0.3, -1.2, 2.0])
        inverse_mass = jnp.array([0.1, 1.0, 25.0])
        state = sghmc.init(position)
        theta, displacement = np.asarray(position), np.zeros(3)
        eta = ALPHA * STEP_SIZE * np.asarray(inverse_mass) / DATA_SIZE
        for key in jax.random.split(jax.random.key(1), 20):
            normal = np.asarray(sghmc._standard_normal_like(key, position))
            state, _ = KERNEL(key, state, grad_estimator, 2.0, STEP_SIZE, inverse_mass, TEMPERATURE)
            displacement = (
                displacement
                - eta * 2 * theta**3
                - ALPHA * displacement
                + np.sqrt(2 * ALPHA * eta * TEMPERATURE) * normal
            )
            theta = theta + displacement
        assert_allclose(state.position, theta, rtol=1e-12)
        assert_allclose(STEP_SIZE * inverse_mass * state.momentum, displacement, rtol=1e-11)


def test_pytree_equals_raveled_vector():
    flat, unravel = jax.flatten_util.ravel_pytree(POSITION)
    tree_state, tree_info = run_steps(jax.random.key(2), sghmc.init(POSITION))
    flat_mass, _ = jax.flatten_util.ravel_pytree(INVERSE_MASS)
    flat_state, flat_info = run_steps(jax.random.key(2), sghmc.init(flat), inverse_mass=flat_mass)
    assert_trees_close(tree_state.position, unravel(flat_state.position), rtol=1e-5, atol=1e-6)
    assert_trees_close(tree_info, flat_info, rtol=1e-5)


def test_noise_is_standard_normal_and_independent_over_leaves():
    draws = jax.jit(jax.vmap(lambda key: sghmc._standard_normal_like(key, POSITION)))(
        jax.random.split(jax.random.key(3), 20_000)
    )
    columns = np.concatenate([np.reshape(leaf, (20_000, -1)) for leaf in jax.tree.leaves(draws)], axis=1)
    covariance = np.cov(columns.T)
    # 45 distinct entries with standard errors of at most sqrt(2 / n): five of them leave a chance below 1e-4.
    assert_allclose(covariance, np.eye(9), atol=5 * np.sqrt(2 / 20_000))
    assert_allclose(columns.mean(axis=0), 0, atol=5 / np.sqrt(20_000))


def test_scalar_and_prefix_inverse_mass():
    full = jax.tree.map(lambda x: jnp.full_like(x, 3.0), POSITION)
    expected = run_steps(jax.random.key(4), sghmc.init(POSITION), inverse_mass=full)
    for inverse_mass in (3.0, jnp.array(3.0), {"layer": 3.0, "shift": 3.0}):
        got = run_steps(jax.random.key(4), sghmc.init(POSITION), inverse_mass=inverse_mass)
        assert_trees_close(got, expected, rtol=1e-6)


def test_jit_equals_eager():
    eager = run_steps(jax.random.key(5), sghmc.init(POSITION), kernel=sghmc.build_kernel(ALPHA, DATA_SIZE))
    assert_trees_close(run_steps(jax.random.key(5), sghmc.init(POSITION)), eager, rtol=1e-5, atol=1e-6)


def test_vmap_over_chains_equals_loop():
    keys = jax.random.split(jax.random.key(6), 4)
    positions = jax.tree.map(lambda x: jnp.stack([x, x + 1, 2 * x, -x]), POSITION)
    stacked = jax.jit(jax.vmap(lambda key, x: run_steps(key, sghmc.init(x))))(keys, positions)
    for i in range(4):
        single = run_steps(keys[i], sghmc.init(jax.tree.map(lambda x, i=i: x[i], positions)))
        assert_trees_close(jax.tree.map(lambda x, i=i: x[i], stacked), single, rtol=1e-5, atol=1e-6)


def test_one_trace_for_all_step_sizes_and_temperatures():
    traces = []

    def counting_grad_estimator(position, minibatch):
        traces.append(None)
        return grad_estimator(position, minibatch)

    algorithm = sghmc.as_top_level_api(counting_grad_estimator, DATA_SIZE)
    step, state = jax.jit(algorithm.step), algorithm.init(POSITION)
    for i in range(5):
        state, _ = step(jax.random.key(i), state, 1.0 + i, 0.1 / (i + 1), 0.5 * i)
    assert len(traces) == 1


def test_keys_are_used_once():
    with jax.debug_key_reuse(True):
        algorithm = sghmc.as_top_level_api(grad_estimator, DATA_SIZE)

        def step(state, rng_key):
            state, info = algorithm.step(rng_key, state, 2.0, STEP_SIZE)
            return state, info.is_finite

        keys = jax.random.split(jax.random.key(7), 5)
        _, is_finite = jax.jit(lambda state, keys: jax.lax.scan(step, state, keys))(sghmc.init(POSITION), keys)
    assert is_finite.all()


@pytest.mark.parametrize("x64", [False, True])
def test_state_keeps_its_dtypes(x64):
    with jax.enable_x64(x64):
        position = {"single": jnp.ones(3, jnp.float32), "half": jnp.ones(2, jnp.bfloat16)}
        kernel = sghmc.build_kernel(0.1, 10)
        state, info = kernel(
            jax.random.key(0),
            sghmc.init(position),
            grad_estimator,
            1.0,
            jnp.asarray(0.1),
            jnp.ones(()),
            jnp.asarray(1.0),
        )
        for tree in state:
            assert jax.tree.map(lambda leaf: leaf.dtype, tree) == {"single": jnp.float32, "half": jnp.bfloat16}
        assert bool(info.is_finite)


def test_info_of_one_step():
    state, info = KERNEL(
        jax.random.key(8), sghmc.init(POSITION), grad_estimator, 2.0, STEP_SIZE, INVERSE_MASS, TEMPERATURE
    )
    flat, _ = jax.flatten_util.ravel_pytree(POSITION)
    inverse_mass, _ = jax.flatten_util.ravel_pytree(INVERSE_MASS)
    momentum, _ = jax.flatten_util.ravel_pytree(state.momentum)
    assert_allclose(info.grad_norm, np.linalg.norm(2 * flat**3 / DATA_SIZE), rtol=1e-6)
    assert_allclose(
        info.noise_scale, np.sqrt(np.mean(2 * TEMPERATURE / (DATA_SIZE * STEP_SIZE * inverse_mass))), rtol=1e-6
    )
    kinetic = DATA_SIZE * STEP_SIZE * (2 - ALPHA) / (2 * ALPHA) * np.mean(momentum**2 * inverse_mass)
    assert_allclose(info.kinetic_temperature, kinetic, rtol=1e-5)
    assert bool(info.is_finite)


def test_scalar_mass_weighs_leaves_by_their_size():
    position = {"a": jnp.zeros(9), "b": jnp.zeros(1)}
    _, info = KERNEL(jax.random.key(0), sghmc.init(position), grad_estimator, 2.0, 0.1, {"a": 1.0, "b": 0.1}, 1.0)
    assert_allclose(info.noise_scale, np.sqrt(2 / (DATA_SIZE * 0.1) * (9 * 1 + 1 * 10) / 10), rtol=1e-6)


@pytest.mark.parametrize("gradient, step_size", [(jnp.nan, 0.1), (jnp.inf, 0.1), (0.0, 0.0)])
def test_divergence_is_flagged(gradient, step_size):
    kernel = sghmc.build_kernel(0.1, 1)
    _, info = kernel(
        jax.random.key(0), sghmc.init(jnp.ones(3)), lambda x, _: x.at[1].set(gradient), None, step_size, 1.0
    )
    assert not bool(info.is_finite)


def test_zero_temperature_is_descent_with_momentum():
    kernel = sghmc.build_kernel(0.5, 2)
    state, _ = kernel(jax.random.key(0), sghmc.init(jnp.array([4.0])), lambda x, _: -x, None, 0.1, 1.0, 0.0)
    assert_allclose(state.momentum, [-1.0], rtol=1e-6)  # -alpha x / N
    assert_allclose(state.position, [3.9], rtol=1e-6)


def test_rescale_momentum_keeps_the_kinetic_temperature():
    state, info = run_steps(jax.random.key(9), sghmc.init(POSITION))
    rescaled = sghmc.rescale_momentum(state, STEP_SIZE, 1e-4 * STEP_SIZE)
    assert_trees_close(rescaled.position, state.position, rtol=0)
    assert_trees_close(rescaled.momentum, jax.tree.map(lambda v: 100 * v, state.momentum), rtol=1e-5)
    temperature = sghmc.diagnostics.kinetic_temperature(
        rescaled.momentum, INVERSE_MASS, 1e-4 * STEP_SIZE, ALPHA, DATA_SIZE
    )
    assert_allclose(temperature, info.kinetic_temperature, rtol=1e-4)


@pytest.mark.parametrize("alpha", [0.0, -0.1, 1.1, float("nan")])
def test_alpha_out_of_range(alpha):
    with pytest.raises(InputError, match=r"friction alpha of SGHMC is .*above 0 and at most 1"):
        sghmc.build_kernel(alpha, 10)


def test_data_size_out_of_range():
    with pytest.raises(InputError, match=r"data_size of SGHMC is 0; give the number of training data"):
        sghmc.as_top_level_api(grad_estimator, 0)


def test_step_over_device_data_runs_in_blackjax():
    """The minibatch is drawn inside the step; the posterior of a normal mean under a flat prior is known."""
    num_data, batch_size = 64, 32
    data = 1.5 + jax.random.normal(jax.random.key(10), (num_data,))
    algorithm = sghmc.as_top_level_api(
        lambda position, batch: num_data * jnp.mean(batch - position), data_size=num_data, alpha=0.5
    )

    def step(rng_key, state):
        batch_key, step_key = jax.random.split(rng_key)
        batch = jax.random.choice(batch_key, data, (batch_size,), replace=False)
        return algorithm.step(step_key, state, batch, 0.02)

    final, history = blackjax.util.run_inference_algorithm(
        jax.random.key(11),
        SamplingAlgorithm(algorithm.init, step),
        num_steps=20_000,
        initial_position=jnp.mean(data),
        transform=lambda state, info: (state.position, info.is_finite),
    )
    positions, is_finite = history
    ess = float(blackjax.ess(positions[None]))
    assert bool(is_finite.all()) and isinstance(final, sghmc.SGHMCState)
    assert_allclose(positions.mean(), data.mean(), atol=5 / np.sqrt(num_data * ess))
    # Relative standard error sqrt(2 / ess); the minibatch's noise adds gamma alpha Var(g) N / (2 T) = 0.5 % or less.
    assert_allclose(positions.var() * num_data, 1, atol=5 * np.sqrt(2 / ess) + 0.02)


def test_top_level_api_defaults_to_unit_mass_and_temperature():
    algorithm = sghmc.as_top_level_api(grad_estimator, DATA_SIZE)
    got = algorithm.step(jax.random.key(12), algorithm.init(POSITION), 2.0, STEP_SIZE)
    ones = jax.tree.map(jnp.ones_like, POSITION)
    expected = sghmc.build_kernel(0.1, DATA_SIZE)(
        jax.random.key(12), sghmc.init(POSITION), grad_estimator, 2.0, STEP_SIZE, ones, 1.0
    )
    assert_trees_close(got, expected, rtol=1e-6)
    assert_array_equal(got[1].is_finite, True)
