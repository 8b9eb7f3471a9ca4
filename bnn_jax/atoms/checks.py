"""Whether the labels of a whole data set are there, and can be in the units that they are read in."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int

from bnn_jax.atoms.energies import atomic_energy_residuals
from bnn_jax.atoms.labels import Keys
from bnn_jax.types import InputError

MAX_FORCES_RMS = 100.0
"""In eV/Angstrom."""
MAX_FORCE_MEDIAN = 15.0
"""In eV/Angstrom. Public sets of hot liquids and random carbon reach 5; kcal/mol of molecules at 300 K start at 20."""
MAX_ENERGY_SPREAD = 50.0
"""In eV per atom, after the best atomic energies are taken away."""


def unit_factor(name: str, option: str, factors: Mapping[str, float]) -> float:
    """Factor to eV or Angstrom of a unit.

    Raises:
        InputError: the unit is not known.
    """
    if name not in factors:
        raise InputError(f"{option} {name!r} is not known; choose one of {', '.join(factors)}.")
    return factors[name]


def check_labels(
    energy: Float[np.ndarray, " structure"],
    forces: Float[np.ndarray, "atom 3"],
    stress: Float[np.ndarray, "structure 3 3"],
    keys: Keys,
    require_labels: bool,
    source: str,
) -> None:
    """Refuse a data set without the labels that were asked for.

    Raises:
        InputError: a key the user named occurs nowhere, or labels are required and there is neither energy nor forces.
    """
    for label, key, values in (
        ("energy", keys.energy, energy),
        ("forces", keys.forces, forces),
        ("stress", keys.stress, stress),
    ):
        if key is not None and not np.isfinite(values).any():
            raise InputError(f"{source}: no frame holds {key!r}; correct {label}_key= or leave it out.")
    if require_labels and not (np.isfinite(energy).any() or np.isfinite(forces).any()):
        raise InputError(f"{source}: no frame holds energies or forces; name them with energy_key= and forces_key=.")


def check_complete(
    energy: Float[np.ndarray, " structure"],
    forces: Float[np.ndarray, "atom 3"],
    stress: Float[np.ndarray, "structure 3 3"],
    num_atoms: Int[np.ndarray, " structure"],
    pbc: Bool[np.ndarray, "structure 3"],
    frame_numbers: Int[np.ndarray, " structure"],
    source: str,
) -> None:
    """Refuse a data set in which some structures lack what others have.

    A structure has forces if one of its atoms has; a single atom needs none, for they vanish. Stress is expected of
    structures that are periodic in three directions.

    Args:
        energy: NaN where missing, as ``forces`` and ``stress``.
        forces: of the atoms of all structures, one after another.
        stress: zero or anything else where a structure is not periodic.
        num_atoms: of each structure.
        pbc: of each structure.
        frame_numbers: in the file.
        source: opens the error sentence.

    Raises:
        InputError: with the count, the first frame and the consent to give.
    """
    first_atoms = np.cumsum(num_atoms) - num_atoms
    periodic = pbc.all(axis=1)
    for label, has, expected in (
        ("energy", np.isfinite(energy), num_atoms > 0),
        ("forces", np.logical_or.reduceat(np.isfinite(forces).all(axis=1), first_atoms), num_atoms > 1),
        ("stress", np.isfinite(stress).all(axis=(1, 2)) & periodic, periodic),
    ):
        missing = expected & ~has
        if has.any() and missing.any():
            raise InputError(
                f"{source}: {label} is missing in {missing.sum()} of {expected.sum()} structures (first: frame"
                f" {frame_numbers[missing][0]}); label them, or accept the gaps with --allow-missing-labels"
                " (allow_missing_labels=True)."
            )


def check_units(
    composition: Int[np.ndarray, "structure species"],
    energy: Float[np.ndarray, " structure"],
    forces: Float[np.ndarray, "atom 3"],
    source: str,
) -> None:
    """Refuse labels that no data set in eV and Angstrom would hold.

    Raises:
        InputError: forces or the spread of the energies are too large, which kcal/mol read as eV would explain.
    """
    cure = "name the unit, for example energy_unit='kcal/mol', or energy_unit='eV' if they are right"
    known = forces[np.isfinite(forces).all(axis=1)]
    if len(known):
        rms = np.sqrt(np.mean(known**2))
        median = np.median(np.linalg.norm(known, axis=1))
        if rms > MAX_FORCES_RMS or median > MAX_FORCE_MEDIAN:
            raise InputError(
                f"{source}: forces of {median:.3g} (median) and {rms:.3g} (root mean square) are too large for"
                f" eV/Angstrom; {cure}."
            )
    has_energy = np.isfinite(energy)
    if has_energy.any():
        num_atoms = composition[has_energy].sum(axis=1)
        spread = np.std(atomic_energy_residuals(composition[has_energy], energy[has_energy]) / num_atoms)
        if spread > MAX_ENERGY_SPREAD:
            raise InputError(f"{source}: energies spread by {spread:.3g} per atom, too much for eV; {cure}.")
