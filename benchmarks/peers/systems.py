"""The molecules of the comparison: randomly displaced ethanol with harmonic labels, in plain NumPy and ASE.

Needs neither JAX nor PyTorch, so that every peer, whatever its environment, sees the same arrays.
"""

from typing import NamedTuple

import ase.build
import ase.neighborlist
import numpy as np

SPECIES = (1, 6, 8)
"""Atomic numbers of ethanol, ascending."""
SPRING_CONSTANT = 30.0
"""Of the harmonic labels, in eV/Angstrom^2; about that of a C-H bond."""


class MoleculeBatch(NamedTuple):
    """Several molecules, their atoms and edges one after another, without padding; edges run sender to receiver."""

    species: np.ndarray
    """Index of each atom's element in :data:`SPECIES`, [atom]."""
    positions: np.ndarray
    """In Angstrom, [atom, 3]."""
    senders: np.ndarray
    receivers: np.ndarray
    structure_index: np.ndarray
    """Structure that each atom belongs to, [atom]."""
    energy: np.ndarray
    """In eV, [structure]."""
    forces: np.ndarray
    """In eV/Angstrom, [atom, 3]."""

    @property
    def num_structures(self) -> int:
        """Number of molecules."""
        return len(self.energy)

    @property
    def avg_num_neighbors(self) -> float:
        """Edges per atom."""
        return len(self.senders) / len(self.species)


def ethanol_structures(num_structures: int, displacement: float = 0.1, seed: int = 0) -> list[ase.Atoms]:
    """Ethanol molecules displaced at random, with the energy and forces of springs to the relaxed geometry.

    Args:
        num_structures: how many.
        displacement: standard deviation of each displaced coordinate, in Angstrom.
        seed: of the displacements.

    Returns:
        Molecules whose ``info["energy"]`` is in eV and ``arrays["forces"]`` in eV/Angstrom.
    """
    rng = np.random.default_rng(seed)
    structures = []
    for _ in range(num_structures):
        atoms = ase.build.molecule("CH3CH2OH")
        shift = rng.normal(scale=displacement, size=atoms.positions.shape)
        atoms.positions += shift
        atoms.info["energy"] = float(0.5 * SPRING_CONSTANT * np.sum(shift**2))
        atoms.arrays["forces"] = -SPRING_CONSTANT * shift
        structures.append(atoms)
    return structures


def batch_structures(structures: list[ase.Atoms], cutoff: float) -> MoleculeBatch:
    """Join labelled molecules into one batch with every pair closer than ``cutoff`` (in Angstrom) as two edges."""
    senders, receivers, structure_index, offset = [], [], [], 0
    for index, atoms in enumerate(structures):
        receiver, sender = ase.neighborlist.neighbor_list("ij", atoms, cutoff)
        senders.append(sender + offset)
        receivers.append(receiver + offset)
        structure_index.append(np.full(len(atoms), index))
        offset += len(atoms)
    return MoleculeBatch(
        species=np.searchsorted(SPECIES, np.concatenate([atoms.numbers for atoms in structures])),
        positions=np.concatenate([atoms.positions for atoms in structures]),
        senders=np.concatenate(senders),
        receivers=np.concatenate(receivers),
        structure_index=np.concatenate(structure_index),
        energy=np.array([atoms.info["energy"] for atoms in structures]),
        forces=np.concatenate([atoms.arrays["forces"] for atoms in structures]),
    )


def ethanol_batch(num_structures: int, cutoff: float, seed: int = 0) -> MoleculeBatch:
    """A batch of :func:`ethanol_structures`; within 5 Angstrom every atom sees the 8 others."""
    return batch_structures(ethanol_structures(num_structures, seed=seed), cutoff)
