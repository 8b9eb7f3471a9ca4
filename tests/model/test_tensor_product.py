"""The primitive behaves as the sum it stands for: every derivative of every order, in both modes, and batches."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from bnn_jax.model.tensor_product import Segment, weighted_product

pytestmark = pytest.mark.usefixtures("x64")

SEGMENTS = (Segment(1, 2), Segment(3, 3))
PATHS = [0, 1, 2, 3, 4, 2, 3, 4, 2, 3, 4]
"""Path of each component: a row of two, then three rows of three."""
PAIRS, SOURCES, CHANNELS = 4, 5, 3

product = partial(weighted_product, segments=SEGMENTS)


def plain(weights, coupling, sources):
    return jnp.einsum("ptc,pdst,pdsc->pdtc", weights[:, np.array(PATHS)], coupling, sources)


def operands(*lead, seed: int = 0):
    rng = np.random.default_rng(seed)
    shapes = (PAIRS, 5, CHANNELS), (PAIRS, 2, SOURCES, len(PATHS)), (PAIRS, 2, SOURCES, CHANNELS)
    return tuple(jnp.asarray(rng.normal(scale=0.5, size=(*lead, *shape))) for shape in shapes)


def assert_close(ours, theirs):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-11), ours, theirs)


def bent(function):
    """A scalar of which no derivative up to the third vanishes."""
    return lambda *each: jnp.sum(jnp.sin(function(*each)))


def test_value():
    assert_close(product(*operands()), plain(*operands()))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_reverse_mode(order):
    def descend(function):
        for _ in range(order):
            inner = function
            function = lambda *each, inner=inner: sum(  # noqa: E731
                jnp.sum(jnp.cos(leaf)) for leaf in jax.grad(inner, (0, 1, 2))(*each)
            )
        return function

    ours, theirs = (jax.grad(descend(bent(each)), (0, 1, 2)) for each in (product, plain))
    assert_close(ours(*operands()), theirs(*operands()))


@pytest.mark.parametrize("argument", range(3))
def test_hessian_forward_over_reverse(argument):
    each = operands()
    ours, theirs = (jax.hessian(bent(function), argument)(*each) for function in (product, plain))
    assert_close(ours, theirs)


def test_derivatives_are_those_of_finite_differences():
    check_grads(
        lambda *each: product(*map(jnp.asarray, each)), operands(), order=2, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6
    )


@pytest.mark.parametrize("axes", [(0, 0, 0), (0, None, 0), (None, 1, None), (2, None, None), (None, None, 0)])
def test_batches_equal_one_by_one(axes):
    """Samples share the geometry, chains share nothing."""
    stacked = operands(3)
    arguments = [
        leaf[0] if axis is None else jnp.moveaxis(leaf, 0, axis) for leaf, axis in zip(stacked, axes, strict=True)
    ]
    gradient = jax.grad(bent(product), (0, 1, 2))
    for function in (product, gradient):
        together = jax.vmap(function, in_axes=axes)(*arguments)
        for i in range(3):
            own = [leaf[0 if axis is None else i] for leaf, axis in zip(stacked, axes, strict=True)]
            assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], together), function(*own))


def test_gradients_of_a_batch():
    ours, theirs = (
        jax.grad(lambda *each, function=function: jnp.sum(jnp.sin(jax.vmap(function)(*each))), (0, 1, 2))
        for function in (product, plain)
    )
    assert_close(ours(*operands(3)), theirs(*operands(3)))


def test_recomputation_and_loops():
    """``jax.checkpoint`` and ``scan`` see a primitive like any other."""
    weights, coupling, sources = operands()

    def loop(function, weights):
        def body(total, _):
            return total + jnp.sum(jnp.sin(function(weights, coupling, sources * total))), None

        return jax.lax.scan(body, 1.0, None, length=3)[0]

    assert_close(jax.grad(partial(loop, jax.checkpoint(product)))(weights), jax.grad(partial(loop, plain))(weights))


def test_single_precision_stays():
    assert product(*(leaf.astype(jnp.float32) for leaf in operands())).dtype == jnp.float32
