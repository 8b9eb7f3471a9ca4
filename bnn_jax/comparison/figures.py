"""The figures that methods are compared by."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from bnn_jax import metrics
from bnn_jax.comparison.elements import Elements
from bnn_jax.recalibration import Recalibration

NUM_RESAMPLES = 200
COVERAGE = 0.9
OUTLIER = 1.0
"""Error of a force component, in kcal/mol/Angstrom, beyond which it is an outlier (Rensmeyer 2024, section 4.2)."""
PERCENTILE = 20.0
"""Percentile above which errors are high (Tan et al. 2023, section 2.3)."""


class Figure(NamedTuple):
    """A column of a comparison."""

    label: str
    better: Literal["lower", "higher", "nearer to one", "none"]
    is_marked: bool = True
    """Whether the best is marked where the intervals part: not where resampling is biased or there are no intervals."""


FIGURES: Mapping[str, Figure] = {
    "mae": Figure("MAE", "lower"),
    "rmse": Figure("RMSE", "lower"),
    "mll": Figure("MLL, normal", "higher"),
    "mll_mixture": Figure("MLL, mixture", "higher"),
    "cnll": Figure("calibrated NLL", "lower"),
    "crps": Figure("CRPS", "lower"),
    "interval_score": Figure("interval score, 90 %", "lower"),
    "spearman": Figure("Spearman", "higher"),
    "auroc": Figure("ROC-AUC, 1 kcal/mol/Å", "higher"),
    "auroc_percentile": Figure("ROC-AUC, 20th percentile", "higher"),
    "average_precision": Figure("PR-AUC, 1 kcal/mol/Å", "higher"),
    "rejection_ratio": Figure("rejection ratio", "higher"),
    "miscalibration_area": Figure("miscalibration area", "lower", is_marked=False),
    "calibrated_area": Figure("the same, calibrated", "lower", is_marked=False),
    "ence": Figure("ENCE", "lower", is_marked=False),
    "nece": Figure("NECE", "lower", is_marked=False),
    "mean_squared_z": Figure("mean squared z", "nearer to one", is_marked=False),
    "coverage": Figure("coverage of 90 %", "none", is_marked=False),
    "sharpness": Figure("sharpness", "none", is_marked=False),
}
"""By name, in the order of the table. Units are kcal/mol and Angstrom."""


def figures(elements: Elements, recalibration: Recalibration | None) -> dict[str, float]:
    """All figures of :data:`FIGURES` that need no samples, by name; NaN where the method has not what one needs.

    Args:
        elements: of one quantity.
        recalibration: of its scores, from the validation set; None where there is none.
    """
    errors, stds, scores = elements.errors, elements.stds, elements.scores
    zero = np.zeros_like(errors)
    found = dict.fromkeys(FIGURES, float("nan"))
    found["mae"] = metrics.mean_absolute_error(errors, zero)
    found["rmse"] = metrics.root_mean_square_error(errors, zero)
    if elements.has_stds:
        half_widths = metrics.normal_half_widths(stds, COVERAGE)
        found["mll"] = metrics.gaussian_log_likelihood(zero, stds, errors)
        found["crps"] = metrics.gaussian_crps(zero, stds, errors)
        found["interval_score"] = metrics.interval_score(errors, half_widths, COVERAGE)
        found["coverage"] = metrics.interval_coverage(errors, half_widths)
        found["miscalibration_area"] = metrics.miscalibration_area(zero, stds, errors)
        found["ence"] = metrics.ence(errors, stds, min(15, errors.size))
        found["mean_squared_z"] = metrics.mean_squared_z_score(errors, stds)
        found["sharpness"] = metrics.sharpness(stds)
    if recalibration is not None:
        calibrated = recalibration.stds(scores)
        found["cnll"] = -metrics.gaussian_log_likelihood(zero, calibrated, errors)
        found["calibrated_area"] = metrics.miscalibration_area(zero, calibrated, errors)
    if elements.has_scores:
        found["spearman"] = metrics.spearman(errors, scores)
        found["auroc"] = metrics.outlier_auroc(errors, scores, OUTLIER)
        found["auroc_percentile"] = metrics.outlier_auroc(errors, scores, metrics.error_percentile(errors, PERCENTILE))
        found["average_precision"] = metrics.outlier_average_precision(errors, scores, OUTLIER)
        found["rejection_ratio"] = metrics.prediction_rejection_ratio(errors, scores)
    return found


def mixture_figures(elements: Elements) -> dict[str, float]:
    """The figures that look at each sample by itself."""
    if not (elements.sample_stds > 0).all():
        return {"mll_mixture": float("nan"), "nece": float("nan")}
    return {
        "mll_mixture": metrics.mixture_log_likelihood(-elements.offsets, elements.sample_stds, -elements.errors),
        "nece": metrics.nece(elements.errors, elements.sample_stds, means=elements.offsets),
    }


class Measured(NamedTuple):
    """Figures of one quantity of one test set by one fit."""

    estimates: dict[str, float]
    resampled: dict[str, Float[np.ndarray, " resample"]]
    """Of test sets drawn from the structures, the same draws for all methods; without the mixture's figures."""


def measure(elements: Elements, recalibration: Recalibration | None, num_resamples: int = NUM_RESAMPLES) -> Measured:
    """Figures and what they are on resampled test sets.

    Args:
        elements: of one quantity.
        recalibration: of its scores, from the validation set; None where there is none.
        num_resamples: how often to draw the structures.
    """
    rows = [
        figures(elements.take(index), recalibration)
        for index in metrics.resamples(elements.structure, num_resamples, seed=0)
    ]
    resampled = {name: np.array([row[name] for row in rows]) for name in FIGURES}
    return Measured(figures(elements, recalibration) | mixture_figures(elements), resampled)
