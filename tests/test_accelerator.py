"""What JAX's default device computes in single precision against the CPU in double precision.

For a machine with a GPU or TPU: ``pytest -m gpu``. On a CPU the same tests show what single precision costs there.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.cases import DATA_SIZE, PRESETS, build_case, build_estimate
from bnn_jax.posterior import value_and_grad_estimator
from bnn_jax.sampling import chain, sghmc

pytestmark = pytest.mark.gpu

CPU = jax.devices("cpu")[0]
NUM_STRUCTURES = 3
TOLERANCE = 1e-4
"""Of every difference, relative to the largest magnitude in its array: single precision's 6e-8, times what sums of some
hundred terms through four layers and two derivatives make of it. TensorFloat-32 rounds by 5e-4."""
NUM_STEPS = 3
"""Before the step that is compared, so that the mass is one: that of a first step turns gradients into signs."""


def cast(tree, dtype):
    """The tree with its floating-point leaves, keys left alone, in another precision."""
    is_float = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.floating)  # noqa: E731
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if is_float(leaf) else leaf, tree)


def assert_close(ours, exact):
    for (path, one), other in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(exact), strict=True):
        one, other = np.asarray(one, float), np.asarray(other, float)
        np.testing.assert_allclose(
            one, other, rtol=0, atol=TOLERANCE * np.abs(other).max(), err_msg=jax.tree_util.keystr(path)
        )


@pytest.mark.parametrize("preset", PRESETS)
def test_predictions(preset):
    case = build_case(preset)
    params, graph = jax.tree.map(lambda leaf: leaf[0], case.params(1)), case.batch(NUM_STRUCTURES).graph
    predict = jax.jit(lambda params, graph: case.potential.apply(params, graph)._replace(features=None))
    ours = jax.device_get(predict(params, graph))
    with jax.default_device(jax.devices("cpu")[0]), jax.enable_x64(True):
        exact = predict(*cast(jax.device_get((params, graph)), jnp.float64))
        assert exact.forces.dtype == jnp.float64
    assert_close(ours._replace(stress=None), exact._replace(stress=None))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_step_of_the_sampler(preset):
    """Without noise, which is not the same in another precision: gradient, mass, momentum, weights."""
    case = build_case(preset)
    config = replace(case.config.sampler, temperature=0.0)
    step = jax.jit(chain.build_step(value_and_grad_estimator(build_estimate(case)), DATA_SIZE, config))
    position = jax.tree.map(lambda leaf: leaf[0], case.params(1))
    start, batch = chain.init(jax.random.key(0), position, config.mass), case.batch(NUM_STRUCTURES)
    with jax.default_device(CPU), jax.enable_x64(True):
        before, exact_batch = cast(jax.device_get((start, batch)), jnp.float64)
        for _ in range(NUM_STEPS):
            before, _ = step(before, exact_batch)
        exact, exact_info = step(before, exact_batch)
    ours, info = step(cast(jax.device_get(before), jnp.float32), batch)
    assert_close(ours.sampler, exact.sampler)
    assert_close(ours.mass, exact.mass)
    assert_close(info.potential_energy, exact_info.potential_energy)


def test_the_noise_of_a_step():
    """Its bits are those of the CPU, and so are the normal numbers made of them, to rounding."""
    kernel = sghmc.build_kernel(alpha=0.1, data_size=DATA_SIZE)
    still = lambda position, _: jax.tree.map(jnp.zeros_like, position)  # noqa: E731

    @jax.jit
    def step(state):
        return kernel(jax.random.key(1), state, still, None, 1e-3, jax.tree.map(jnp.ones_like, state.position))[0]

    start = sghmc.init({"a": jnp.zeros((100, 100)), "b": jnp.zeros(1000)})
    ours = jax.device_get(step(start))
    with jax.default_device(CPU):
        assert_close(ours, step(jax.device_get(start)))
    assert np.std(ours.momentum["a"]) > 0
