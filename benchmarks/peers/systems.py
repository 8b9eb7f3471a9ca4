"""The systems of the comparison: molecules and crystals displaced at random, with harmonic labels, in NumPy and ASE.

Needs neither JAX nor PyTorch, so that every peer, whatever its environment, sees the same arrays.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import ase.build
import ase.neighborlist
import numpy as np

SPECIES = (1, 6, 8)
"""Atomic numbers of ethanol, ascending."""
SPRING_CONSTANT = 30.0
"""Of the harmonic labels, in eV/Angstrom^2; about that of a C-H bond."""


def silicon(repeats: int) -> ase.Atoms:
    """So many times the cubic cell of eight atoms in each direction; every atom has 28 neighbours within 5 Angstrom."""
    return ase.build.bulk("Si", cubic=True).repeat(repeats)


SYSTEMS: dict[str, Callable[[], ase.Atoms]] = {
    "ethanol": partial(ase.build.molecule, "CH3CH2OH"),
    "biphenyl": partial(ase.build.molecule, "biphenyl"),
} | {f"silicon {8 * repeats**3}": partial(silicon, repeats) for repeats in range(1, 5)}
"""Relaxed geometries by name: 9 and 22 atoms in the molecules, in the periodic cells as many as the name says."""


class StructureBatch(NamedTuple):
    """Several structures, their atoms and edges one after another, without padding; edges run sender to receiver."""

    species: np.ndarray
    """Index of each atom's element among those of the batch, ascending, [atom]."""
    positions: np.ndarray
    """In Angstrom, [atom, 3]."""
    cell: np.ndarray
    """Lattice vectors as rows, in Angstrom, zero for molecules, [structure, 3, 3]."""
    senders: np.ndarray
    receivers: np.ndarray
    shifts: np.ndarray
    """Lattice image of the sender, [edge, 3]."""
    structure_index: np.ndarray
    """Structure that each atom belongs to, [atom]."""
    energy: np.ndarray
    """In eV, [structure]."""
    forces: np.ndarray
    """In eV/Angstrom, [atom, 3]."""

    @property
    def num_structures(self) -> int:
        """Number of structures."""
        return len(self.energy)

    @property
    def avg_num_neighbors(self) -> float:
        """Edges per atom."""
        return len(self.senders) / len(self.species)

    def single_precision(self) -> "StructureBatch":
        """The same in int32 and float32."""
        return StructureBatch(*(array.astype(np.int32 if array.dtype.kind == "i" else np.float32) for array in self))


def species_of(system: str) -> tuple[int, ...]:
    """Atomic numbers of a system, ascending."""
    return tuple(np.unique(SYSTEMS[system]().numbers).tolist())


def displaced_structures(
    num_structures: int, system: str = "ethanol", displacement: float = 0.1, seed: int = 0
) -> list[ase.Atoms]:
    """Structures displaced at random, with the energy and forces of springs to the relaxed geometry.

    Args:
        num_structures: how many.
        system: a name of :data:`SYSTEMS`.
        displacement: standard deviation of each displaced coordinate, in Angstrom.
        seed: of the displacements.

    Returns:
        Structures whose ``info["energy"]`` is in eV and ``arrays["forces"]`` in eV/Angstrom.
    """
    rng = np.random.default_rng(seed)
    structures = []
    for _ in range(num_structures):
        atoms = SYSTEMS[system]()
        shift = rng.normal(scale=displacement, size=atoms.positions.shape)
        atoms.positions += shift
        atoms.info["energy"] = float(0.5 * SPRING_CONSTANT * np.sum(shift**2))
        atoms.arrays["forces"] = -SPRING_CONSTANT * shift
        structures.append(atoms)
    return structures


def batch_structures(structures: list[ase.Atoms], cutoff: float) -> StructureBatch:
    """Join labelled structures into one batch with every pair closer than ``cutoff`` (in Angstrom) as two edges."""
    senders, receivers, shifts, structure_index, offset = [], [], [], [], 0
    for index, atoms in enumerate(structures):
        receiver, sender, shift = ase.neighborlist.neighbor_list("ijS", atoms, cutoff)
        senders.append(sender + offset)
        receivers.append(receiver + offset)
        shifts.append(shift)
        structure_index.append(np.full(len(atoms), index))
        offset += len(atoms)
    return StructureBatch(
        species=np.unique(np.concatenate([atoms.numbers for atoms in structures]), return_inverse=True)[1],
        positions=np.concatenate([atoms.positions for atoms in structures]),
        cell=np.stack([atoms.cell.array for atoms in structures]),
        senders=np.concatenate(senders),
        receivers=np.concatenate(receivers),
        shifts=np.concatenate(shifts),
        structure_index=np.concatenate(structure_index),
        energy=np.array([atoms.info["energy"] for atoms in structures]),
        forces=np.concatenate([atoms.arrays["forces"] for atoms in structures]),
    )


def displaced_batch(num_structures: int, cutoff: float, system: str = "ethanol", seed: int = 0) -> StructureBatch:
    """A batch of :func:`displaced_structures`; within 5 Angstrom every atom of ethanol sees the 8 others."""
    return batch_structures(displaced_structures(num_structures, system, seed=seed), cutoff)
