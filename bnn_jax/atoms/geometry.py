"""What a structure must look like, whatever its labels."""

import ase.geometry
import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import KDTree

from bnn_jax.types import InputError

OVERLAP = 0.1
"""No two atoms, and no two lattice planes, are closer than this, in Angstrom; half the shortest bond is 0.37."""
MAX_LENGTH = 1e6
"""Largest coordinate, in Angstrom: beyond it single precision does not resolve a tenth."""


def check_geometry(
    positions: Float[np.ndarray, "atom 3"], cell: Float[np.ndarray, "3 3"], pbc: Bool[np.ndarray, " 3"], where: str
) -> None:
    """Refuse a structure that no potential could describe.

    Args:
        positions: in Angstrom; atoms may lie outside the cell.
        cell: lattice vectors as rows, in Angstrom.
        pbc: which of them are periods.
        where: opens the error sentence, for example ``"file.xyz, frame 3"``.

    Raises:
        InputError: there is no atom, a coordinate is not finite or absurd, the periods span no right-handed cell, or
            two atoms overlap (periodic images included).
    """
    if len(positions) == 0:
        raise InputError(f"{where}: there is no atom; remove the frame.")
    if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
        raise InputError(f"{where}: positions or cell hold NaN or infinity; remove the frame or correct it.")
    largest = max(np.abs(positions).max(), np.abs(cell).max())
    if largest > MAX_LENGTH:
        raise InputError(
            f"{where}: positions or cell reach {largest:.3g} Angstrom; correct them, or name their unit (length_unit=)."
        )
    box = _box(cell, pbc, where)
    pair = _overlapping_pair(positions, box, pbc)
    if pair is not None:
        first, second, distance = pair
        raise InputError(
            f"{where}: atoms {first} and {second} are {distance:.2g} Angstrom apart; remove one or the frame, or name"
            " the unit of the positions (length_unit=)."
        )


def _box(cell: Float[np.ndarray, "3 3"], pbc: Bool[np.ndarray, " 3"], where: str) -> Float[np.ndarray, "3 3"]:
    """Three independent vectors: those of the cell, completed where a direction without periods has none."""
    if not pbc.any():
        return np.eye(3)
    periods = cell[pbc]
    if np.linalg.matrix_rank(periods, tol=1e-6) < len(periods):
        raise InputError(f"{where}: pbc is set but the cell has no volume; give the cell or switch pbc off.")
    if np.linalg.det(cell) < 0:
        raise InputError(
            f"{where}: the lattice vectors are left-handed; swap two of them, or change the sign of all three, which"
            " leaves the lattice as it is."
        )
    box = ase.geometry.complete_cell(cell)
    if np.linalg.matrix_rank(box, tol=1e-6) < 3:
        raise InputError(
            f"{where}: the lattice vectors lie in one plane; correct them or leave out those not periodic."
        )
    spacing = plane_spacings(box)[pbc].min()
    if spacing < OVERLAP:
        raise InputError(
            f"{where}: lattice planes of the cell are {spacing:.2g} Angstrom apart; give a reduced cell, or name the"
            " unit of its lengths (length_unit=)."
        )
    return box


def plane_spacings(box: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, " 3"]:
    """Distances between opposite sides of a cell, in the unit of its lattice vectors.

    Args:
        box: lattice vectors as rows, no three in a plane.
    """
    return 1 / np.linalg.norm(np.linalg.inv(box), axis=0)


def _overlapping_pair(
    positions: Float[np.ndarray, "atom 3"], box: Float[np.ndarray, "3 3"], pbc: Bool[np.ndarray, " 3"]
) -> tuple[int, int, float] | None:
    """The closest pair of atoms and their distance, if that is below ``OVERLAP``.

    A tree takes time n log n and memory n even where a neighbour list, of atoms all on one spot, would need n squared.
    Planes are at least ``OVERLAP`` apart, so that one image beyond each face is enough, and none is the atom's own.
    """
    points, atoms = positions, np.arange(len(positions))
    if pbc.any():
        points = positions @ np.linalg.inv(box)
        points = points - np.where(pbc, np.floor(points), 0.0)
        margins = OVERLAP / plane_spacings(box)
        for axis in np.flatnonzero(pbc):
            low, high = points[:, axis] < margins[axis], points[:, axis] > 1 - margins[axis]
            period = np.eye(3)[axis]
            points = np.concatenate([points, points[low] + period, points[high] - period])
            atoms = np.concatenate([atoms, atoms[low], atoms[high]])
        points = points @ box
    nearest = KDTree(points).query(points[: len(positions)], k=2, distance_upper_bound=OVERLAP)
    distances, neighbors = np.asarray(nearest[0]), np.asarray(nearest[1])
    first = int(np.argmin(distances[:, 1]))
    if not distances[first, 1] < OVERLAP:
        return None
    second = next(int(atoms[i]) for i in neighbors[first] if i != first)
    return min(first, second), max(first, second), float(distances[first, 1])
