"""Whether the energies of a data set belong together, and to its forces."""

import numpy as np
from jaxtyping import Bool, Float, Int

from bnn_jax.types import InputError

MIN_STRUCTURES = 10
"""Fewer do not tell a pattern from chance."""
MIN_FORCES_RMS = 0.5
"""In eV/Angstrom. Smaller forces, as of relaxed structures, do not say how far energies may differ."""
MAX_SPREAD, MAX_SPREAD_OF_ONE_MOLECULE = 1.5, 0.35
"""In Angstrom. Measured: amorphous carbon of many densities reaches 0.64 and its other sets 0.34, but one molecule by
molecular dynamics only 0.02 to 0.10; energies in kcal/mol beside forces in eV/Angstrom make the last 0.43 or more."""
MIN_GAP = 0.5
"""In Angstrom, of a gap that parts two levels of theory."""
MIN_GAP_IN_STDS = 20.0
"""The same gap, in standard deviations of the energies on either side."""
CURE = "or name energy_unit='eV' if they are right"


def atomic_energy_residuals(
    composition: Int[np.ndarray, "structure species"], energy: Float[np.ndarray, " structure"]
) -> Float[np.ndarray, " structure"]:
    """What of each energy no sum of atomic energies explains, in the unit of ``energy``."""
    counts = composition.astype(np.float64)
    return energy - counts @ np.linalg.lstsq(counts, energy, rcond=None)[0]


def check_energies(
    composition: Int[np.ndarray, "structure species"],
    energy: Float[np.ndarray, " structure"],
    forces: Float[np.ndarray, "atom 3"],
    pbc: Bool[np.ndarray, "structure 3"],
    frame_numbers: Int[np.ndarray, " structure"],
    source: str,
) -> None:
    """Refuse energies that are too far from one another for the forces, or that fall into two groups.

    The residuals above the best atomic energies are divided by ``sqrt(3 N)`` (of N atoms) and by the root mean square
    of the force components, which leaves a length: how far each atom would have to move, along its force, to make the
    difference. Single atoms are left out, for they are references and no part of the distribution.

    Args:
        composition: number of atoms of each species.
        energy: in eV, NaN where missing.
        forces: in eV/Angstrom, NaN where missing.
        pbc: of each structure.
        frame_numbers: in the file.
        source: opens the error sentence.

    Raises:
        InputError: one gap parts these lengths in two groups, as it does where levels of theory are mixed; or their
            standard deviation exceeds ``MAX_SPREAD`` (for one molecule, the smaller bound), as it does where energies
            and forces are in different units.
    """
    num_atoms = composition.sum(axis=1)
    used = np.isfinite(energy) & (num_atoms > 1)
    known = forces[np.isfinite(forces).all(axis=1)]
    if used.sum() < MIN_STRUCTURES:
        return
    forces_rms = np.sqrt(np.mean(known**2)) if len(known) else 0.0
    residuals = atomic_energy_residuals(composition[used], energy[used])
    lengths = residuals / np.sqrt(3 * num_atoms[used]) / max(forces_rms, MIN_FORCES_RMS)
    order = np.argsort(lengths)
    gaps = np.diff(lengths[order])
    split = int(np.argmax(gaps)) + 1
    spread = max(lengths[order[:split]].std(), lengths[order[split:]].std())
    if gaps[split - 1] > max(MIN_GAP, MIN_GAP_IN_STDS * spread):
        minority = min(order[:split], order[split:], key=len)
        difference = abs(residuals[minority].mean() - np.delete(residuals, minority).mean())
        frames = ", ".join(str(number) for number in np.sort(frame_numbers[used][minority])[:3])
        raise InputError(
            f"{source}: energies fall into two groups {difference:.3g} eV apart, as if levels of theory were mixed:"
            f" {len(minority)} of {len(order)} structures (first frames: {frames}) are apart from the rest; recompute"
            f" or remove them, {CURE}."
        )
    is_one_molecule = not pbc[used].any() and (composition[used] == composition[used][0]).all()
    most = MAX_SPREAD_OF_ONE_MOLECULE if is_one_molecule else MAX_SPREAD
    if forces_rms >= MIN_FORCES_RMS and lengths.std() > most:
        raise InputError(
            f"{source}: energies differ by {residuals.std():.3g} eV (standard deviation, beyond atomic energies), too"
            f" much for forces of {forces_rms:.3g} eV/Angstrom, as if their units were different; convert one of them,"
            f" {CURE}."
        )
