"""What surrounds an atom, in plain geometry: how near its nearest neighbours are, and how many there are."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from bnn_jax.atoms.graph import AnyArray, PackedData, pair_mask, pair_vectors
from bnn_jax.types import AtomGraph


class Environments(NamedTuple):
    """Of atoms, as host arrays or, from :func:`surroundings`, in part on the device."""

    species: Int[np.ndarray, " atom"]
    """Index into the ascending species table."""
    nearest: Float[AnyArray, "atom species"]
    """Distance to the nearest neighbour of each species in Angstrom; the cutoff where there is none within it."""
    counts: Int[AnyArray, " atom"]
    """Neighbours within the cutoff."""


def environments(packed: PackedData, cutoff: float, num_species: int) -> Environments:
    """Look at the neighbours of every atom.

    Args:
        packed: structures, on the host.
        cutoff: that they were packed with, in Angstrom.
        num_species: length of the species table.
    """
    species, positions = np.asarray(packed.species), np.asarray(packed.positions)
    num_edges = int(packed.edge_offset[-1])  # without any, a pair is kept that no structure owns
    structure = np.repeat(np.arange(len(packed.energy)), np.diff(packed.edge_offset))
    first = np.asarray(packed.node_offset)[structure]
    senders, receivers = (np.asarray(each)[:num_edges] + first for each in (packed.senders, packed.receivers))
    vectors = positions[senders] - positions[receivers]
    if packed.cell is not None:
        shifts = np.asarray(packed.shifts)[:num_edges].astype(vectors.dtype)
        vectors = vectors + np.einsum("ei,eij->ej", shifts, np.asarray(packed.cell)[structure])
    nearest = np.full((len(species), num_species), cutoff)
    np.minimum.at(nearest, (receivers, species[senders]), np.linalg.norm(vectors, axis=1))
    return Environments(species, nearest, np.bincount(receivers, minlength=len(species)))


def surroundings(graph: AtomGraph, species: Int[np.ndarray, " atom"], cutoff: float, num_species: int) -> Environments:
    """The same as a pure function, of one structure whose graph may have pairs beyond the cutoff.

    Args:
        graph: with the atoms first.
        species: index into the ascending species table.
        cutoff: in Angstrom.
        num_species: length of the species table.
    """
    lengths = jnp.linalg.norm(pair_vectors(graph), axis=-1)
    is_near = pair_mask(graph) & (lengths < cutoff)
    lengths = jnp.where(is_near, lengths, cutoff)
    nearest = jnp.full((len(graph.nodes["species"]), num_species), cutoff, lengths.dtype)
    counts = jnp.zeros(len(nearest), jnp.int32)
    for one, other in (graph.senders[::2], graph.receivers[::2]), (graph.receivers[::2], graph.senders[::2]):
        nearest = nearest.at[one, graph.nodes["species"][other]].min(lengths)
        counts = counts.at[one].add(is_near.astype(jnp.int32))
    return Environments(species, nearest[: len(species)], counts[: len(species)])
