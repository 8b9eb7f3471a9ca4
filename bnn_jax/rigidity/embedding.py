"""Small structures that hold a local environment of a large one, to label in its place.

An environment is all atoms within a radius of a central one, periodic images included; an image is an atom of its own
in the new structure. So no radius is too large for a structure, whose cell may be smaller than the sphere.
"""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import ase
import ase.geometry
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.linalg import solve_triangular

from bnn_jax.atoms.geometry import check_geometry, plane_spacings
from bnn_jax.atoms.neighbors import neighbor_list
from bnn_jax.rigidity.rigidity import Hessian
from bnn_jax.types import InputError

CLOSE_CONTACT = 1.0
"""No two atoms may be closer than this, in Angstrom; bonds of hydrogen are, so give less where there is some."""
BUFFER_STD = 0.2
"""Of the displacements of buffer atoms along each axis, in Angstrom."""
EDGE_STEP = 0.05
"""By which the edge of a periodic cube grows, in Angstrom."""
MAX_REDRAWS = 1000
"""Of displacements that break a rule."""
SURFACE = 1e-8
"""Atoms this far outside a sphere lie on its surface, and belong to it, in Angstrom."""


class Embedding(NamedTuple):
    """A structure that holds a local environment of another."""

    atoms: ase.Atoms
    """Species, positions, cell and periods; what else atoms carry (labels, momenta, ...) is not taken over."""
    center: int
    """Index of the central atom."""
    is_buffer: Bool[np.ndarray, " atom"]
    """Atoms that belong to no environment that is held, and may move."""
    radius: float
    """Of the environment, in Angstrom."""
    crystal_center: int | None = None
    """Index of the central atom of the untouched environment of a crystal, where there is one."""


def carve_cluster(atoms: ase.Atoms, index: int, radius: float) -> Embedding:
    """The environment alone, as a cluster in vacuum: the central atom first, at the origin, then by distance.

    Args:
        atoms: periodic or not.
        index: of the central atom.
        radius: in Angstrom.

    Raises:
        InputError: there is no such atom, the radius is not positive, or the structure is not sound.

    Reference: Chong et al. (2024), section 4.2, cluster carving.
    """
    _check(atoms, index, radius)
    indices, vectors = _around(atoms, index, radius)
    cluster = ase.Atoms(numbers=atoms.numbers[indices], positions=vectors)
    return Embedding(cluster, 0, np.zeros(len(cluster), bool), radius)


def embed_periodic(atoms: ase.Atoms, index: int, radius: float, close_contact: float = CLOSE_CONTACT) -> Embedding:
    """Cut a cube that tightly holds the environment out of the structure, and repeat it periodically.

    The edge is twice the radius at first and grows by :data:`EDGE_STEP` until no two atoms, images included, are in
    close contact, and no image is in the sphere. No atoms fill the gap, of about ``close_contact`` at most. Atoms in
    the corners of the cube are the buffer.

    Args:
        atoms: periodic or not.
        index: of the central atom, which will be the first, in the middle of the cube.
        radius: in Angstrom.
        close_contact: distance that no two atoms may come below, in Angstrom.

    Raises:
        InputError: there is no such atom, the radius or ``close_contact`` is not positive, the structure is not sound,
            or atoms are in close contact already, within the cube.

    Reference: Chong et al. (2024), section 4.2, periodic embedding.
    """
    _check(atoms, index, radius, close_contact)
    indices, vectors = _around(atoms, index, np.sqrt(3) * radius)
    in_sphere = np.linalg.norm(vectors, axis=1) <= radius + SURFACE
    in_cube = ((vectors >= -radius - SURFACE) & (vectors < radius - SURFACE)).all(axis=1)  # one of two opposite faces
    kept = in_sphere | in_cube
    numbers, vectors, is_buffer = atoms.numbers[indices[kept]], vectors[kept], ~in_sphere[kept]
    _refuse_close(ase.Atoms(numbers=numbers, positions=vectors), close_contact, f"the cube about atom {index}")
    edge = 2 * radius
    while True:
        cube = ase.Atoms(numbers=numbers, positions=vectors + edge / 2, cell=[edge] * 3, pbc=True)
        num_near = len(_around(cube, 0, radius)[0])
        if num_near == in_sphere.sum() and not len(_close_pairs(cube, close_contact)):
            return Embedding(cube, 0, is_buffer, radius)
        edge += EDGE_STEP


def embed_in_crystal(
    atoms: ase.Atoms, index: int, radius: float, crystal: ase.Atoms, close_contact: float = CLOSE_CONTACT
) -> Embedding:
    """Put the environment in place of a sphere of a crystal, beside an environment of the crystal that stays.

    The central atom takes the place of the crystal's first atom, and the environment that of all atoms within the
    radius of it. Crystal atoms in close contact with the environment are left out as well. The supercell is that of
    the fewest cells, repeated along the lattice vectors, in which the spheres of the environment, of one of the
    crystal and of all images do not overlap, and that of the crystal has lost and gained no atom. It is not strained,
    so that this is the environment of the perfect crystal. Atoms in neither environment are the buffer.

    Args:
        atoms: periodic or not.
        index: of the central atom, which will be the first.
        radius: of both environments, in Angstrom.
        crystal: periodic in three directions; any cell. It is worth labelling itself, too.
        close_contact: distance that no two atoms may come below, in Angstrom.

    Raises:
        InputError: there is no such atom, the radius or ``close_contact`` is not positive, a structure is not sound,
            the crystal is not periodic, or atoms are in close contact already, in the environment or in the crystal.

    Reference: Chong et al. (2024), section 4.2, high-symmetry embedding.
    """
    _check(atoms, index, radius, close_contact)
    if not crystal.pbc.all():
        raise InputError("The crystal is not periodic in three directions; set its pbc, and give it a cell.")
    _check_structure(crystal, "The crystal")
    _refuse_close(crystal, close_contact, "the crystal")
    indices, vectors = _around(atoms, index, radius)
    sphere = ase.Atoms(numbers=atoms.numbers[indices], positions=vectors)
    _refuse_close(sphere, close_contact, f"the environment of atom {index}")
    for repeats in _repeats(crystal, radius, close_contact):
        found = _in_supercell(sphere, crystal.repeat(repeats), radius, close_contact)
        if found is not None:
            return found
    raise AssertionError("the last supercell is large enough by construction")


def displace_buffer(
    embedding: Embedding, seed: int, std: float = BUFFER_STD, close_contact: float = CLOSE_CONTACT
) -> Embedding:
    """Displace the buffer atoms at random, by a normal deviate along each axis.

    Displacements of buffer atoms that come into close contact or into an environment are drawn again, both of a pair,
    up to :data:`MAX_REDRAWS` times. So they are normal but for those rules.

    Args:
        embedding: stays as it is.
        seed: of the displacements.
        std: of each coordinate, in Angstrom.
        close_contact: distance that no two atoms may come below, in Angstrom.

    Raises:
        InputError: the std is negative or not finite, ``close_contact`` is not positive, atoms that do not move are in
            close contact, or displacements still break a rule at the end.

    Reference: Chong et al. (2024), section 4.2.
    """
    if not (np.isfinite(std) and std >= 0):
        raise InputError(f"The std of displacements is {std} Angstrom; it must be finite and not negative.")
    _check_contact(close_contact)
    _refuse_close(embedding.atoms[~embedding.is_buffer], close_contact, "the environments, whose atoms do not move")
    rng = np.random.default_rng(seed)
    start, moved = embedding.atoms.positions, embedding.atoms.copy()
    pending = np.flatnonzero(embedding.is_buffer)
    for _ in range(1 + MAX_REDRAWS):
        moved.positions[pending] = start[pending] + rng.normal(scale=std, size=(len(pending), 3))
        breaks = np.zeros(len(moved), bool)
        breaks[_close_pairs(moved, close_contact)] = True
        for center in (embedding.center, embedding.crystal_center):
            if center is not None:
                breaks[_around(moved, center, embedding.radius)[0]] = True
        pending = np.flatnonzero(breaks & embedding.is_buffer)
        if not len(pending):
            return embedding._replace(atoms=moved)
    raise InputError(
        f"{len(pending)} of {embedding.is_buffer.sum()} buffer atoms are still within {close_contact:g} Angstrom of"
        f" others or within an environment after {MAX_REDRAWS} redraws; lower std or close_contact."
    )


def enhancement(
    hessian: Hessian, g: Float[np.ndarray, "target parameter"], rows: Float[np.ndarray, "row parameter"]
) -> Float[np.ndarray, " target"]:
    r"""Relative change of the rigidity of predictions that structures would bring if they joined the training set.

    .. math:: \frac{R'}{R} - 1 = \frac{d}{g^T H^{-1} g - d}, \qquad
              d = g^T H^{-1} A^T (I + A H^{-1} A^T)^{-1} A H^{-1} g

    which keeps its relative precision where the change is small.

    Args:
        hessian: of the training set.
        g: derivatives of the predictions, such as the energy of the central atom.
        rows: weighted derivatives A of all structures to add, one after another.

    Returns:
        0.01 for one percent; NaN where the derivative is zero.

    Reference: Chong et al. (2024), figure 5.
    """
    g, rows = np.asarray(g, np.float64), np.asarray(rows, np.float64)
    solved = hessian.solve(rows)
    factor = np.linalg.cholesky(np.eye(len(rows)) + solved @ rows.T)
    fall = np.sum(solve_triangular(factor, solved @ g.T, lower=True) ** 2, axis=0)
    before = hessian.quadratic(g)
    with np.errstate(invalid="ignore"):
        return fall / np.maximum(before - fall, np.finfo(np.float64).eps * before)


def _check(atoms: ase.Atoms, index: int, radius: float, close_contact: float = CLOSE_CONTACT) -> None:
    if not 0 <= index < len(atoms):
        raise InputError(f"There is no atom {index} in a structure of {len(atoms)}; give an index from 0 on.")
    if not (np.isfinite(radius) and radius > 0):
        raise InputError(f"The radius of the environment is {radius} Angstrom; it must be finite and above 0.")
    _check_contact(close_contact)
    _check_structure(atoms, "The structure")


def _check_contact(close_contact: float) -> None:
    if not (np.isfinite(close_contact) and close_contact > 0):
        raise InputError(f"close_contact is {close_contact} Angstrom; it must be finite and above 0.")


def _check_structure(atoms: ase.Atoms, where: str) -> None:
    check_geometry(atoms.positions, atoms.cell.array, atoms.pbc, where)


def _refuse_close(atoms: ase.Atoms, close_contact: float, where: str) -> None:
    pairs = _close_pairs(atoms, close_contact)
    if len(pairs):
        raise InputError(
            f"{len(pairs) // 2} pairs of atoms are within {close_contact:g} Angstrom in {where}; lower close_contact,"
            " or take another structure."
        )


def _close_pairs(atoms: ase.Atoms, distance: float) -> Int[np.ndarray, "edge 2"]:
    """Both ways, images included."""
    senders, receivers, _ = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, distance)
    return np.stack([senders, receivers], axis=1)


def _around(atoms: ase.Atoms, index: int, reach: float) -> tuple[Int[np.ndarray, " near"], Float[np.ndarray, "near 3"]]:
    """Atoms within reach of one, itself first and the others by distance, and the vectors to them; with images."""
    vectors = atoms.positions - atoms.positions[index]
    shifts = np.zeros((1, 3))
    if atoms.pbc.any():
        box = ase.geometry.complete_cell(atoms.cell.array)
        inverse = np.linalg.inv(box)
        vectors = vectors - np.where(atoms.pbc, np.rint(vectors @ inverse), 0.0) @ box
        # Planes of the lattice are 1 / |column| apart, and an atom is within half a period of the central one.
        most = np.where(atoms.pbc, (reach + SURFACE) * np.linalg.norm(inverse, axis=0) + 0.5 + SURFACE, 0).astype(int)
        shifts = np.array(list(product(*(range(-number, number + 1) for number in most)))) @ box
    found = []
    for shift in shifts:
        near = np.flatnonzero(np.linalg.norm(vectors + shift, axis=1) <= reach + SURFACE)
        found.append((near, vectors[near] + shift))
    indices, vectors = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(np.linalg.norm(vectors, axis=1), kind="stable")
    return indices[order], vectors[order]


def _repeats(crystal: ase.Atoms, radius: float, close_contact: float) -> Iterator[tuple[int, ...]]:
    """Numbers of cells along each lattice vector, fewest cells first; among the last is room for both spheres."""
    lengths = crystal.cell.lengths()
    spacings = plane_spacings(crystal.cell.array)
    most = np.ceil(2 * (2 * radius + close_contact + lengths.sum()) / spacings).astype(int)
    least = np.maximum(1, np.ceil((2 * radius - SURFACE) / lengths)).astype(int)
    # Two sets of spheres on one lattice, none overlapping, fill at most the share of close packing: pi / sqrt(18).
    min_cells = 8 * np.sqrt(2) * radius**3 / crystal.cell.volume
    triples = product(*(range(low, max(low, high) + 1) for low, high in zip(least, most, strict=True)))
    enough = [triple for triple in triples if np.prod(triple) >= min_cells * (1 - 1e-6)]
    yield from sorted(enough, key=lambda triple: (np.prod(triple), max(triple)))


def _in_supercell(sphere: ase.Atoms, supercell: ase.Atoms, radius: float, close_contact: float) -> Embedding | None:
    """The sphere about the first atom of a supercell, and a crystal atom with all its neighbours; None if too small."""
    away = supercell.get_distances(0, np.arange(len(supercell)), mic=True)
    if away.max() < 2 * radius or len(_around(supercell[:1], 0, 2 * radius - 2 * SURFACE)[0]) > 1:
        return None
    size = len(sphere)
    positions = np.concatenate([sphere.positions, supercell.positions - supercell.positions[0]])
    merged = ase.Atoms(np.concatenate([sphere.numbers, supercell.numbers]), positions, cell=supercell.cell, pbc=True)
    is_sphere = np.arange(len(merged)) < size
    close, near = (_close_pairs(merged, distance) for distance in (close_contact, radius + SURFACE))
    near_first = is_sphere[near[:, 0]] & (near[:, 1] == 0)
    if is_sphere[close].all(axis=1).any() or near_first.sum() >= size:  # images of the sphere meet, or enter it
        return None
    is_gone = np.concatenate([np.zeros(size, bool), away <= radius + SURFACE])
    is_gone[close[is_sphere[close[:, 0]], 1]] = True
    is_changed = is_sphere | is_gone
    is_whole = ~is_changed & np.concatenate([np.zeros(size, bool), away >= 2 * radius])
    is_whole[near[is_changed[near[:, 0]], 1]] = False
    if not is_whole.any():
        return None
    center = size + int(np.argmax(np.where(is_whole[size:], away, -1.0)))
    is_fixed = is_sphere.copy()
    is_fixed[[center, *near[near[:, 0] == center, 1]]] = True
    merged.positions += supercell.cell.array.sum(axis=0) / 2
    merged.wrap()
    return Embedding(merged[~is_gone], 0, ~is_fixed[~is_gone], radius, int(np.sum(~is_gone[:center])))
