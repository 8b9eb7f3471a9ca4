"""Whether the labels of a whole data set can be what they claim to be."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

from bnn_jax.atoms.labels import Keys
from bnn_jax.types import InputError

MAX_FORCES_RMS = 100.0
"""In eV/Angstrom."""
MAX_FORCE_MEDIAN = 15.0
"""In eV/Angstrom. Public sets of hot liquids and random carbon reach 5; kcal/mol of molecules at 300 K start at 20."""
MAX_ENERGY_SPREAD = 50.0
"""In eV per atom, after the best atomic energies are taken away."""


def unit_factor(name: str | None, option: str, factors: Mapping[str, float]) -> float:
    """Factor to eV or Angstrom of a unit; one where it is not named.

    Raises:
        InputError: the unit is not known.
    """
    if name is None:
        return 1.0
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
        atomic_energies = np.linalg.lstsq(composition[has_energy].astype(float), energy[has_energy], rcond=None)[0]
        spread = np.std((energy[has_energy] - composition[has_energy] @ atomic_energies) / num_atoms)
        if spread > MAX_ENERGY_SPREAD:
            raise InputError(f"{source}: energies spread by {spread:.3g} per atom, too much for eV; {cure}.")
