r"""A basis in which the mass is diagonal: eigenvectors of the Kronecker factors of the squared gradient.

Weights of a neural network are matrices W, and the gradients G of one of them are correlated along its rows and along
its columns, which a mass that is diagonal in the weights cannot see. With running means of both second moments

.. math::
    L \leftarrow \beta L + (1 - \beta) G G^T, \qquad R \leftarrow \beta R + (1 - \beta) G^T G

and their eigenvectors :math:`Q_L, Q_R`, the coordinates are :math:`Q_L^T W Q_R`: an orthogonal change of basis, of
which a normal prior of one variance knows nothing. The mass of :mod:`bnn_jax.sampling.amsgrad` is learnt there. With
the basis kept once the mass is, the sampler is SGHMC with one constant mass matrix, and its target is the same.

While it learns, the basis turns by a step of orthogonal iteration now and then, :math:`Q \leftarrow \mathrm{qr}(L Q)`.
Only sides of at most :data:`MAX_SIDE` rows or columns are turned, and no vectors; leaves of more than two axes are many
matrices, each with a basis of its own.

References:
    Gupta, Koren and Singer (2018), arXiv:1802.09568, for the factors; Vyas et al. (2024), arXiv:2409.11321, for a
    diagonal adaptive step in their eigenbasis, as an optimiser.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bnn_jax.types import Params

__all__ = ["DECAY", "MAX_SIDE", "Basis", "from_basis", "init", "to_basis", "turn", "update"]

MAX_SIDE = 128
"""Longest side of a matrix that is turned: the work grows with its cube."""
DECAY = 0.99
"""Of the running means of the factors."""

_einsum = partial(
    jnp.einsum, precision=jax.lax.Precision.HIGHEST
)  # else TF32 on GPUs, with which no basis is orthogonal
Square = Float[Array, "matrix side side"]


class LeafBasis(NamedTuple):
    """Of one leaf, seen as matrices [matrix, row, column]; None for a side that is not turned."""

    row_factor: Square | None
    """L, of the mean gradient."""
    column_factor: Square | None
    rows: Square | None
    """Orthogonal; its columns are the basis vectors."""
    columns: Square | None


Basis = tuple[LeafBasis, ...]
"""Of all leaves of a position in their order; the empty tuple stands for the coordinates of the weights themselves."""


def init(position: Params) -> Basis:
    """The coordinates of the weights, with factors of zero.

    Args:
        position: pytree of floating point arrays, of which only shapes and dtypes count.
    """
    return tuple(_init_leaf(_matrices(leaf)) for leaf in jax.tree.leaves(position))


def update(basis: Basis, mean_gradient: Params) -> Basis:
    """Take one gradient into the factors.

    Args:
        basis: so far.
        mean_gradient: g, the gradient of the (minibatch's estimate of the) log density over the number of data.
    """
    return tuple(
        leaf._replace(
            row_factor=_averaged(leaf.row_factor, "bmn,bkn->bmk", _matrices(g)),
            column_factor=_averaged(leaf.column_factor, "bmn,bmk->bnk", _matrices(g)),
        )
        for leaf, g in zip(basis, jax.tree.leaves(mean_gradient), strict=bool(basis))
    )


def turn(basis: Basis) -> Basis:
    """One step of orthogonal iteration towards the eigenvectors of the factors."""
    factors, structure = jax.tree.flatten([(leaf.row_factor, leaf.column_factor) for leaf in basis])
    vectors = jax.tree.leaves([(leaf.rows, leaf.columns) for leaf in basis])
    turned = jax.tree.unflatten(structure, _iterated(factors, vectors))
    return tuple(leaf._replace(rows=rows, columns=columns) for leaf, (rows, columns) in zip(basis, turned, strict=True))


def to_basis(basis: Basis, tree: Params) -> Params:
    """Components of a tree of the position's shapes in the basis: Q_L^T W Q_R."""
    return _apply(basis, tree, "bmi,bmn->bin", "bmn,bnj->bmj")


def from_basis(basis: Basis, tree: Params) -> Params:
    """The inverse of :func:`to_basis`: Q_L W Q_R^T."""
    return _apply(basis, tree, "bmi,bin->bmn", "bmj,bnj->bmn")


def _matrices(leaf: Float[Array, "*shape"]) -> Float[Array, "matrix row column"]:
    return jnp.reshape(leaf, (-1, *leaf.shape[-2:])) if leaf.ndim > 1 else jnp.reshape(leaf, (1, 1, -1))


def _init_leaf(matrices: Float[Array, "matrix row column"]) -> LeafBasis:
    num, num_rows, num_columns = matrices.shape

    def side(length: int, other: int) -> tuple[Square | None, Square | None]:
        # A side of one element cannot turn, and a vector shall not: its other side has one.
        if not 1 < length <= MAX_SIDE or other == 1:
            return None, None
        unit = jnp.broadcast_to(jnp.eye(length, dtype=matrices.dtype), (num, length, length))
        return jnp.zeros_like(unit), unit

    row_factor, rows = side(num_rows, num_columns)
    column_factor, columns = side(num_columns, num_rows)
    return LeafBasis(row_factor, column_factor, rows, columns)


def _averaged(factor: Square | None, product: str, gradient: Float[Array, "matrix row column"]) -> Square | None:
    if factor is None:
        return None
    return DECAY * factor + (1 - DECAY) * _einsum(product, gradient, gradient).astype(factor.dtype)


def _iterated(factors: list[Array], vectors: list[Array]) -> list[Array]:
    """All matrices of one size together."""
    turned = list(vectors)
    for size in sorted({factor.shape[-1] for factor in factors}):
        chosen = [i for i, factor in enumerate(factors) if factor.shape[-1] == size]
        factor, old = (jnp.concatenate([arrays[i] for i in chosen]) for arrays in (factors, vectors))
        # Factors are squares of gradients and may be tiny; the iteration knows no scale, but underflow does.
        scale = jnp.trace(factor, axis1=1, axis2=2)[:, None, None]
        new = _orthogonal(_einsum("bmk,bkn->bmn", factor / jnp.where(scale > 0, scale, 1), old))
        ends = np.cumsum([len(factors[i]) for i in chosen])
        for i, part in zip(chosen, jnp.split(new, ends[:-1]), strict=True):
            turned[i] = part
    return turned


def _orthogonal(matrices: Square) -> Square:
    """Q of the QR decompositions by Householder's reflections, with the signs that make R's diagonal positive.

    Those of LAPACK, which JAX calls on a CPU, wait for threads of the very pool that they run on: two devices on two
    cores wait for ever (jaxlib 0.10.1), and hundreds of cores corrupt memory (jax issue 39292).
    """
    size = matrices.shape[-1]
    places = jnp.arange(size)

    def reflect(column: Array, carry: tuple[Square, Square]) -> tuple[Square, Square]:
        upper, orthogonal = carry
        x = jnp.where(places >= column, jax.lax.dynamic_index_in_dim(upper, column, axis=2, keepdims=False), 0)
        is_pivot = places == column
        pivot = jnp.sum(jnp.where(is_pivot, x, 0), axis=1, keepdims=True)
        normal = x + is_pivot * jnp.where(pivot < 0, -1, 1) * jnp.linalg.norm(x, axis=1, keepdims=True)
        square = jnp.sum(normal**2, axis=1)[:, None, None]
        twice = normal[:, None, :] * jnp.where(square > 0, 2 / jnp.where(square > 0, square, 1), 0)
        upper = upper - normal[:, :, None] * _einsum("bim,bmn->bin", twice, upper)
        return upper, orthogonal - _einsum("bmn,bn->bm", orthogonal, normal)[:, :, None] * twice

    unit = jnp.broadcast_to(jnp.eye(size, dtype=matrices.dtype), matrices.shape)
    upper, orthogonal = jax.lax.fori_loop(0, size, reflect, (matrices, unit))
    # Without the signs that the decomposition leaves open a vector that stays would flip to and fro.
    signs = jnp.where(jnp.diagonal(upper, axis1=1, axis2=2) < 0, -1, 1)
    return orthogonal * signs[:, None, :].astype(orthogonal.dtype)


def _apply(basis: Basis, tree: Params, by_rows: str, by_columns: str) -> Params:
    if not basis:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    turned = []
    for leaf, values in zip(basis, leaves, strict=True):
        matrices = _matrices(values)
        if leaf.rows is not None:
            matrices = _einsum(by_rows, leaf.rows, matrices)
        if leaf.columns is not None:
            matrices = _einsum(by_columns, matrices, leaf.columns)
        turned.append(matrices.reshape(values.shape))
    return jax.tree.unflatten(structure, turned)
