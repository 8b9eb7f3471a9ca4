"""Atoms as graphs: a data set packed on the host, minibatches gathered on the device, and what models ask of them.

An ``AtomGraph`` is a :class:`jraph.GraphsTuple` with

- ``nodes``: ``species`` int32 [atom], the index into the ascending species table, ``positions`` [atom, 3] in Angstrom;
- ``edges``: ``shifts`` [edge, 3], the integer lattice image of the sender;
- ``globals``: ``cell`` [structure, 3, 3] in Angstrom, lattice vectors as rows, zero for a structure without periods;
  the key is absent if no structure of the data set is periodic;
- ``senders``, ``receivers`` int32 [edge], each directed edge once; ``n_node``, ``n_edge``. Edges come in pairs: edge
  2k + 1 is the reverse of edge 2k, so that models compute once what depends on distances.

The vector of an edge is ``positions[senders] + shifts @ cell - positions[receivers]``; messages go from sender to
receiver. The structure after the last real one takes the surplus nodes (at least one) and edges, as jraph pads; its
edges, an even number of them, join its last node to itself.

``pack`` computes every neighbour list once. ``gather_batch`` is pure: with the packed arrays on the device a sampler
draws its minibatches inside ``scan``, without a word to the host.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import DTypeLike
from tqdm import tqdm

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.neighbors import near_origin, neighbor_list
from bnn_jax.types import AtomGraph, Batch, InputError, Labels

AnyArray = Array | np.ndarray


class PackedData(NamedTuple):
    """A labelled data set; the atoms and edges of all structures follow one another, without padding.

    Structure i owns atoms ``node_offset[i]:node_offset[i + 1]`` and edges ``edge_offset[i]:edge_offset[i + 1]``. A data
    set without any edge keeps a pair that no structure owns, for a gather cannot read from an empty array.
    """

    species: Int[AnyArray, " atom"]
    """Index into the ascending species table."""
    positions: Float[AnyArray, "atom 3"]
    cell: Float[AnyArray, "structure 3 3"] | None
    """None if no structure is periodic; zero for those that are not."""
    senders: Int[AnyArray, " edge"]
    """Counted from the first atom of the edge's structure, as ``receivers``."""
    receivers: Int[AnyArray, " edge"]
    shifts: Int[AnyArray, "edge 3"]
    node_offset: Int[AnyArray, " structure_and_one"]
    edge_offset: Int[AnyArray, " structure_and_one"]
    energy: Float[AnyArray, " structure"]
    """Energy above the sum of the atomic shifts, in eV; zero where missing."""
    energy_mask: Bool[AnyArray, " structure"]
    forces: Float[AnyArray, "atom 3"]
    forces_mask: Bool[AnyArray, " atom"]
    stress: Float[AnyArray, "structure 3 3"]
    stress_mask: Bool[AnyArray, " structure"]


def pack(
    dataset: Dataset,
    cutoff: float,
    species: tuple[int, ...],
    shifts: Float[np.ndarray, " species"],
    dtype: DTypeLike = np.float32,
) -> PackedData:
    """Neighbour lists and labels of a data set, as host arrays.

    Before anything is rounded to ``dtype`` each structure is brought near the origin in float64
    (:func:`bnn_jax.atoms.neighbors.near_origin`), so that the vectors of edges have the digits of ``dtype`` at the size
    of the structure, wherever a trajectory has taken its atoms.

    Args:
        dataset: the structures.
        cutoff: in Angstrom.
        species: atomic numbers the potential knows, ascending.
        shifts: energy of a single atom of each species, in eV. They are subtracted in float64: total energies reach
            thousands of eV, where float32 resolves 0.5 meV.
        dtype: of positions, cells and labels.

    Raises:
        InputError: a structure holds an element that is not in ``species``.
    """
    indices = species_index(dataset, species)
    shift_sums = np.bincount(dataset.structure_index, np.asarray(shifts)[indices], minlength=len(dataset))
    periodic = np.any(dataset.pbc, axis=1)
    positions, senders, receivers, images, num_edges = _neighbor_lists(dataset, cutoff)
    energy_mask = np.isfinite(dataset.energy)
    forces_mask = np.all(np.isfinite(dataset.forces), axis=1)
    stress_mask = np.all(np.isfinite(dataset.stress), axis=(1, 2)) & periodic
    return PackedData(
        species=indices.astype(np.int32),
        positions=positions.astype(dtype),
        cell=np.where(periodic[:, None, None], dataset.cell, 0.0).astype(dtype) if periodic.any() else None,
        senders=senders,
        receivers=receivers,
        shifts=images,
        node_offset=dataset.offsets.astype(np.int32),
        edge_offset=np.concatenate([[0], np.cumsum(num_edges)]).astype(np.int32),
        energy=np.where(energy_mask, dataset.energy - shift_sums, 0.0).astype(dtype),
        energy_mask=energy_mask,
        forces=np.where(forces_mask[:, None], dataset.forces, 0.0).astype(dtype),
        forces_mask=forces_mask,
        stress=np.where(stress_mask[:, None, None], dataset.stress, 0.0).astype(dtype),
        stress_mask=stress_mask,
    )


def species_index(dataset: Dataset, species: tuple[int, ...]) -> Int[np.ndarray, " atom"]:
    """Index of each atom into the ascending species table.

    Raises:
        InputError: a structure holds an element that is not in ``species``.
    """
    unknown = ~np.isin(dataset.numbers, species)
    if unknown.any():
        atom = int(np.argmax(unknown))
        known = ", ".join(chemical_symbols[number] for number in species)
        raise InputError(
            f"Structure {dataset.structure_index[atom]} holds {chemical_symbols[dataset.numbers[atom]]}, which the"
            f" potential does not know (it knows {known}); remove the structure or train on data with that element."
        )
    return np.searchsorted(species, dataset.numbers)


def _neighbor_lists(
    dataset: Dataset, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[int]]:
    """Positions near the origin, and senders, receivers and shifts among them, with their numbers in each structure."""
    positions = np.empty_like(dataset.positions)
    # Small integer types from the start: the lists are most of the memory of a packed data set.
    lists = []
    steps = tqdm(range(len(dataset)), desc="neighbour lists", unit="structure", delay=5, disable=None)
    for i in steps:
        atoms = slice(dataset.offsets[i], dataset.offsets[i + 1])
        positions[atoms] = near_origin(dataset.positions[atoms], dataset.cell[i], dataset.pbc[i])
        senders, receivers, shifts = neighbor_list(positions[atoms], dataset.cell[i], dataset.pbc[i], cutoff)
        fits = np.abs(shifts).max(initial=0) <= np.iinfo(np.int8).max  # unless the cell is a tiny part of the cutoff
        lists.append((senders, receivers, shifts.astype(np.int8) if fits else shifts))
    num_edges = [len(senders) for senders, _, _ in lists]
    if sum(num_edges) == 0:
        lists.append((np.zeros(2, np.int32), np.zeros(2, np.int32), np.zeros((2, 3), np.int8)))
    senders, receivers, shifts = (np.concatenate(parts) for parts in zip(*lists, strict=True))
    return positions, senders, receivers, shifts, num_edges


def size_ladder(size: int) -> int:
    """Smallest rung that holds ``size``; the rungs are ``m * 2**k`` with m from 8 to 15, so at most an eighth is waste.

    Padding to a rung keeps the number of shapes, and so of compilations, logarithmic in the sizes met.
    """
    doublings = max(0, (size - 1).bit_length() - 4)
    return max(8, -(-size // 2**doublings)) * 2**doublings


def batch_size_needed(packed: PackedData, indices: Int[np.ndarray, "*plan batch"]) -> tuple[int, int]:
    """Padded numbers of nodes and edges that hold every batch of a plan, on the ladder.

    Args:
        packed: the data set, on the host.
        indices: structures of each batch along the last axis; negative ones are empty.

    Returns:
        ``num_nodes`` (at least one of them padding) and ``num_edges`` for :func:`gather_batch`.
    """
    indices = np.asarray(indices)
    sizes = []
    for offset in (packed.node_offset, packed.edge_offset):
        counts = np.where(indices < 0, 0, np.diff(np.asarray(offset))[indices])
        sizes.append(int(counts.sum(axis=-1).max()))
    return size_ladder(sizes[0] + 1), 2 * size_ladder(sizes[1] // 2)


def batch_bound(packed: PackedData, batch_size: int, repeated: bool = False) -> tuple[int, int]:
    """Padded sizes that just hold any minibatch: one shape serves a whole run, so there is no need of a ladder.

    Args:
        packed: the data set, on the host.
        batch_size: structures of a minibatch.
        repeated: whether a structure may come up more than once in it.

    Returns:
        ``num_nodes`` and ``num_edges`` for :func:`gather_batch`.
    """
    atoms, edges = (np.sort(np.diff(offset)) for offset in (packed.node_offset, packed.edge_offset))
    if repeated:
        atoms, edges = np.repeat(atoms[-1:], batch_size), np.repeat(edges[-1:], batch_size)
    return int(atoms[-batch_size:].sum()) + 1, max(int(edges[-batch_size:].sum()), 2)


@functools.partial(jax.jit, static_argnames=("num_nodes", "num_edges"))
def gather_batch(packed: PackedData, indices: Int[AnyArray, " batch"], num_nodes: int, num_edges: int) -> Batch:
    """The padded batch of the structures ``indices``; pure and jitted, for use under ``vmap`` and ``scan`` too.

    It equals ``jraph.pad_with_graphs(jraph.batch(...), num_nodes, num_edges, len(indices) + 1)``.

    Args:
        packed: the data set, on the device (``jax.device_put``) if several batches are drawn from it.
        indices: structures in the order wanted, repeats allowed; negative ones, at the end only, are empty.
        num_nodes: static, from :func:`batch_size_needed`.
        num_edges: static, likewise; even.

    Returns:
        A batch of ``len(indices) + 1`` structures. Labels of padding and missing labels are zero with mask False. If
        the structures do not fit the given sizes every position is NaN.

    Raises:
        ValueError: ``num_edges`` is odd.
    """
    if num_edges % 2:
        raise ValueError(f"num_edges is {num_edges}; edges come in pairs, so it must be even.")
    indices = jnp.asarray(indices, jnp.int32)
    node = _owners(packed.node_offset, indices, num_nodes)
    edge = _owners(packed.edge_offset, indices, num_edges)
    fits = (node.total < num_nodes) & (edge.total <= num_edges)

    positions = _masked(packed.positions[node.source], node.mask) + jnp.where(fits, 0.0, jnp.nan)
    first_node = node.start[edge.structure]
    senders = jnp.where(edge.mask, packed.senders[edge.source] + first_node, num_nodes - 1)
    receivers = jnp.where(edge.mask, packed.receivers[edge.source] + first_node, num_nodes - 1)

    # One more structure than asked for; the first one after the real ones is jraph's padding structure.
    slots = jnp.arange(indices.shape[0] + 1)
    num_real = jnp.sum(indices >= 0)
    is_real = slots < num_real
    structure = jnp.maximum(jnp.append(indices, -1), 0)
    graph = AtomGraph(
        nodes={"species": _masked(packed.species[node.source], node.mask), "positions": positions},
        edges={"shifts": _masked(packed.shifts[edge.source], edge.mask).astype(positions.dtype)},
        globals={} if packed.cell is None else {"cell": _masked(packed.cell[structure], is_real)},
        senders=senders.astype(jnp.int32),
        receivers=receivers.astype(jnp.int32),
        n_node=jnp.where(slots == num_real, num_nodes - node.total, jnp.append(node.length, 0)).astype(jnp.int32),
        n_edge=jnp.where(slots == num_real, num_edges - edge.total, jnp.append(edge.length, 0)).astype(jnp.int32),
    )
    labels = Labels(
        energy=_masked(packed.energy[structure], is_real),
        energy_mask=packed.energy_mask[structure] & is_real,
        forces=_masked(packed.forces[node.source], node.mask),
        forces_mask=packed.forces_mask[node.source] & node.mask,
        stress=_masked(packed.stress[structure], is_real),
        stress_mask=packed.stress_mask[structure] & is_real,
    )
    return Batch(graph, labels)


class _Owners(NamedTuple):
    """Where each of ``size`` padded rows comes from."""

    length: Array  # rows of each structure of the batch
    start: Array  # first row of each structure of the batch
    total: Array  # rows in use
    mask: Array  # which padded rows are in use
    structure: Array  # place in the batch that owns each padded row
    source: Array  # row of the packed array to read


def _owners(offset: Int[AnyArray, " structure_and_one"], indices: Int[Array, " batch"], size: int) -> _Owners:
    structure = jnp.maximum(indices, 0)
    length = jnp.where(indices < 0, 0, offset[structure + 1] - offset[structure])
    end = jnp.cumsum(length)
    row = jnp.arange(size, dtype=jnp.int32)
    owner = jnp.searchsorted(end, row, side="right", method="scan_unrolled")
    owner = jnp.minimum(owner, indices.shape[0] - 1)
    mask = row < end[-1]
    start = end - length
    source = jnp.where(mask, offset[structure[owner]] + row - start[owner], 0)
    return _Owners(length, start, end[-1], mask, owner, source)


def _masked(values: Array, mask: Bool[Array, " row"]) -> Array:
    return jnp.where(mask.reshape(-1, *[1] * (values.ndim - 1)), values, jnp.zeros((), values.dtype))


def node_structure(graph: AtomGraph) -> Int[Array, " atom"]:
    """Index of the structure that each node belongs to, padding included."""
    num_structures, num_nodes = graph.n_node.shape[0], graph.nodes["positions"].shape[0]
    return jnp.repeat(jnp.arange(num_structures, dtype=jnp.int32), graph.n_node, total_repeat_length=num_nodes)


def pair_vectors(graph: AtomGraph) -> Float[Array, "pair 3"]:
    """Vector of the first edge of each pair, receiver to sender's image, in Angstrom; zero for padding."""
    senders, receivers = graph.senders[::2], graph.receivers[::2]
    positions = graph.nodes["positions"]
    vectors = positions[senders] - positions[receivers]
    if "cell" in graph.globals:
        cell = graph.globals["cell"][node_structure(graph)[receivers]]
        vectors += jnp.einsum("ei,eij->ej", graph.edges["shifts"][::2], cell)
    return vectors


def node_mask(graph: AtomGraph) -> Bool[Array, " atom"]:
    """True for real nodes, False for padding."""
    return _mask(jraph.get_node_padding_mask, graph)


def edge_mask(graph: AtomGraph) -> Bool[Array, " edge"]:
    """True for real edges, False for padding."""
    return _mask(jraph.get_edge_padding_mask, graph)


def pair_mask(graph: AtomGraph) -> Bool[Array, " pair"]:
    """True for real pairs of edges, False for padding."""
    return edge_mask(graph)[::2]


def structure_mask(graph: AtomGraph) -> Bool[Array, " structure"]:
    """True for real structures, False for padding."""
    return _mask(jraph.get_graph_padding_mask, graph)


def _mask(mask_fn: Callable[[Any], Any], graph: AtomGraph) -> Array:
    """A mask of jraph's, whose annotations know fields as trees of anything only."""
    return mask_fn(graph)
