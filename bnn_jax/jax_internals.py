"""All that the package takes from JAX beyond its stable interface, so that a new release can break one file only.

Each was checked with jax 0.10.1, 0.11.2 and 0.12.0.1.

- ``jax.extend.core.Primitive``: a function with derivatives of its own, for :func:`multilinear_form`.
  ``jax.custom_jvp`` and ``custom_vjp`` give them in one mode, and it needs both, nested at will;
  ``jax.custom_derivatives.linear_call`` has its own transpose, but can be neither batched nor differentiated by what it
  is not linear in.
- ``jax.interpreters.ad`` and ``jax.interpreters.batching``: its rules for ``jvp``, transposition and ``vmap``.
- ``jax.interpreters.mlir``: its compilation, as the function that it stands for.
- ``jax.core.ShapedArray``: what its shape rule returns.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import Array

from bnn_jax.supported import unsupported_jax

try:
    from jax.core import ShapedArray
    from jax.extend.core import Primitive
    from jax.interpreters.ad import Zero, add_tangents, is_undefined_primal, primitive_jvps, primitive_transposes
    from jax.interpreters.batching import primitive_batchers
    from jax.interpreters.mlir import lower_fun, register_lowering
except ImportError as error:
    raise unsupported_jax() from error


FormDerivative = Callable[..., Array]
"""``(*others, slot, **static)``: the derivative of a form by the array of ``slot``, given the others in their order."""


def multilinear_form(name: str, derivative: FormDerivative, static_argnames: tuple[str, ...]) -> FormDerivative:
    r"""The derivatives of a form :math:`\Phi(a_0, \dots, a_k)` that is linear in each of its arrays, as one primitive.

    Every derivative of :math:`\partial \Phi / \partial a_i` is :math:`\partial \Phi / \partial a_j` of other
    arrays. However often one differentiates, and in whichever mode, ``derivative`` is thus all that is ever computed;
    automatic differentiation of ``derivative`` itself would find the same numbers by other, perhaps slower operations.

    Args:
        name: of the primitive, as it is printed in a jaxpr.
        derivative: a pure function that computes it; it must be linear in each of ``others``.
        static_argnames: its hashable keywords, next to ``slot``.

    Returns:
        ``derivative``, differentiable as said.
    """
    form = Primitive(name)

    def shape(*others: Any, **params: Any) -> ShapedArray:
        result = jax.eval_shape(partial(derivative, **params), *others)
        return ShapedArray(result.shape, result.dtype)

    def jvp(primals: Any, tangents: Any, **params: Any) -> tuple[Array, Any]:
        result = form.bind(*primals, **params)
        tangent: Any = Zero(jax.typeof(result).to_tangent_aval())
        for i, change in enumerate(tangents):
            if not isinstance(change, Zero):
                others = [*primals[:i], change, *primals[i + 1 :]]
                tangent = add_tangents(tangent, form.bind(*others, **params))
        return result, tangent

    def transpose(cotangent: Any, *others: Any, slot: int, **static: Any) -> list[Any]:
        slots = [each for each in range(len(others) + 1) if each != slot]
        place = next(i for i, other in enumerate(others) if is_undefined_primal(other))
        known = dict(zip(slots, others, strict=True)) | {slot: cotangent}
        del known[slots[place]]
        result: list[Any] = [None] * len(others)
        if isinstance(cotangent, Zero):
            result[place] = Zero(others[place].aval)
        else:
            result[place] = form.bind(*(known[each] for each in sorted(known)), slot=slots[place], **static)
        return result

    def batch(others: Any, axes: Any, **params: Any) -> tuple[Array, int]:
        return jax.vmap(partial(derivative, **params), in_axes=tuple(axes))(*others), 0

    form.def_impl(jax.jit(derivative, static_argnames=("slot", *static_argnames)))
    form.def_abstract_eval(shape)
    register_lowering(form, lower_fun(derivative, multiple_results=False))
    primitive_jvps[form] = jvp
    primitive_transposes[form] = transpose
    primitive_batchers[form] = batch
    return form.bind
