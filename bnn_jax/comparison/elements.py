"""Predictions of a labelled set as flat arrays, one element a force component or an energy: what metrics look at."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bnn_jax import metrics
from bnn_jax.atoms.dataset import Dataset
from bnn_jax.recalibration import ScoreKind
from bnn_jax.types import Predictive
from bnn_jax.units import EV_PER_KCAL_PER_MOL


class Elements(NamedTuple):
    """Errors of one quantity and what was said of them, in kcal/mol (and Angstrom) as in the papers."""

    errors: Float[np.ndarray, " element"]
    """Prediction minus reference."""
    stds: Float[np.ndarray, " element"]
    """NaN where the method has none."""
    scores: Float[np.ndarray, " element"]
    """What to rank by: the stds, or something else that grows with the error."""
    structure: Int[np.ndarray, " element"]
    """The structure that each belongs to."""
    offsets: Float[np.ndarray, "sample element"]
    """Mean over samples minus each sample's prediction: the means of the predicted errors."""
    sample_stds: Float[np.ndarray, "sample element"]

    @property
    def has_stds(self) -> bool:
        """Whether the method has error bars in the unit of the quantity."""
        return bool((self.stds > 0).all())

    @property
    def has_scores(self) -> bool:
        """Whether it says anything of the quantity."""
        return bool(np.isfinite(self.scores).all())

    @property
    def score_kind(self) -> ScoreKind:
        """Whether the scores are the stds."""
        return "std" if self.has_stds and np.array_equal(self.stds, self.scores) else "any"

    def take(self, index: Int[np.ndarray, " chosen"]) -> "Elements":
        """Some of the elements, or some several times."""
        return Elements(*(array[..., index] for array in self))


def force_components(predictive: Predictive, dataset: Dataset) -> Elements | None:
    """The labelled force components; None where there is none.

    Args:
        predictive: of the data set.
        dataset: with its labels.
    """
    labelled = np.isfinite(dataset.forces)
    if not labelled.any():
        return None
    samples = predictive.forces_samples
    sample_stds = np.broadcast_to(predictive.forces_std_samples[..., None], samples.shape)
    structure = np.broadcast_to(dataset.structure_index[:, None], labelled.shape)
    return _in_kcal_per_mol(
        Elements(
            errors=(predictive.forces - dataset.forces)[labelled],
            stds=predictive.forces_std[labelled],
            scores=predictive.forces_score[labelled],
            structure=structure[labelled],
            offsets=(predictive.forces - samples)[:, labelled],
            sample_stds=sample_stds[:, labelled],
        )
    )


def energies(predictive: Predictive, dataset: Dataset) -> Elements | None:
    """The labelled energies; None where there is none.

    Args:
        predictive: of the data set.
        dataset: with its labels.
    """
    labelled = np.isfinite(dataset.energy)
    if not labelled.any():
        return None
    return _in_kcal_per_mol(
        Elements(
            errors=(predictive.energy - dataset.energy)[labelled],
            stds=predictive.energy_std[labelled],
            scores=predictive.energy_score[labelled],
            structure=np.flatnonzero(labelled),
            offsets=(predictive.energy - predictive.energy_samples)[:, labelled],
            sample_stds=predictive.energy_std_samples[:, labelled],
        )
    )


def structure_forces(predictive: Predictive, dataset: Dataset) -> Elements | None:
    """One element a structure: root mean squares over its labelled force components, of errors and of stds.

    Scores that are no stds are averaged over the structure's atoms. There is no density of such a root mean square, and
    hence no samples.

    Args:
        predictive: of the data set.
        dataset: with its labels.

    Reference: Tan et al. (2023), eq. 5.
    """
    labelled = np.isfinite(dataset.forces)
    if not labelled.any():
        return None
    has_stds = bool(np.isfinite(predictive.forces_std).all())
    errors, stds = (
        metrics.structure_rms(values, predictive.num_atoms, labelled)
        for values in (predictive.forces - dataset.forces, np.where(has_stds, predictive.forces_std, 0.0))
    )
    stds, scores = np.where(has_stds, stds, np.nan), stds
    if predictive.score is not None:
        first = np.cumsum(predictive.num_atoms) - predictive.num_atoms
        scores = np.add.reduceat(predictive.score, first) / predictive.num_atoms
    known = np.flatnonzero(np.isfinite(errors))
    none = np.full((1, len(known)), np.nan)
    return _in_kcal_per_mol(Elements(errors[known], stds[known], scores[known], known, none, none))


QUANTITIES = {"forces": force_components, "structures": structure_forces, "energy": energies}
"""Functions of a predictive and its labelled set."""


def _in_kcal_per_mol(elements: Elements) -> Elements:
    unit = EV_PER_KCAL_PER_MOL
    return Elements(
        elements.errors / unit,
        elements.stds / unit,
        elements.scores / unit if elements.score_kind == "std" else elements.scores,
        elements.structure,
        elements.offsets / unit,
        elements.sample_stds / unit,
    )
