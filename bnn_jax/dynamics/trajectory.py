"""What a simulation leaves: frames of every replica, where each ended and why, and extended XYZ of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ase
import ase.io
import jax
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import covalent_radii
from ase.units import fs
from jaxtyping import Float, Int

from bnn_jax.atoms.neighbors import neighbor_list
from bnn_jax.dynamics.motion import Frame
from bnn_jax.dynamics.settings import Bounds

BOND_FACTOR = 1.3
"""Atoms are bonded that are nearer than so many times the sum of their covalent radii."""


class Trajectory(NamedTuple):
    """Frames of replicas, as host arrays with leading axes [frame, replica]."""

    times_fs: Float[np.ndarray, " frame"]
    frames: Frame
    num_frames: Int[np.ndarray, " replica"]
    """That count; those behind are of a replica that had left its bounds."""
    reasons: tuple[str, ...]
    """Why a replica ended before its time; empty for one that did not."""

    def atoms(self, structure: ase.Atoms, replica: int) -> list[ase.Atoms]:
        """The frames of a replica with energy, forces, stds and velocities, energies above the atomic shifts.

        Args:
            structure: which atoms there are.
            replica: its number.
        """
        found = []
        for i in range(int(self.num_frames[replica])):
            frame: Frame = jax.tree.map(lambda values, i=i: values[i, replica], self.frames)
            atoms = ase.Atoms(structure.numbers, frame.positions, cell=frame.cell, pbc=structure.pbc)
            atoms.set_velocities(frame.velocities / fs)
            estimate = frame.estimate
            atoms.calc = SinglePointCalculator(atoms, energy=float(estimate.energy), forces=estimate.forces)
            atoms.arrays["forces_std"] = np.asarray(estimate.forces_std)
            atoms.info |= {
                "time_fs": float(self.times_fs[i]),
                "energy_std": float(estimate.energy_std),
                "kelvin": float(frame.kelvin),
            }
            found.append(atoms)
        return found

    def write(self, folder: str | Path, structure: ase.Atoms) -> list[Path]:
        """A file of extended XYZ for each replica, ``replica-00.xyz`` and so on.

        Args:
            folder: that exists.
            structure: which atoms there are.
        """
        width = max(2, len(str(len(self.reasons) - 1)))
        paths = [Path(folder) / f"replica-{k:0{width}d}.xyz" for k in range(len(self.reasons))]
        for k, path in enumerate(paths):
            ase.io.write(path, self.atoms(structure, k), format="extxyz")
        return paths


def joined(parts: Sequence[Any]) -> Any:
    """Trees of arrays, one after another along the first axis."""
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


class Watch:
    """Looks at frames and says which replica leaves its bounds, where, and why."""

    def __init__(self, bounds: Bounds, structure: ase.Atoms):
        self.bounds, self.structure = bounds, structure
        senders, receivers, shifts = self._pairs(structure.positions, structure.cell.array, 6.0)
        radii = covalent_radii[structure.numbers]
        vectors = structure.positions[senders] + shifts @ structure.cell.array - structure.positions[receivers]
        lengths = np.linalg.norm(vectors, axis=1)
        bonded = lengths < BOND_FACTOR * (radii[senders] + radii[receivers])
        self.bonds = senders[bonded], receivers[bonded], shifts[bonded], lengths[bonded]

    def _pairs(self, positions: np.ndarray, cell: np.ndarray, cutoff: float) -> tuple[np.ndarray, ...]:
        senders, receivers, shifts = neighbor_list(positions, cell, self.structure.pbc, cutoff)
        return senders[::2], receivers[::2], shifts[::2]

    def __call__(self, frame: Frame) -> str:
        """Why this frame, of one replica, is out of bounds; empty if it is not.

        Args:
            frame: host arrays without leading axes.
        """
        if not all(np.isfinite(each).all() for each in (frame.positions, frame.kinetic_energy)):
            return "positions or velocities are not finite"
        bounds = self.bounds
        std = float(np.nanmax(frame.estimate.forces_std, initial=0.0))
        if bounds.forces_std is not None and std > bounds.forces_std:
            return f"the std of a force is {std:.3g} eV/Å, above {bounds.forces_std:g}"
        if bounds.kelvin is not None and frame.kelvin > bounds.kelvin:
            return f"the temperature is {float(frame.kelvin):.0f} K, above {bounds.kelvin:g}"
        if bounds.closest is not None:
            closest = self._closest(frame, bounds.closest)
            if closest is not None:
                return closest
        if bounds.stretch is not None:
            senders, receivers, shifts, lengths = self.bonds
            vectors = frame.positions[senders] + shifts @ frame.cell - frame.positions[receivers]
            stretch = np.linalg.norm(vectors, axis=1) / lengths
            if len(stretch) and stretch.max() > bounds.stretch:
                k = int(stretch.argmax())
                names = [f"{self.structure.symbols[i]}{i}" for i in (senders[k], receivers[k])]
                return (
                    f"the bond of {' and '.join(names)} is {stretch[k]:.2f} times its length, above {bounds.stretch:g}"
                )
        return ""

    def _closest(self, frame: Frame, bound: float) -> str | None:
        senders, receivers, shifts = self._pairs(
            np.asarray(frame.positions, np.float64), np.asarray(frame.cell, np.float64), bound
        )
        if len(senders) == 0:
            return None
        vectors = frame.positions[senders] + shifts @ frame.cell - frame.positions[receivers]
        lengths = np.linalg.norm(vectors, axis=1)
        k = int(lengths.argmin())
        names = [f"{self.structure.symbols[i]}{i}" for i in (senders[k], receivers[k])]
        return f"{' and '.join(names)} are {lengths[k]:.3g} Å apart, below {bound:g}"
