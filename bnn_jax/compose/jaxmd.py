"""Energy functions as jax-md calls them, with its neighbour lists, boxes and perturbations."""

import importlib
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from bnn_jax.atoms.graph import AnyArray
from bnn_jax.atoms.sources import Structures
from bnn_jax.compose.edges import Edges, has_nearest_images
from bnn_jax.compose.functions import SystemFn, Which, energy_fn, parts_of
from bnn_jax.predict import Predictor
from bnn_jax.types import InputError


def jax_md_energy_fn(
    predictor: Predictor, structure: Structures, samples: Which = "mean", *, fractional_coordinates: bool = False
) -> SystemFn:
    """``fn(R, neighbor=None, box=None, perturbation=None, **ignored)``: the energy above the atomic shifts, in eV.

    For the simulations, minimisers and quantities of jax-md. Neighbour lists of each of its formats are taken, made
    with a cutoff that is the potential's at least; without one every call searches for neighbours itself, also in cells
    that are smaller than twice the cutoff, where jax-md's lists would miss images. An overflown list gives NaN.

    Args:
        predictor: samples of the posterior.
        structure: one; says which atoms there are, which directions are periodic, and the box where none is given.
        samples: whose energy: ``mean``, ``all`` (for ``vmap``-like use, [sample]) or the number of one.
        fractional_coordinates: R counts lattice vectors, as jax-md's simulations at constant pressure have it, and
            gradients by R are those by Cartesian positions, as jax-md has them. Otherwise R is in Angstrom.

    Raises:
        InputError: there is not just one structure, or an element was not in training, or jax-md is asked for and not
            there.
    """
    _, own_cell, pbc, _ = parts_of(predictor, structure)
    energy = energy_fn(predictor, structure, samples)
    has_wide_cell = has_nearest_images(own_cell, pbc, predictor.cutoff)
    transform = _transform() if fractional_coordinates else None

    def fn(
        R: AnyArray,
        neighbor: Any = None,
        box: ArrayLike | None = None,
        perturbation: ArrayLike | None = None,
        **_: Any,
    ) -> Array:
        if neighbor is not None and not has_wide_cell:
            raise InputError(
                f"The cell is narrower than twice the cutoff of {predictor.cutoff:g} Å, so that jax-md's lists of"
                " nearest images miss neighbours; leave neighbor out, or repeat the cell."
            )
        matrix = jnp.asarray(own_cell.T if box is None else _matrix(box), jnp.asarray(R).dtype)
        cartesian = jnp.asarray(R) if transform is None else transform(matrix, R)
        edges = None if neighbor is None else _edges(neighbor, cartesian, matrix.T, pbc)
        if perturbation is not None:
            change = _matrix(perturbation)
            cartesian, matrix = cartesian @ change.T, change @ matrix
        return energy(cartesian, matrix.T, edges)

    return fn


def _transform() -> Any:
    try:
        return importlib.import_module("jax_md.space").transform
    except ImportError as error:
        raise InputError("Fractional coordinates need jax-md; pip install 'bnn_jax[md]'.") from error


def _matrix(box: ArrayLike) -> Float[Array, "3 3"]:
    """A box of jax-md's, whose columns are lattice vectors: a side, three of them, or all."""
    box = jnp.asarray(box)
    return box if box.ndim == 2 else jnp.diag(jnp.broadcast_to(box, (3,)))


def _edges(neighbor: Any, positions: Array, cell: Array, pbc: np.ndarray) -> Edges:
    """Each pair of a list once, the pairs there are before the empty places."""
    num_atoms, idx = len(positions), neighbor.idx
    if neighbor.format.name == "Dense":
        receivers = jnp.broadcast_to(jnp.arange(num_atoms)[:, None], idx.shape).reshape(-1)
        senders = idx.reshape(-1)
    else:
        receivers, senders = idx
    is_pair = (receivers < num_atoms) & (senders < num_atoms)
    size = len(senders)
    if neighbor.format.name != "OrderedSparse":  # each pair is there in both directions
        is_pair, size = is_pair & (receivers < senders), -(-size // 2)
    (places,) = jnp.nonzero(is_pair, size=size, fill_value=len(senders))
    senders, receivers = (jnp.append(each, num_atoms)[places].astype(jnp.int32) for each in (senders, receivers))
    num_pairs = jnp.sum(is_pair, dtype=jnp.int32)
    shifts = jnp.zeros((size, 3), jnp.int32)
    if pbc.any():
        fractional = jnp.append(positions @ jnp.linalg.inv(cell), jnp.zeros((1, 3), positions.dtype), axis=0)
        nearest = -jnp.round(fractional[senders] - fractional[receivers])
        shifts = jnp.where(pbc & (jnp.arange(size) < num_pairs)[:, None], nearest, 0).astype(jnp.int32)
    return Edges(
        senders, receivers, shifts, num_pairs, jnp.asarray(neighbor.did_buffer_overflow, bool), positions, cell
    )
