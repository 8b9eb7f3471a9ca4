"""From the predictions of all samples to their posterior predictive."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from bnn_jax.atoms.statistics import LABELS
from bnn_jax.types import Prediction, Predictive


def combine(
    prediction: Prediction,
    shifts: Float[np.ndarray, " atom"],
    num_atoms: Int[np.ndarray, " structure"],
    labels: Sequence[str],
) -> Predictive:
    r"""The equal mixture of the samples' predictions, in float64.

    .. math:: \mu = \frac1K \sum_k \mu_k, \qquad
              \sigma^2 = \frac1K \sum_k \sigma_k^2 + \frac{1}{K-1} \sum_k (\mu_k - \mu)^2

    Where samples have epistemic stds of their own, the mean of their squares adds to the spread.

    The energy of a structure is the sum of its atoms', so that the two agree to double precision.

    Args:
        prediction: arrays with a leading sample axis, without padding.
        shifts: atomic shift of each atom, in eV.
        num_atoms: atoms of each structure, at least one.
        labels: of the training set; stds that none of them taught are NaN, as :class:`bnn_jax.types.Predictive` says.

    Reference: Rensmeyer et al. (2024), section 4.2, for the mean; the variance is that of their mixture with the
    unbiased estimate of the spread.
    """
    host: Any = jax.tree.map(lambda array: np.asarray(array, np.float64), prediction)
    has_energy, has_forces = (label in labels for label in LABELS)
    energy_stds, forces_stds = _taught(host.energy_std, has_energy), _taught(host.forces_std, has_forces)
    first = np.cumsum(num_atoms) - num_atoms
    above_shifts = np.add.reduceat(host.atom_energies, first, axis=1)
    energy_samples = above_shifts + np.add.reduceat(shifts, first)
    energy_aleatoric = np.sqrt(np.mean(energy_stds**2, axis=0))
    forces_aleatoric = np.sqrt(np.mean(forces_stds**2, axis=0))
    energy_epistemic = _taught(_with_own(_spread(above_shifts), host.energy_std_epistemic), has_energy)
    forces_epistemic = _with_own(_spread(host.forces), host.forces_std_epistemic)
    return Predictive(
        energy=energy_samples.mean(axis=0),
        energy_std=np.hypot(energy_aleatoric, energy_epistemic),
        energy_std_aleatoric=energy_aleatoric,
        energy_std_epistemic=energy_epistemic,
        forces=host.forces.mean(axis=0),
        forces_std=np.hypot(forces_aleatoric[:, None], forces_epistemic),
        forces_std_aleatoric=forces_aleatoric,
        forces_std_epistemic=forces_epistemic,
        stress=None if host.stress is None else host.stress.mean(axis=0),
        stress_std_epistemic=None if host.stress is None else _spread(host.stress),
        atom_energies=host.atom_energies.mean(axis=0) + shifts,
        energy_samples=energy_samples,
        energy_std_samples=energy_stds,
        forces_samples=host.forces,
        forces_std_samples=forces_stds,
        num_atoms=np.asarray(num_atoms),
        score=None if host.score is None else host.score.mean(axis=0),
        stress_samples=host.stress,
    )


def _taught(stds: np.ndarray, is_taught: bool) -> np.ndarray:
    return stds if is_taught else np.full_like(stds, np.nan)


def _with_own(spread: np.ndarray, own: np.ndarray | None) -> np.ndarray:
    """The spread [...] and the samples' own epistemic stds [sample, ...], if they have any, together."""
    return spread if own is None else np.hypot(spread, np.sqrt(np.mean(own**2, axis=0)))


def _spread(samples: Float[np.ndarray, " sample *shape"]) -> Float[np.ndarray, " *shape"]:
    """Standard deviation over samples; zero for a single one, which has no spread to tell."""
    return samples.std(axis=0, ddof=1) if len(samples) > 1 else np.zeros(samples.shape[1:])
