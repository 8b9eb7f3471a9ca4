"""What a simulation leaves: frames of every replica, where each ended and why, and extended XYZ of it."""

from pathlib import Path
from typing import NamedTuple, Self

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
            if estimate.beyond_validated is not None:
                atoms.arrays["beyond_validated"] = np.asarray(estimate.beyond_validated)
            atoms.info |= {
                "time_fs": float(self.times_fs[i]),
                "energy_std": float(estimate.energy_std),
                "kelvin": float(frame.kelvin),
            }
            found.append(atoms)
        return found

    def energy_drifts(self) -> Float[np.ndarray, " replica"]:
        """Slope of each replica's total energy over time, in eV per atom and ps; NaN of fewer than two frames.

        Of ``nve`` that is an error of the integrator, or of forces that are no gradient.
        """
        energies = np.asarray(self.frames.potential_energy + self.frames.kinetic_energy, np.float64)
        num_atoms = self.frames.positions.shape[-2]
        return np.array(
            [
                np.polyfit(self.times_fs[:number] / 1000, energies[:number, k] / num_atoms, 1)[0]
                if number > 1
                else np.nan
                for k, number in enumerate(self.num_frames)
            ]
        )

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


class Pairs(NamedTuple):
    """Pairs of atoms, each once."""

    senders: Int[np.ndarray, " pair"]
    receivers: Int[np.ndarray, " pair"]
    shifts: Int[np.ndarray, "pair 3"]
    """Lattice image of the sender."""

    @classmethod
    def within(cls, cutoff: float, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> Self:
        """All that are nearer than a cutoff, in Angstrom."""
        found = neighbor_list(np.asarray(positions, np.float64), np.asarray(cell, np.float64), pbc, cutoff)
        return cls(*(each[::2] for each in found))  # the others are their reverses

    def lengths(self, positions: np.ndarray, cell: np.ndarray) -> Float[np.ndarray, " pair"]:
        """Their distances in Angstrom."""
        vectors = positions[self.senders] + self.shifts @ cell - positions[self.receivers]
        return np.linalg.norm(vectors, axis=1)

    def name(self, number: int, structure: ase.Atoms) -> str:
        """``O0 and H1``."""
        return " and ".join(f"{structure.symbols[i]}{i}" for i in (self.senders[number], self.receivers[number]))


class Watch:
    """Looks at frames and says which replica leaves its bounds, where, and why."""

    def __init__(self, bounds: Bounds, structure: ase.Atoms):
        self.bounds, self.structure = bounds, structure
        radii, start = covalent_radii[structure.numbers], (structure.positions, structure.cell.array)
        pairs = Pairs.within(2 * BOND_FACTOR * radii.max(), *start, structure.pbc)
        bonded = pairs.lengths(*start) < BOND_FACTOR * (radii[pairs.senders] + radii[pairs.receivers])
        self.bonds = Pairs(*(each[bonded] for each in pairs))
        self.bond_lengths = self.bonds.lengths(*start)

    def __call__(self, frame: Frame) -> str:
        """Why this frame, of one replica, is out of bounds; empty if it is not.

        Args:
            frame: host arrays without leading axes.
        """
        bounds, beyond = self.bounds, frame.estimate.beyond_validated
        place = np.asarray(frame.positions), np.asarray(frame.cell)
        if not all(np.isfinite(each).all() for each in (*place, frame.kinetic_energy)):
            return "positions or velocities are not finite"
        std = float(np.nanmax(frame.estimate.forces_std, initial=0.0))
        if bounds.forces_std is not None and std > bounds.forces_std:
            return f"the std of a force is {std:.3g} eV/Å, above {bounds.forces_std:g}"
        if bounds.validated and beyond is not None and beyond.any():
            number = int(beyond.argmax())
            return f"{self.structure.symbols[number]}{number} is beyond the validated range"
        if bounds.kelvin is not None and frame.kelvin > bounds.kelvin:
            return f"the temperature is {float(frame.kelvin):.0f} K, above {bounds.kelvin:g}"
        if bounds.closest is not None:
            near = Pairs.within(bounds.closest, *place, self.structure.pbc)
            lengths = near.lengths(*place)
            if len(lengths):
                name = near.name(int(lengths.argmin()), self.structure)
                return f"{name} are {lengths.min():.3g} Å apart, below {bounds.closest:g}"
        if bounds.stretch is not None:
            stretch = self.bonds.lengths(*place) / self.bond_lengths
            if stretch.max(initial=0.0) > bounds.stretch:
                name = self.bonds.name(int(stretch.argmax()), self.structure)
                return f"the bond of {name} is {stretch.max():.2f} times its length, above {bounds.stretch:g}"
        return ""
