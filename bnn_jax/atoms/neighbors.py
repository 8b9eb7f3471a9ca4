"""Neighbour lists, on the host."""

import ase.geometry
import numpy as np
from jaxtyping import Bool, Float, Int
from vesin import NeighborList


def near_origin(
    positions: Float[np.ndarray, "atom 3"], cell: Float[np.ndarray, "3 3"], pbc: Bool[np.ndarray, " 3"]
) -> Float[np.ndarray, "atom 3"]:
    """The same structure with the centroid at the origin, and no atom further than a period outside the cell.

    Atoms that are nearer stay where they are, so that none jumps when it crosses a side of the cell.

    Args:
        positions: in Angstrom, float64.
        cell: lattice vectors as rows, in Angstrom; rows of directions that are not periodic may be zero.
        pbc: which lattice directions are periodic.
    """
    if pbc.any():
        images = np.floor(positions @ np.linalg.inv(ase.geometry.complete_cell(cell)))
        positions = positions - np.where(pbc & (np.abs(images) > 1), images, 0.0) @ cell
    return positions - positions.mean(axis=0)


def neighbor_list(
    positions: Float[np.ndarray, "atom 3"],
    cell: Float[np.ndarray, "3 3"],
    pbc: Bool[np.ndarray, " 3"],
    cutoff: float,
) -> tuple[Int[np.ndarray, " edge"], Int[np.ndarray, " edge"], Int[np.ndarray, "edge 3"]]:
    """All directed pairs closer than the cutoff, periodic images of an atom itself included, each beside its reverse.

    Args:
        positions: in Angstrom; atoms may lie outside the cell.
        cell: lattice vectors as rows, in Angstrom; rows of directions that are not periodic may be zero.
        pbc: which lattice directions are periodic.
        cutoff: in Angstrom; may exceed the cell.

    Returns:
        ``senders``, ``receivers`` and ``shifts``, all int32: the sender's image lies at ``positions[senders] + shifts @
        cell``. Edge 2k + 1 is edge 2k with its ends exchanged and its shift reversed. Pairs ascend by receiver, sender
        and shift of their first edge.
    """
    finder = NeighborList(cutoff=cutoff, full_list=False, n_threads=1)
    box = ase.geometry.complete_cell(cell) if pbc.any() else np.eye(3)
    points = np.asarray(positions, np.float64)
    first, second, shifts = _sorted(len(points), *finder.compute(points, np.asarray(box, np.float64), pbc, "ijS"))
    senders = np.stack([second, first], axis=1).reshape(-1)
    receivers = np.stack([first, second], axis=1).reshape(-1)
    shifts = np.stack([shifts, -shifts], axis=1).reshape(-1, 3)
    return senders.astype(np.int32), receivers.astype(np.int32), shifts.astype(np.int32)


def _sorted(
    num_atoms: int, first: np.ndarray, second: np.ndarray, shifts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """In one order however they were found, so that the rounding of every sum over them is the same."""
    lowest, highest = np.min(shifts, axis=0, initial=0), np.max(shifts, axis=0, initial=0)
    key = first.astype(np.int64) * num_atoms + second.astype(np.int64)
    for column, low, width in zip(shifts.T, lowest, highest - lowest + 1, strict=True):
        key = key * width + (column - low)
    order = np.argsort(key)
    return first[order], second[order], shifts[order]
