"""Structures with their labels, one at a time: where files keep labels, and what a structure must look like."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import ase
import numpy as np
from ase.stress import voigt_6_to_full_3x3_stress
from jaxtyping import Bool, Float, Int

from bnn_jax.atoms.neighbors import neighbor_list
from bnn_jax.types import InputError

ENERGY_KEYS = ("energy", "REF_energy", "dft_energy", "DFT_energy", "total_energy", "TotEnergy", "E", "U0")
ENERGY_FALLBACK_KEYS = ("free_energy",)
"""Read only where none of the others is there: with smeared occupations it differs from the energy, rightly."""
FORCES_KEYS = ("forces", "REF_forces", "dft_forces", "DFT_forces", "force", "dft_force", "DFT_force")
STRESS_KEYS = ("stress", "REF_stress", "dft_stress", "DFT_stress", "virial", "REF_virial", "dft_virial", "DFT_virial")
MASK_KEY = "forces_mask"
"""Per-atom array; the forces of atoms where it is False count as missing."""
OVERLAP = 1e-3
"""Two atoms closer than this are on one spot, in Angstrom."""


class Keys(NamedTuple):
    """Label keys that the user named; None searches the usual ones."""

    energy: str | None = None
    forces: str | None = None
    stress: str | None = None


class Frame(NamedTuple):
    """One structure with its labels; NaN stands for a missing label."""

    numbers: Int[np.ndarray, " atom"]
    positions: Float[np.ndarray, "atom 3"]
    cell: Float[np.ndarray, "3 3"]
    pbc: Bool[np.ndarray, " 3"]
    energy: float
    forces: Float[np.ndarray, "atom 3"]
    stress: Float[np.ndarray, "3 3"]


def frame_from_atoms(atoms: ase.Atoms, where: str, keys: Keys) -> Frame:
    """Labels of a structure, from its calculator's results, its ``info`` and its ``arrays``.

    Stress may be given as six Voigt components, nine, or 3x3; a virial becomes ``-virial / volume``. The stress of a
    structure that is not periodic means nothing and is dropped.

    Args:
        atoms: the structure; its calculator is not run.
        where: opens each error sentence, for example ``"file.xyz, frame 3"``.
        keys: label keys that the user named.

    Raises:
        InputError: a label is not finite or has the wrong shape, or several keys hold different values.
    """
    num_atoms = len(atoms)
    energy = _find(atoms, "energy", keys.energy, ENERGY_KEYS, (1,), where)
    if energy is None and keys.energy is None:
        energy = _find(atoms, "energy", None, ENERGY_FALLBACK_KEYS, (1,), where)
    forces = _find(atoms, "forces", keys.forces, FORCES_KEYS, (num_atoms, 3), where)
    stress = None
    if atoms.pbc.any():
        stress = _find(atoms, "stress", keys.stress, STRESS_KEYS, (3, 3), where)
    if forces is not None and MASK_KEY in atoms.arrays:
        forces = np.where(atoms.arrays[MASK_KEY].astype(bool)[:, None], forces, np.nan)
    return Frame(
        numbers=atoms.numbers.astype(np.int32),
        positions=atoms.positions.astype(np.float64),
        cell=atoms.cell.array.astype(np.float64),
        pbc=atoms.pbc.astype(bool),
        energy=np.nan if energy is None else float(energy[0]),
        forces=np.full((num_atoms, 3), np.nan) if forces is None else forces,
        stress=np.full((3, 3), np.nan) if stress is None else (stress + stress.T) / 2,
    )


def check_frame(frame: Frame, where: str) -> None:
    """Refuse a structure that no potential could describe.

    Raises:
        InputError: no atom, a position or cell that is not finite, a periodic direction without a cell vector, or two
            atoms on one spot (periodic images included).
    """
    if len(frame.numbers) == 0:
        raise InputError(f"{where}: there is no atom; remove the frame.")
    if not (np.isfinite(frame.positions).all() and np.isfinite(frame.cell).all()):
        raise InputError(f"{where}: positions or cell hold NaN or infinity; remove the frame or correct it.")
    periodic = frame.cell[frame.pbc]
    if np.linalg.matrix_rank(periodic, tol=1e-6) < len(periodic):
        raise InputError(f"{where}: pbc is set but the cell has no volume; give the cell or switch pbc off.")
    # A cutoff far below bond lengths would only make the cell list slow.
    senders, receivers, shifts = neighbor_list(frame.positions, frame.cell, frame.pbc, cutoff=1.5)
    if len(senders):
        vectors = frame.positions[senders] + shifts @ frame.cell - frame.positions[receivers]
        distances = np.linalg.norm(vectors, axis=1)
        nearest = int(np.argmin(distances))
        if distances[nearest] < OVERLAP:
            pair = sorted((int(senders[nearest]), int(receivers[nearest])))
            raise InputError(f"{where}: atoms {pair[0]} and {pair[1]} are on one spot; remove one or the frame.")


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
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{where}: {key} is {value!r}, not a number; correct it or choose {label}_key=.") from None
    if label == "energy" and array.size == 1:
        array = array.reshape(1)
    if label == "stress" and array.shape == (6,):
        array = voigt_6_to_full_3x3_stress(array)
    if label == "stress" and array.shape == (9,):
        array = array.reshape(3, 3)
    if array.shape != shape:
        raise InputError(f"{where}: {key} has shape {array.shape}, not {shape}; correct it or choose {label}_key=.")
    mask = atoms.arrays.get(MASK_KEY) if label == "forces" else None
    if not np.isfinite(array if mask is None else array[mask.astype(bool)]).all():
        raise InputError(f"{where}: {key} holds NaN or infinity; remove the label or the frame.")
    if label == "stress" and "virial" in key.lower():
        if atoms.cell.rank < 3:
            raise InputError(f"{where}: {key} needs a cell with a volume; give the cell or remove the label.")
        array = -array / atoms.cell.volume
    return array
