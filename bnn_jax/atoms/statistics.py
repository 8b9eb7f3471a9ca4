"""What a potential must know of its training set before it can be built: atomic shifts, scale and coordination."""

import json
from typing import NamedTuple, Self

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Float, Int

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.neighbors import neighbor_list
from bnn_jax.types import InputError

NEGLIGIBLE = 1e-6
"""A scale below this (in eV/Angstrom, or eV) is rounding, not information."""

LABELS = ("energy", "forces")
"""Whose standard deviations a potential learns."""


class Statistics(NamedTuple):
    """Properties of a training set."""

    species: tuple[int, ...]
    """Atomic numbers that occur, ascending."""
    shifts: Float[np.ndarray, " species"]
    """Energy of a single atom of each species, in eV, float64."""
    forces_rms: float
    """Root mean square of the labelled force components, in eV/Angstrom; see :func:`compute` where there are none."""
    avg_num_neighbors: float
    """Mean number of neighbours of an atom; one if there are none, for models divide by it."""
    labels: tuple[str, ...] = LABELS
    """Those of :data:`LABELS` that some structure had."""

    def to_json(self) -> str:
        """Text for the header of a file."""
        return json.dumps(self._asdict() | {"shifts": self.shifts.tolist()})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read :meth:`to_json`'s text.

        Raises:
            KeyError, TypeError, ValueError: it is not sound.
        """
        found = json.loads(text)
        species, shifts = tuple(found["species"]), np.array(found["shifts"], np.float64)
        if shifts.shape != (len(species),) or not species or not all(isinstance(number, int) for number in species):
            raise ValueError("species and shifts do not fit each other")
        labels = tuple(found.get("labels", LABELS))  # files of earlier versions do not say
        if not set(labels) <= set(LABELS):
            raise ValueError("labels are not known")
        return cls(species, shifts, float(found["forces_rms"]), float(found["avg_num_neighbors"]), labels)


def compute(dataset: Dataset, cutoff: float, isolated_atoms: Dataset | None = None) -> Statistics:
    """Statistics of a training set.

    Shifts are energies of isolated atoms, where ``isolated_atoms`` or else the data set itself holds one of each
    species; otherwise the least-squares solution of ``energy = composition @ shifts``, after the mean energy per atom
    has been taken off, so that compositions that do not tell the species apart give them equal shares.

    The scale is the root mean square of the force components, as in NequIP (Batzner et al. 2022). Without forces it is
    the standard deviation of the energy per atom above the shifts; without either, one.

    Args:
        dataset: the training set.
        cutoff: in Angstrom.
        isolated_atoms: structures of one atom each, with energies.

    Raises:
        InputError: ``isolated_atoms`` lacks a species.
    """
    num_neighbors = [
        len(neighbor_list(dataset.positions[first:last], dataset.cell[i], dataset.pbc[i], cutoff)[0])
        for i, (first, last) in enumerate(zip(dataset.offsets[:-1], dataset.offsets[1:], strict=True))
    ]
    if isolated_atoms is not None:
        alone = _isolated_energies(isolated_atoms, dataset.species)
        if np.isnan(alone).any():
            missing = ", ".join(chemical_symbols[dataset.species[i]] for i in np.flatnonzero(np.isnan(alone)))
            raise InputError(f"The isolated atoms lack an energy of {missing}; add it or leave isolated_atoms out.")
    else:
        is_alone = (dataset.num_atoms == 1) & (np.array(num_neighbors) == 0)
        alone = _isolated_energies(dataset.take(np.flatnonzero(is_alone)), dataset.species)
    shifts = _least_squares(dataset) if np.isnan(alone).any() else alone
    avg_num_neighbors = sum(num_neighbors) / len(dataset.numbers)
    labels = tuple(label for label in LABELS if np.isfinite(getattr(dataset, label)).any())
    return Statistics(dataset.species, shifts, _scale(dataset, shifts), avg_num_neighbors or 1.0, labels)


def atomic_shift_sum(statistics: Statistics, numbers: Int[np.ndarray, " atom"]) -> float:
    """Sum of the shifts of the given atoms, in eV.

    Raises:
        InputError: an element is not among the species.
    """
    numbers = np.asarray(numbers)
    unknown = numbers[~np.isin(numbers, statistics.species)]
    if len(unknown):
        known = ", ".join(chemical_symbols[number] for number in statistics.species)
        raise InputError(f"There is no shift for {chemical_symbols[unknown[0]]}; the potential knows {known}.")
    return float(statistics.shifts[np.searchsorted(statistics.species, numbers)].sum())


def _isolated_energies(dataset: Dataset, species: tuple[int, ...]) -> Float[np.ndarray, " species"]:
    """Mean energy of the structures of one atom of each species; NaN where there is none."""
    usable = (dataset.num_atoms == 1) & np.isfinite(dataset.energy)
    numbers, energy = dataset.numbers[dataset.offsets[:-1][usable]], dataset.energy[usable]
    return np.array([energy[numbers == number].mean() if (numbers == number).any() else np.nan for number in species])


def _least_squares(dataset: Dataset) -> Float[np.ndarray, " species"]:
    known = np.isfinite(dataset.energy)
    if not known.any():
        return np.zeros(len(dataset.species))
    composition, energy = dataset.composition[known].astype(np.float64), dataset.energy[known]
    mean = energy.sum() / composition.sum()
    residual = energy - mean * composition.sum(axis=1)
    return mean + np.linalg.lstsq(composition, residual, rcond=None)[0]


def _scale(dataset: Dataset, shifts: Float[np.ndarray, " species"]) -> float:
    forces = dataset.forces[np.isfinite(dataset.forces).all(axis=1)]
    known = np.isfinite(dataset.energy)
    residual = ((dataset.energy - dataset.composition @ shifts) / dataset.num_atoms)[known]
    candidates = (np.sqrt(np.mean(forces**2)) if len(forces) else 0.0, residual.std() if len(residual) else 0.0)
    return next((float(scale) for scale in candidates if scale > NEGLIGIBLE), 1.0)
