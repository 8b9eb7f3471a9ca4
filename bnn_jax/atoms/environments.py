"""What surrounds an atom, in plain geometry: how near its nearest neighbours are, and how many there are."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bnn_jax.atoms.graph import PackedData


class Environments(NamedTuple):
    """Of the atoms of packed structures, as host arrays."""

    species: Int[np.ndarray, " atom"]
    """Index into the ascending species table."""
    nearest: Float[np.ndarray, "atom species"]
    """Distance to the nearest neighbour of each species in Angstrom; the cutoff where there is none within it."""
    counts: Int[np.ndarray, " atom"]
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
