r"""The weighted tensor product of each edge, as one JAX primitive with all its derivatives.

The derivatives of a network's forces by its weights are almost all derivatives of one form, linear in four arrays:

.. math:: \Phi(m, w, A, x) = \sum_e \sum_{s t c} m_{etc}\, w_{e p(t) c}\, A_{est}\, x_{esc}

The product itself is :math:`\partial \Phi / \partial m`; its derivatives are the three other ones, and so are the
derivatives of those. Each is written here in the way that XLA runs fastest: automatic differentiation of any one way
to write the product gives transposed contractions that take two to four times as long on a CPU.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float


class Segment(NamedTuple):
    """Components of the paths into one target irrep: ``dim`` rows of ``num_paths`` each."""

    dim: int
    num_paths: int


MESSAGES, WEIGHTS, COUPLING, SOURCES = range(4)


def weighted_product(
    weights: Float[Array, "pair path channel"],
    coupling: Float[Array, "pair 2 source component"],
    sources: Float[Array, "pair 2 source channel"],
    segments: tuple[Segment, ...],
) -> Float[Array, "pair 2 component channel"]:
    r"""Messages of both edges of each pair, :math:`w_{p(t) c} \sum_s A_{st} x_{sc}`.

    It can be differentiated, forwards and backwards, as often as one likes, and batched.

    Args:
        weights: of each path, the same for both directions.
        coupling: matrix of each edge from the components of all sources to those of all paths.
        sources: features of the sending atoms.
        segments: how the components are made up: segment by segment, in each ``dim`` rows of its ``num_paths`` paths,
            which are counted on through the segments.
    """
    return _form.bind(weights, coupling, sources, slot=MESSAGES, segments=segments)


def _path_of_component(segments: tuple[Segment, ...]) -> list[int]:
    paths, first = [], 0
    for dim, num_paths in segments:
        paths += dim * list(range(first, first + num_paths))
        first += num_paths
    return paths


def _weighted(values: Array, weights: Array, segments: tuple[Segment, ...]) -> Array:
    """Each component times the weight of its path."""
    spread = jnp.stack([weights[:, path] for path in _path_of_component(segments)], axis=1)
    return values * spread[:, None]


def _product(coupling: Array, sources: Array) -> Array:
    # Sums of broadcasts, which XLA fuses with what follows, and not a batched matmul of tiny matrices.
    terms = (coupling[:, :, s, :, None] * sources[:, :, s, None, :] for s in range(sources.shape[2]))
    return sum(terms, start=jnp.zeros((), sources.dtype))


def _sum_over_components(values: Array, segments: tuple[Segment, ...]) -> Array:
    """Sum over the two directions and over the components of each path."""
    both, sums, start = values[:, 0] + values[:, 1], [], 0
    for dim, num_paths in segments:
        sums.append(sum(both[:, start + i * num_paths : start + (i + 1) * num_paths] for i in range(dim)))
        start += dim * num_paths
    return jnp.concatenate(sums, axis=1)


@jax.default_matmul_precision("float32")  # lowered long after the model's own context has ended
def _derivative(*others: Array, slot: int, segments: tuple[Segment, ...]) -> Array:
    """Derivative of the form by the array of ``slot``, given the others in their order."""
    if slot == MESSAGES:
        weights, coupling, sources = others
        return _weighted(_product(coupling, sources), weights, segments)
    if slot == WEIGHTS:
        messages, coupling, sources = others
        return _sum_over_components(messages * _product(coupling, sources), segments)
    if slot == COUPLING:
        messages, weights, sources = others
        return jnp.einsum("pdsc,pdtc->pdst", sources, _weighted(messages, weights, segments))
    messages, weights, coupling = others
    return jnp.einsum("pdst,pdtc->pdsc", coupling, _weighted(messages, weights, segments))


def _shape(*others: Any, **params: Any) -> ShapedArray:
    result = jax.eval_shape(partial(_derivative, **params), *others)
    return ShapedArray(result.shape, result.dtype)


def _jvp(primals: Any, tangents: Any, **params: Any) -> tuple[Array, Any]:
    result = _form.bind(*primals, **params)
    tangent: Any = ad.Zero(jax.typeof(result).to_tangent_aval())
    for i, change in enumerate(tangents):
        if not isinstance(change, ad.Zero):
            others = [*primals[:i], change, *primals[i + 1 :]]
            tangent = ad.add_tangents(tangent, _form.bind(*others, **params))
    return result, tangent


def _transpose(cotangent: Any, *others: Any, slot: int, segments: tuple[Segment, ...]) -> list[Any]:
    slots = [each for each in range(4) if each != slot]
    place = next(i for i, other in enumerate(others) if ad.is_undefined_primal(other))
    known = dict(zip(slots, others, strict=True)) | {slot: cotangent}
    del known[slots[place]]
    result: list[Any] = [None] * 3
    if isinstance(cotangent, ad.Zero):
        result[place] = ad.Zero(others[place].aval)
    else:
        result[place] = _form.bind(*(known[each] for each in sorted(known)), slot=slots[place], segments=segments)
    return result


def _batch(others: Any, axes: Any, **params: Any) -> tuple[Array, int]:
    in_axes = tuple(None if axis is batching.not_mapped else axis for axis in axes)
    return jax.vmap(partial(_derivative, **params), in_axes=in_axes)(*others), 0


_form = Primitive("weighted_product")
_form.def_impl(jax.jit(_derivative, static_argnames=("slot", "segments")))
_form.def_abstract_eval(_shape)
mlir.register_lowering(_form, mlir.lower_fun(_derivative, multiple_results=False))
ad.primitive_jvps[_form] = _jvp
ad.primitive_transposes[_form] = _transpose
batching.primitive_batchers[_form] = _batch
