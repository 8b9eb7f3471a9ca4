"""Tiny molecules and crystals for tests. Every function returns fresh ``ase.Atoms``; lengths in Angstrom."""

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation


def isolated_atom(symbol: str = "H") -> Atoms:
    """One atom in vacuum: no edges at any cutoff."""
    return Atoms(symbol, positions=[[0.0, 0.0, 0.0]])


def dimer(symbols: str = "H2", distance: float = 1.0) -> Atoms:
    """Two atoms along x."""
    return Atoms(symbols, positions=[[0.0, 0.0, 0.0], [distance, 0.0, 0.0]])


def water() -> Atoms:
    """H2O: two species, planar."""
    return molecule("H2O")


def ammonia() -> Atoms:
    """NH3: the smallest of the package's own data set."""
    return molecule("NH3")


def ethanol() -> Atoms:
    """CH3CH2OH: three species, nine atoms, no symmetry once rattled."""
    return molecule("CH3CH2OH")


def chiral_molecule() -> Atoms:
    """CHFClBr: its mirror image cannot be rotated onto it, which tells a pseudoscalar from a scalar."""
    bond = {"H": 1.09, "F": 1.36, "Cl": 1.76, "Br": 1.94}
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
    positions = [[0.0, 0.0, 0.0], *(length * corner for length, corner in zip(bond.values(), corners, strict=True))]
    return Atoms(["C", *bond], positions=positions)


def far_fragments(separation: float = 50.0) -> Atoms:
    """Water and ammonia too far apart to see one another: their energies add up."""
    fragment = ammonia()
    fragment.translate([separation, 0.0, 0.0])
    return water() + fragment


def silicon() -> Atoms:
    """Primitive cell of diamond silicon: two atoms, cell smaller than usual cutoffs."""
    return bulk("Si", "diamond", a=5.43)


def sodium_chloride() -> Atoms:
    """Cubic cell of rock salt: eight atoms of two species."""
    return bulk("NaCl", "rocksalt", a=5.64, cubic=True)


def triclinic_crystal() -> Atoms:
    """Two atoms in a strongly sheared cell: no right angle, no symmetry."""
    cell = [[3.6, 0.2, 0.0], [1.3, 3.4, 0.3], [-0.7, 0.9, 4.1]]
    return Atoms("NaCl", scaled_positions=[[0.02, 0.05, 0.01], [0.48, 0.55, 0.46]], cell=cell, pbc=True)


def slab() -> Atoms:
    """A layer periodic in x and y only."""
    return Atoms("CuO", positions=[[0.0, 0.0, 5.0], [1.2, 1.1, 6.4]], cell=[2.6, 2.6, 12.0], pbc=[True, True, False])


def molecules() -> list[Atoms]:
    """Systems without a cell, from one atom to nine."""
    return [isolated_atom(), dimer(), water(), ammonia(), ethanol(), chiral_molecule(), far_fragments()]


def crystals() -> list[Atoms]:
    """Systems with a cell, periodic in three directions."""
    return [silicon(), sodium_chloride(), triclinic_crystal()]


def rattled(atoms: Atoms, std: float = 0.05, seed: int = 0) -> Atoms:
    """A copy with normal displacements of every coordinate, so that no force vanishes by symmetry."""
    copy = atoms.copy()
    copy.positions += np.random.default_rng(seed).normal(scale=std, size=copy.positions.shape)
    return copy


def rotated(atoms: Atoms, rotation: NDArray[np.float64]) -> Atoms:
    """A copy with positions and cell under an orthogonal 3 x 3 matrix, improper ones included.

    The lattice vectors stay right-handed: where the matrix turns them over, their negatives span the same lattice.
    """
    copy = atoms.copy()
    copy.set_cell(np.sign(np.linalg.det(rotation)) * atoms.cell.array @ rotation.T)
    copy.positions = atoms.positions @ rotation.T
    return copy


def random_rotation(seed: int = 0) -> NDArray[np.float64]:
    """A proper rotation matrix."""
    return Rotation.random(random_state=np.random.default_rng(seed)).as_matrix()


def labelled(atoms: Atoms, stiffness: float = 1.0, rest_length: float = 1.5) -> Atoms:
    """A copy that carries energy and forces of springs between all pairs of atoms (of the cell as it is, no images).

    The labels are exact derivatives of one another, in eV and eV/Angstrom, and cost nothing.
    """
    copy = atoms.copy()
    vectors = copy.positions[:, None] - copy.positions[None, :]
    distances = np.linalg.norm(vectors, axis=-1)
    stretch = np.where(np.eye(len(copy), dtype=bool), 0.0, distances - rest_length)
    directions = vectors / np.where(distances == 0.0, 1.0, distances)[..., None]
    energy = 0.25 * stiffness * np.sum(stretch**2)  # each pair appears twice
    forces = -stiffness * np.sum(stretch[..., None] * directions, axis=1)
    copy.calc = SinglePointCalculator(copy, energy=energy, forces=forces)
    return copy


def labelled_series(atoms: Atoms, num_structures: int, std: float = 0.05, seed: int = 0) -> list[Atoms]:
    """Rattled copies with labels: a data set in miniature."""
    return [labelled(rattled(atoms, std, seed + index)) for index in range(num_structures)]


def strained_copper(number: int, repeat: int = 1) -> list[Atoms]:
    """Cells of a = 3.59 to 3.61 Angstrom, strained and rattled, with energy, forces and stress of a metal's model."""
    rng, frames = np.random.default_rng(0), []
    for _ in range(number):
        atoms = bulk("Cu", a=rng.uniform(3.59, 3.61), cubic=True) * repeat
        strain = 0.02 * rng.normal(size=(3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
        atoms.positions += 0.05 * rng.normal(size=atoms.positions.shape)
        model = EMT()
        labels = {name: model.get_property(name, atoms) for name in ("energy", "forces", "stress")}
        frames.append(atoms.copy())
        frames[-1].calc = SinglePointCalculator(frames[-1], **labels)
    return frames
