"""Structures with their labels, one at a time: where files keep labels, and what a structure must look like."""

import reprlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import ase
import numpy as np
from ase.stress import voigt_6_to_full_3x3_stress
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from bnn_jax.atoms.geometry import check_geometry
from bnn_jax.types import InputError

ENERGY_KEYS = ("energy", "REF_energy", "dft_energy", "DFT_energy", "total_energy", "TotEnergy", "E", "U0")
ENERGY_FALLBACK_KEYS = ("free_energy",)
"""Read only where none of the others is there: with smeared occupations it differs from the energy, rightly."""
FORCES_KEYS = ("forces", "REF_forces", "dft_forces", "DFT_forces", "force", "dft_force", "DFT_force")
STRESS_KEYS = ("stress", "REF_stress", "dft_stress", "DFT_stress", "virial", "REF_virial", "dft_virial", "DFT_virial")
MASK_KEY = "forces_mask"
"""Per-atom array; the forces of atoms where it is False count as missing."""
MAX_ATOMIC_NUMBER = 118
MAX_LABEL = 1e12
"""In eV and Angstrom; the squares of larger numbers would leave single precision."""


class Keys(NamedTuple):
    """Label keys that the user named; None searches the usual ones."""

    energy: str | None = None
    forces: str | None = None
    stress: str | None = None


class Choices(NamedTuple):
    """What the user said of the labels of a file; None and False where nothing."""

    keys: Keys = Keys()
    energy_unit: str | None = None
    length_unit: str | None = None
    stress_unit: str | None = None
    require_labels: bool = False
    allow_missing_labels: bool = False


class Frame(NamedTuple):
    """One structure with its labels; NaN stands for a missing label."""

    numbers: Int[np.ndarray, " atom"]
    positions: Float[np.ndarray, "atom 3"]
    cell: Float[np.ndarray, "3 3"]
    pbc: Bool[np.ndarray, " 3"]
    energy: float
    forces: Float[np.ndarray, "atom 3"]
    stress: Float[np.ndarray, "3 3"]

    def scaled(self, energy: float, length: float, stress: float) -> "Frame":
        """The same with each label and length times the factor of its unit."""
        return self._replace(
            positions=self.positions * length,
            cell=self.cell * length,
            energy=self.energy * energy,
            forces=self.forces * (energy / length),
            stress=self.stress * stress,
        )


def frame_from_atoms(atoms: ase.Atoms, where: str, keys: Keys, use_labels: bool = True) -> Frame:
    """Labels of a structure, from its calculator's results, its ``info`` and its ``arrays``.

    Stress may be given as six Voigt components, nine, or 3x3; a virial becomes ``-virial / volume``. The stress of a
    structure that is not periodic means nothing and is dropped.

    Args:
        atoms: the structure; its calculator is not run.
        where: opens each error sentence, for example ``"file.xyz, frame 3"``.
        keys: label keys that the user named.
        use_labels: False leaves the labels alone, whatever they are.

    Raises:
        InputError: a label is not finite or has the wrong shape, several keys hold different values, or an atomic
            number is none.
    """
    num_atoms = len(atoms)
    energy = forces = stress = None
    if use_labels:
        energy = _find(atoms, "energy", keys.energy, ENERGY_KEYS, (1,), where)
        if energy is None and keys.energy is None:
            energy = _find(atoms, "energy", None, ENERGY_FALLBACK_KEYS, (1,), where)
        forces = _find(atoms, "forces", keys.forces, FORCES_KEYS, (num_atoms, 3), where)
        if atoms.pbc.any():
            stress = _find(atoms, "stress", keys.stress, STRESS_KEYS, (3, 3), where)
        mask = _forces_mask(atoms, where)
        if forces is not None and mask is not None:
            forces = np.where(mask[:, None], forces, np.nan)
    return Frame(
        numbers=atomic_numbers(atoms.numbers, where),
        positions=atoms.positions.astype(np.float64),
        cell=atoms.cell.array.astype(np.float64),
        pbc=atoms.pbc.astype(bool),
        energy=np.nan if energy is None else float(energy[0]),
        forces=np.full((num_atoms, 3), np.nan) if forces is None else forces,
        stress=np.full((3, 3), np.nan) if stress is None else (stress + stress.T) / 2,
    )


def atomic_numbers(values: ArrayLike, where: str, least: int = 0) -> Int[np.ndarray, " atom"]:
    """Atomic numbers as int32; ASE's 0, "X", stands for a bead of a coarse-grained model.

    Args:
        values: integers, or floats without a fraction.
        where: opens the error sentence.
        least: the lowest number allowed.

    Raises:
        InputError: a number is no integer, or no element has it.
    """
    numbers = np.asarray(values)
    if numbers.dtype.kind not in "iuf" or numbers.ndim != 1:
        raise InputError(f"{where}: atomic numbers are {numbers.dtype} of shape {numbers.shape}; give one an atom.")
    wrong = ~((numbers >= least) & (numbers <= MAX_ATOMIC_NUMBER) & (numbers == np.rint(numbers)))
    if wrong.any():
        raise InputError(
            f"{where}: atom {np.argmax(wrong)} has atomic number {numbers[wrong][0]}, which no element has; correct it"
            f" ({least} to {MAX_ATOMIC_NUMBER})."
        )
    return numbers.astype(np.int32)


def check_frame(frame: Frame, where: str) -> None:
    """Refuse a structure that no potential could describe, or labels that no calculation gives.

    Raises:
        InputError: as :func:`bnn_jax.atoms.geometry.check_geometry`, or a label is absurdly large.
    """
    check_geometry(frame.positions, frame.cell, frame.pbc, where)
    for label, values in (("energy", frame.energy), ("forces", frame.forces), ("stress", frame.stress)):
        if np.any(np.abs(values) > MAX_LABEL):  # never so of a missing one
            raise InputError(f"{where}: {label} is beyond {MAX_LABEL:g} in eV and Angstrom; correct it.")


def _forces_mask(atoms: ase.Atoms, where: str) -> Bool[np.ndarray, " atom"] | None:
    mask = atoms.arrays.get(MASK_KEY)
    if mask is None:
        return None
    if mask.ndim != 1 or mask.dtype.kind not in "biu":
        raise InputError(f"{where}: {MASK_KEY} must be one truth value an atom; correct it.")
    return mask.astype(bool)


def _find(
    atoms: ase.Atoms, label: str, chosen: str | None, known: Sequence[str], shape: tuple[int, ...], where: str
) -> Float[np.ndarray, "..."] | None:
    """Value of a label, or None; all keys that hold it must agree."""
    results = getattr(atoms.calc, "results", {})
    found = [
        (key, _parse(store[key], key, label, shape, atoms, where))
        for key in ((chosen,) if chosen else known)
        for store in (results, atoms.info, atoms.arrays)
        if store.get(key) is not None
    ]
    for key, value in found[1:]:
        if not np.allclose(value, found[0][1], rtol=1e-9, atol=1e-6):
            names = " and ".join(dict.fromkeys((found[0][0], key)))
            raise InputError(f"{where}: {names} hold different values; choose one with {label}_key=.")
    return found[0][1] if found else None


def _parse(
    value: Any, key: str, label: str, shape: tuple[int, ...], atoms: ase.Atoms, where: str
) -> Float[np.ndarray, "..."]:
    try:
        array = np.asarray(value)
        if array.dtype.kind == "c":
            raise ValueError("complex")
        array = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        shown = " ".join(reprlib.repr(value).split())  # of a long or many-lined value only its ends
        raise InputError(f"{where}: {key} is {shown}, not a number; correct it or choose {label}_key=.") from None
    if label == "energy" and array.size == 1:
        array = array.reshape(1)
    if label == "stress" and array.shape == (6,):
        array = voigt_6_to_full_3x3_stress(array)
    if label == "stress" and array.shape == (9,):
        array = array.reshape(3, 3)
    if array.shape != shape:
        raise InputError(f"{where}: {key} has shape {array.shape}, not {shape}; correct it or choose {label}_key=.")
    mask = _forces_mask(atoms, where) if label == "forces" else None
    if not np.isfinite(array if mask is None else array[mask]).all():
        raise InputError(f"{where}: {key} holds NaN or infinity; remove the label or the frame.")
    if label == "stress" and "virial" in key.lower():
        with np.errstate(all="ignore"):  # damaged cells and labels are refused here or later
            volume = atoms.cell.volume
            array = -array / volume
        if not 0 < volume < np.inf:
            raise InputError(f"{where}: {key} needs a cell with a volume; give the cell or remove the label.")
    return array
