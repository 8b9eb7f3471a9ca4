"""Neighbours of one structure on the device: arrays of fixed length, found and found again inside compiled loops."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import ase.geometry
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bnn_jax.atoms.geometry import plane_spacings
from bnn_jax.atoms.graph import AnyArray, size_ladder
from bnn_jax.atoms.neighbors import neighbor_list
from bnn_jax.types import AtomGraph, InputError

MAX_CANDIDATES = 2**28
"""Pairs of atoms and images that a search looks at, a gigabyte of distances."""
ROUNDING = 1e-5
"""Relative error of a cell's width in single precision, and more: so near the cutoff a missing pair has no effect."""


class Edges(NamedTuple):
    """Pairs of neighbours, each once, at the beginning of arrays of fixed length: a state that compiled loops carry."""

    senders: Int[Array, " pair"]
    """Behind the pairs there are: the number of atoms, which is no atom's."""
    receivers: Int[Array, " pair"]
    shifts: Int[Array, "pair 3"]
    """Lattice image of the sender, at ``positions[senders] + shifts @ cell``."""
    num_pairs: Int[Array, ""]
    """That there are, whether or not the arrays hold them."""
    overflow: Bool[Array, ""]
    """There are more pairs than the arrays hold, or the cell has shrunk so far that images were not looked at."""
    positions: Float[Array, "atom 3"]
    """Where they were found, in Angstrom."""
    cell: Float[Array, "3 3"]


class Search(NamedTuple):
    """How the pairs of a system are found: pure functions of positions [atom, 3] and cell [3, 3] in Angstrom."""

    find: Callable[[AnyArray, AnyArray], Edges]
    """``find(positions, cell) -> edges``: all pairs within cutoff and skin."""
    is_stale: Callable[[AnyArray, AnyArray, Edges], Bool[Array, ""]]
    """``is_stale(positions, cell, edges)``: whether a pair within the cutoff might be missing by now."""
    within_cutoff: Callable[[AnyArray, AnyArray, Edges], Edges]
    """``within_cutoff(positions, cell, edges) -> edges``: those of them that matter now, in shorter arrays, for a
    network does as much work for a pair in the skin as for any other. They do not outlast a move."""

    def update(self, positions: AnyArray, cell: AnyArray, edges: Edges) -> Edges:
        """The edges, found again if they are stale.

        Args:
            positions: in Angstrom; with a leading axis of replicas, of which none is searched again or all are, where
                ``vmap`` of this would search at every call.
            cell: lattice vectors as rows, in Angstrom; likewise.
            edges: found earlier; likewise.
        """
        find, is_stale = self.find, self.is_stale
        if positions.ndim == 3:
            find, is_stale = jax.vmap(find), jax.vmap(is_stale)
        stale = jnp.any(is_stale(positions, cell, edges))
        return jax.lax.cond(stale, lambda: find(positions, cell), lambda: edges)


class _Plan(NamedTuple):
    """What a search for pairs of one system knows beforehand; host arrays and numbers."""

    pbc: Bool[np.ndarray, " 3"]
    complement: Float[np.ndarray, "3 3"]
    """Vectors for directions without periods, so that fractional coordinates exist; nothing depends on them."""
    cutoff: float
    skin: float
    first: Int[np.ndarray, " candidate"]
    second: Int[np.ndarray, " candidate"]
    """All pairs of atoms, those of an atom with itself included."""
    images: Int[np.ndarray, "image 3"]
    """That are looked at of each, beside or around the nearest."""
    is_pair: Bool[np.ndarray, "candidate image"]
    """All but an atom itself, and one of each two of its images that are opposite."""
    has_one_image: bool
    """Whether of an atom's images only the nearest can be within reach."""
    least_widths: Float[np.ndarray, " 3"]
    """Of the cell in the directions with periods, for the images to be enough."""
    capacity: int
    """Pairs that there is room for, within reach."""
    capacity_within_cutoff: int
    """Pairs that there is room for, of those."""
    most_pairs: float
    """A list of so many can miss none, wherever the atoms go."""

    @property
    def reach(self) -> float:
        """Cutoff and skin."""
        return self.cutoff + self.skin


def build_search(
    positions: Float[np.ndarray, "atom 3"],
    cell: Float[np.ndarray, "3 3"],
    pbc: Bool[np.ndarray, " 3"],
    cutoff: float,
    skin: float = 0.0,
    headroom: float = 0.25,
) -> Search:
    """Plan the search for the pairs of a system, of which one structure is given.

    In a cell that is twice as wide as cutoff and skin each pair has one image that can be near enough. In smaller ones
    all images are looked at that can be, those of an atom itself included.

    Args:
        positions: in Angstrom; atoms may lie outside the cell.
        cell: lattice vectors as rows, in Angstrom; rows of directions that are not periodic may be zero.
        pbc: which lattice directions are periodic.
        cutoff: in Angstrom.
        skin: so much further pairs are found, in Angstrom: the wider, the rarer the searches and the more pairs.
        headroom: share of pairs to keep free, of those of the structure given; by as much its cell may get denser.

    Raises:
        InputError: the structure is too large for a search among all pairs of atoms.
    """
    reach = cutoff + skin
    complement = np.where(np.any(cell, axis=1)[:, None], 0.0, ase.geometry.complete_cell(cell) - cell)
    # Room for more pairs is room for a smaller cell too: as dense as the arrays would hold.
    squeeze = (1 + headroom) ** (-1 / 3)
    widths = squeeze * plane_spacings(cell + complement)
    has_one_image = has_nearest_images(squeeze * cell, pbc, reach)
    most = np.where(pbc & (not has_one_image), np.ceil(reach / widths), 0).astype(int)
    images = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in most), indexing="ij"), axis=-1).reshape(-1, 3)
    first, second = np.triu_indices(len(positions))
    if len(first) * len(images) > MAX_CANDIDATES:
        raise InputError(
            f"{len(positions)} atoms with {len(images)} images have too many pairs to look at all of them; take a"
            " smaller system, or neighbours from jax-md."
        )
    is_pair = (first != second)[:, None] | (np.arange(len(images)) > len(images) // 2)
    num_candidates = int(is_pair.sum())

    def room(radius: float) -> int:
        senders, _, _ = neighbor_list(positions, cell, pbc, radius)
        return min(size_ladder(int(len(senders) / 2 * (1 + headroom)) + 1), max(num_candidates, 1))

    plan = _Plan(
        pbc=pbc,
        complement=complement,
        cutoff=cutoff,
        skin=skin,
        first=first,
        second=second,
        images=images,
        is_pair=is_pair,
        has_one_image=has_one_image,
        least_widths=np.full(3, 2 * reach) if has_one_image else reach / np.maximum(most, 1),
        capacity=room(reach),
        capacity_within_cutoff=room(cutoff),
        most_pairs=np.inf if pbc.any() else num_candidates,
    )
    return Search(partial(_find, plan), partial(_is_stale, plan), partial(_within_cutoff, plan))


def _candidates(plan: _Plan, positions: Array, cell: Array) -> tuple[Array, Array]:
    """Shifts and squared distances of all pairs, by pair and image."""
    fractional = jnp.where(plan.pbc, positions @ inverse_of(cell + plan.complement), 0)
    one, other = fractional[plan.first], fractional[plan.second]
    nearest = -jnp.round(one - other) if plan.has_one_image else jnp.floor(other) - jnp.floor(one)
    shifts = nearest[:, None, :] + plan.images
    vectors = (positions[plan.first] - positions[plan.second])[:, None, :] + shifts @ cell
    return shifts.astype(jnp.int32), jnp.where(plan.is_pair, jnp.sum(vectors**2, axis=-1), jnp.inf)


def _find(plan: _Plan, positions: AnyArray, cell: AnyArray) -> Edges:
    positions, cell = jnp.asarray(positions), jnp.asarray(cell)
    shifts, squares = _candidates(plan, positions, cell)
    near = (squares < plan.reach**2).reshape(-1)
    (places,) = jnp.nonzero(near, size=plan.capacity, fill_value=near.size)
    is_real = places < near.size
    pair = jnp.minimum(places // len(plan.images), len(plan.first) - 1)

    def chosen(values: Array, otherwise: int) -> Array:
        return jnp.where(is_real, values, otherwise).astype(jnp.int32)

    widths = 1 / jnp.linalg.norm(inverse_of(cell + plan.complement), axis=0)
    is_narrow = jnp.any((widths < (1 - ROUNDING) * plan.least_widths) & plan.pbc)
    num_pairs = jnp.sum(near, dtype=jnp.int32)
    return Edges(
        senders=chosen(jnp.asarray(plan.first)[pair], len(positions)),
        receivers=chosen(jnp.asarray(plan.second)[pair], len(positions)),
        shifts=jnp.where(is_real[:, None], shifts.reshape(-1, 3)[jnp.minimum(places, near.size - 1)], 0),
        num_pairs=num_pairs,
        overflow=(num_pairs > plan.capacity) | is_narrow,
        positions=positions,
        cell=cell,
    )


def _is_stale(plan: _Plan, positions: AnyArray, cell: AnyArray, edges: Edges) -> Bool[Array, ""]:
    # A vector r between atoms becomes r + r strain + what the two move beside that. Of those longer than the reach
    # none gets shorter than the cutoff while the strain takes less of the reach, and the moves less, than the skin.
    strain = inverse_of(edges.cell + plan.complement) @ (cell - edges.cell)
    moves = positions - edges.positions - edges.positions @ strain
    furthest = jnp.max(jnp.linalg.norm(moves, axis=-1), initial=0)
    has_moved = plan.reach * jnp.linalg.norm(strain) + 2 * furthest > plan.skin
    return has_moved & (edges.num_pairs < plan.most_pairs)


def _within_cutoff(plan: _Plan, positions: AnyArray, cell: AnyArray, edges: Edges) -> Edges:
    if plan.capacity_within_cutoff >= plan.capacity:
        return edges
    positions, cell = jnp.asarray(positions), jnp.asarray(cell)
    last = len(positions) - 1  # instead of no atom; what is computed of it is not used
    senders, receivers = (jnp.minimum(end, last) for end in (edges.senders, edges.receivers))
    vectors = positions[senders] - positions[receivers] + edges.shifts.astype(positions.dtype) @ cell
    near = (jnp.sum(vectors**2, axis=-1) < plan.cutoff**2) & (jnp.arange(plan.capacity) < edges.num_pairs)
    (places,) = jnp.nonzero(near, size=plan.capacity_within_cutoff, fill_value=plan.capacity)
    num_pairs = jnp.sum(near, dtype=jnp.int32)
    return edges._replace(
        senders=edges.senders.at[places].get(mode="fill", fill_value=len(positions)),
        receivers=edges.receivers.at[places].get(mode="fill", fill_value=len(positions)),
        shifts=edges.shifts.at[places].get(mode="fill", fill_value=0),
        num_pairs=num_pairs,
        overflow=edges.overflow | (num_pairs > plan.capacity_within_cutoff),
    )


def inverse_of(matrix: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """By cross products: LAPACK's is a call out of the compiled loop, and on several CPU devices they wait in one line.

    Args:
        matrix: whose rows are three vectors that span a volume.
    """
    crosses = jnp.cross(jnp.roll(matrix, -1, axis=0), jnp.roll(matrix, -2, axis=0))
    return crosses.T / (matrix[0] @ crosses[0])


def has_nearest_images(cell: Float[np.ndarray, "3 3"], pbc: Bool[np.ndarray, " 3"], reach: float) -> bool:
    """Whether the cell is so wide that of an atom's images only the nearest can be within reach.

    Args:
        cell: lattice vectors as rows, in Angstrom; rows of directions that are not periodic may be zero.
        pbc: which lattice directions are periodic.
        reach: in Angstrom.
    """
    return not np.any(pbc & (plane_spacings(ase.geometry.complete_cell(cell)) < 2 * reach))


def graph_of(
    species: Int[AnyArray, " atom"], positions: Float[Array, "atom 3"], cell: Float[Array, "3 3"] | None, edges: Edges
) -> AtomGraph:
    """The graph of :mod:`bnn_jax.atoms.graph` that a structure and its edges make, with one place of padding.

    Positions are NaN where the edges overflowed, so that nothing is predicted from pairs that are missing.

    Args:
        species: index into the ascending species table.
        positions: in Angstrom.
        cell: lattice vectors as rows, in Angstrom; None without periods.
        edges: of these positions, or of such that they have not left the skin of.
    """
    num_atoms, num_places = len(species), len(edges.senders)
    positions = jnp.where(edges.overflow, jnp.nan, positions)
    num_edges = 2 * jnp.minimum(edges.num_pairs, num_places)

    return AtomGraph(
        nodes={
            "species": jnp.append(jnp.asarray(species, jnp.int32), 0),
            "positions": jnp.concatenate([positions, jnp.zeros((1, 3), positions.dtype)]),
        },
        edges={"shifts": both_ways(edges.shifts, -edges.shifts).astype(positions.dtype)},
        globals={} if cell is None else {"cell": jnp.stack([cell, jnp.zeros_like(cell)])},
        senders=both_ways(edges.senders, edges.receivers),
        receivers=both_ways(edges.receivers, edges.senders),
        n_node=jnp.array([num_atoms, 1], jnp.int32),
        n_edge=jnp.stack([num_edges, 2 * num_places - num_edges]).astype(jnp.int32),
    )


def both_ways(one: Array, other: Array) -> Array:
    """Rows of the first edge of each pair and of the second, one beside the other, as a graph has its edges.

    Args:
        one: [pair, ...], of the first edges.
        other: of the second.
    """
    return jnp.stack([one, other], axis=1).reshape(2 * one.shape[0], *one.shape[1:])
