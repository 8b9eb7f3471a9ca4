"""Recalibration of a predictive: error bars that a validation set has corrected."""

import json
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt64

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.recalibration import Recalibration, ScoreKind, find_method, fit_recalibration
from bnn_jax.types import InputError, Predictive


class Calibration(NamedTuple):
    """What turns the scores of a posterior into standard deviations or intervals, and what it was fitted to."""

    energy: Recalibration | None
    """Of structures' energies, in eV; None where the validation set has none or the method says nothing of them."""
    forces: Recalibration | None
    """Of force components, in eV/Angstrom; by atomic number where it was asked for. None as above."""
    hashes: UInt64[np.ndarray, " structure"]
    """Of the validation set (:meth:`bnn_jax.Dataset.hashes`): what it says of these structures proves nothing."""

    def __call__(self, predictive: Predictive, numbers: Int[np.ndarray, " atom"]) -> Predictive:
        """The predictive with the recalibrated ``energy_std`` and ``forces_std``, or with half-widths beside them.

        The aleatoric and epistemic parts, and what the samples say one by one, stay as they are.

        Args:
            predictive: as the samples give it.
            numbers: atomic numbers.

        Raises:
            InputError: a score is not finite, or of an element that the validation set lacks.
        """
        fields: dict[str, np.ndarray] = {}
        for name, found in (("energy", self.energy), ("forces", self.forces)):
            if found is not None:
                scores = getattr(predictive, f"{name}_{'std' if found.score_kind == 'std' else 'score'}")
                groups = None if found.groups is None else np.broadcast_to(numbers[:, None], scores.shape)
                gives_stds = found.coverage is None
                values = (found.stds if gives_stds else found.half_widths)(scores, groups)
                fields[f"{name}_{'std' if gives_stds else 'half_width'}"] = values
        return predictive._replace(**fields)

    def to_json(self) -> str:
        """Text from which :meth:`from_json` makes an equal one."""
        energy, forces = (None if found is None else found.to_json() for found in (self.energy, self.forces))
        return json.dumps({"energy": energy, "forces": forces, "hashes": self.hashes.tolist()})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read :meth:`to_json`'s text.

        Raises:
            InputError: it is not sound.
        """
        try:
            values = json.loads(text)
            hashes = np.array([int(value) for value in values["hashes"]], np.uint64)
            texts = [None if values[name] is None else str(values[name]) for name in ("energy", "forces")]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise InputError(f"This is no calibration as to_json wrote it ({error!r:.200}); fit it again.") from error
        return cls(*(None if text is None else Recalibration.from_json(text) for text in texts), hashes=hashes)


def calibrate(
    predictive: Predictive, valid: Dataset, method: str, per_element: bool = False, coverage: float | None = None
) -> Calibration:
    """Fit a recalibration of energies and of force components to labelled structures that were not trained on.

    Args:
        predictive: of the validation set, as the samples give it.
        valid: with labels.
        method: one of :func:`bnn_jax.recalibration.fit_recalibration`.
        per_element: one curve of the forces for each element.
        coverage: of the intervals of ``conformal``.

    Raises:
        InputError: there is nothing to fit to, or what :func:`fit_recalibration` refuses.
    """
    has_stds = not np.isnan(predictive.forces_std).all()
    kind: ScoreKind = "any"
    if predictive.score is None or (has_stds and find_method(method).scales_scores):
        kind = "std"

    def fitted(
        errors: Float[np.ndarray, " *axes"],
        scores: Float[np.ndarray, " *axes"],
        structure: Int[np.ndarray, " *axes"],
        groups: Shaped[np.ndarray, " *axes"] | None,
    ) -> Recalibration | None:
        labelled = np.isfinite(errors)
        if not labelled.any() or np.isnan(scores).all():
            return None
        groups = None if groups is None else groups[labelled]
        return fit_recalibration(
            method, errors[labelled], scores[labelled], structure[labelled], groups, kind, coverage
        )

    per_component = (len(valid.numbers), 3)
    structure, numbers = (
        np.broadcast_to(each[:, None], per_component) for each in (valid.structure_index, valid.numbers)
    )
    energy_scores = predictive.energy_std if kind == "std" else predictive.energy_score
    forces_scores = predictive.forces_std if kind == "std" else predictive.forces_score
    energy = fitted(predictive.energy - valid.energy, energy_scores, np.arange(len(valid)), None)
    forces = fitted(predictive.forces - valid.forces, forces_scores, structure, numbers if per_element else None)
    if energy is None and forces is None:
        raise InputError(
            "There is nothing to calibrate: the validation set has no labels, or the method no error bars or scores."
        )
    return Calibration(energy, forces, valid.hashes())
