"""Predictions of a labelled set as flat arrays, one element a force component or an energy: what metrics look at."""

from typing import NamedTuple

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Float, Int

from bnn_jax import metrics
from bnn_jax.atoms.dataset import Dataset
from bnn_jax.recalibration import ScoreKind
from bnn_jax.types import Predictive
from bnn_jax.units import EV_PER_KCAL_PER_MOL

FORCES_OF = "forces of "
"""Before the symbol of an element: the components of the forces on its atoms."""


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
    samples = predictive.forces_samples
    return _labelled(
        labelled,
        errors=predictive.forces - dataset.forces,
        stds=predictive.forces_std,
        scores=predictive.forces_score,
        structure=np.broadcast_to(dataset.structure_index[:, None], labelled.shape),
        offsets=predictive.forces - samples,
        sample_stds=np.broadcast_to(predictive.forces_std_samples[..., None], samples.shape),
    )


def energies(predictive: Predictive, dataset: Dataset) -> Elements | None:
    """The labelled energies; None where there is none.

    Args:
        predictive: of the data set.
        dataset: with its labels.
    """
    return _labelled(
        np.isfinite(dataset.energy),
        errors=predictive.energy - dataset.energy,
        stds=predictive.energy_std,
        scores=predictive.energy_score,
        structure=np.arange(len(dataset)),
        offsets=predictive.energy - predictive.energy_samples,
        sample_stds=predictive.energy_std_samples,
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
    has_stds = bool(np.isfinite(predictive.forces_std).all())
    errors, stds = (
        metrics.structure_rms(values, predictive.num_atoms, labelled)
        for values in (predictive.forces - dataset.forces, np.where(has_stds, predictive.forces_std, 0.0))
    )
    stds, scores = np.where(has_stds, stds, np.nan), stds
    if predictive.score is not None:
        first = np.cumsum(predictive.num_atoms) - predictive.num_atoms
        scores = np.add.reduceat(predictive.score, first) / predictive.num_atoms
    none = np.full((1, len(dataset)), np.nan)
    return _labelled(np.isfinite(errors), errors, stds, scores, np.arange(len(dataset)), none, none)


def _labelled(
    labelled: np.ndarray,
    errors: np.ndarray,
    stds: np.ndarray,
    scores: np.ndarray,
    structure: np.ndarray,
    offsets: np.ndarray,
    sample_stds: np.ndarray,
) -> Elements | None:
    """What has a label of arrays [...] in eV, and samples [sample, ...]; None where nothing has one."""
    if not labelled.any():
        return None
    unit = EV_PER_KCAL_PER_MOL
    in_ev = Elements(
        errors[labelled],
        stds[labelled],
        scores[labelled],
        structure[labelled],
        offsets[:, labelled],
        sample_stds[:, labelled],
    )
    return Elements(
        in_ev.errors / unit,
        in_ev.stds / unit,
        in_ev.scores / unit if in_ev.score_kind == "std" else in_ev.scores,
        in_ev.structure,
        in_ev.offsets / unit,
        in_ev.sample_stds / unit,
    )


def quantities(predictive: Predictive, dataset: Dataset) -> dict[str, Elements]:
    """All quantities that have labels: ``forces``, ``forces of H`` and so on, ``structures`` and ``energy``.

    Args:
        predictive: of the data set.
        dataset: with its labels.
    """
    found: dict[str, Elements | None] = {"forces": force_components(predictive, dataset)}
    numbers = np.broadcast_to(dataset.numbers[:, None], dataset.forces.shape)[np.isfinite(dataset.forces)]
    if found["forces"] is not None and len(dataset.species) > 1:
        for number in np.unique(numbers):
            found[f"{FORCES_OF}{chemical_symbols[number]}"] = found["forces"].take(np.flatnonzero(numbers == number))
    found |= {"structures": structure_forces(predictive, dataset), "energy": energies(predictive, dataset)}
    return {name: elements for name, elements in found.items() if elements is not None}
