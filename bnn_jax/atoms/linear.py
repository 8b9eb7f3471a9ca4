"""A linear potential, to judge labels by: energies, forces and virials that are linear in some hundred coefficients.

By pair of elements t and radial function k the energy has the terms ``sum_pairs phi_k(r)`` and, for l of 0, 1 and 2,
``sum_i |sum_j phi_k(r_ij) r_ij^(l)|^2``, where ``r_ij^(l)`` is the direction times itself l times: pairs, densities of
neighbours, and their angles, as in the diagonal of a power spectrum.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse
from jaxtyping import Float

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.neighbors import neighbor_list

CUTOFF, NEAREST = 5.0, 0.6
"""In Angstrom, of the radial functions."""
NUM_RADIAL = 8
MAX_ORDER = 2
"""Of the moments of the directions."""
MAX_KINDS = 12
"""Of pairs of elements; the rarest share the last."""


class Design(NamedTuple):
    """Derivatives of what the linear potential predicts for structures by its coefficients."""

    energy: Float[np.ndarray, "structure coefficient"]
    forces: Float[np.ndarray, "atom 3 coefficient"]
    virial: Float[np.ndarray, "structure 3 3 coefficient"]
    """Derivative of the energy by the strain; the stress is this over the volume."""


def design(dataset: Dataset) -> Design:
    """The linear potential of structures.

    Args:
        dataset: structures with atoms.
    """
    first, second, vectors = _pairs(dataset)
    kinds = _kinds(dataset, first, second)
    atoms_of = _sums(dataset.structure_index, len(dataset))
    energy, forces, virial = [], [], []
    for kind in range(kinds.max(initial=0) + 1):
        pairs = np.flatnonzero(kinds == kind)
        at_first, at_second = (_sums(ends[pairs], len(dataset.numbers)) for ends in (first, second))
        pairs_of = _sums(dataset.structure_index[first[pairs]], len(dataset))
        for of_pair, of_atom, gradient in _terms(vectors[pairs], at_first, at_second, len(dataset.numbers)):
            energy.append(pairs_of @ of_pair + atoms_of @ of_atom)
            forces.append((at_first - at_second) @ gradient.reshape(-1, 3 * NUM_RADIAL))
            strained = vectors[pairs, :, None, None] * gradient[:, None]
            virial.append(pairs_of @ strained.reshape(-1, 9 * NUM_RADIAL))
    return Design(
        np.concatenate(energy, axis=-1),
        np.concatenate([part.reshape(-1, 3, NUM_RADIAL) for part in forces], axis=-1),
        np.concatenate([part.reshape(-1, 3, 3, NUM_RADIAL) for part in virial], axis=-1),
    )


def _terms(
    vectors: Float[np.ndarray, "pair 3"],
    at_first: scipy.sparse.csr_matrix,
    at_second: scipy.sparse.csr_matrix,
    num_atoms: int,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Energies of the pairs and of the atoms, and the derivative of both by the pairs' vectors, term by term."""
    distances = np.linalg.norm(vectors, axis=1)
    rays = vectors / distances[:, None]
    value, slope = _radial(distances)
    yield value, np.zeros((num_atoms, NUM_RADIAL)), slope[:, None, :] * rays[:, :, None]
    value_over_distance = value / distances[:, None]
    powers = np.ones((len(vectors), 1))
    for order in range(MAX_ORDER + 1):
        ends = at_first + (-1) ** order * at_second  # an odd moment changes its sign with the direction
        moments = ends @ (powers[:, :, None] * value[:, None, :]).reshape(-1, 3**order * NUM_RADIAL)
        # Contracted with all rays but one, then with all.
        seen = (ends.T @ moments).reshape(len(vectors), *[3] * order, NUM_RADIAL)
        for _ in range(order - 1):
            seen = np.einsum("pi...,pi->p...", seen, rays)
        inner = seen if order == 0 else np.einsum("pik,pi->pk", seen, rays)
        gradient = ((slope - order * value_over_distance) * inner)[:, None, :] * rays[:, :, None]
        if order:
            gradient += order * value_over_distance[:, None, :] * seen
        squares = (moments.reshape(-1, 3**order, NUM_RADIAL) ** 2).sum(axis=1)
        yield np.zeros_like(value), squares, 2 * gradient
        powers = (powers[:, :, None] * rays[:, None, :]).reshape(-1, 3 ** (order + 1))


def _pairs(dataset: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both ends of each pair, once, and the vector from the first to the second."""
    ends, vectors = [np.zeros((0, 2), int)], [np.zeros((0, 3))]
    for i, start in enumerate(dataset.offsets[:-1]):
        points, cell = dataset.positions[start : dataset.offsets[i + 1]], dataset.cell[i]
        edges = neighbor_list(points, cell, dataset.pbc[i], CUTOFF)
        senders, receivers, shifts = (edge[::2] for edge in edges)  # each pair is there in both directions
        ends.append(np.stack([receivers, senders], axis=1) + start)
        vectors.append(points[senders] + shifts @ cell - points[receivers])
    ends = np.concatenate(ends)
    return ends[:, 0], ends[:, 1], np.concatenate(vectors)


def _kinds(dataset: Dataset, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pair of elements of each pair of atoms, the most frequent one first."""
    ends = np.sort(np.searchsorted(dataset.species, dataset.numbers[np.stack([first, second])]), axis=0)
    _, kinds, counts = np.unique(ends[0] * len(dataset.species) + ends[1], return_inverse=True, return_counts=True)
    return np.minimum(np.argsort(np.argsort(-counts, kind="stable"))[kinds], MAX_KINDS - 1)


def _radial(distances: Float[np.ndarray, " pair"]) -> tuple[np.ndarray, np.ndarray]:
    """Gaussians that vanish smoothly at the cutoff, and their derivatives, ``[pair, NUM_RADIAL]``."""
    centres = np.linspace(NEAREST, CUTOFF, NUM_RADIAL, endpoint=False)
    width = centres[1] - centres[0]
    offsets = (distances[:, None] - centres) / width
    bells = np.exp(-0.5 * offsets**2)
    ratio = (distances / CUTOFF)[:, None]
    window, window_slope = (1 - ratio**2) ** 2, -4 * ratio * (1 - ratio**2) / CUTOFF
    return bells * window, bells * (window_slope - offsets / width * window)


def _sums(groups: np.ndarray, num_groups: int) -> scipy.sparse.csr_matrix:
    """The matrix that adds up what belongs to the same group."""
    members = np.arange(len(groups))
    return scipy.sparse.csr_matrix((np.ones(len(groups)), (groups, members)), (num_groups, len(groups)))
