"""The figures that methods are compared by."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from bnn_jax import metrics
from bnn_jax.comparison.elements import Elements
from bnn_jax.recalibration import Recalibration

Value = Callable[[Elements, Recalibration | None], float]

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
    needs: Literal["errors", "stds", "scores", "calibration", "samples"]
    """What the method must have; what looks at each sample by itself is not resampled, for it takes long."""
    value: Value
    is_marked: bool = True
    """Whether the best is marked where the intervals part: not where resampling is biased or there are no intervals."""


def _half_widths(elements: Elements) -> Float[np.ndarray, " element"]:
    return metrics.normal_half_widths(elements.stds, COVERAGE)


def _of_stds(metric: Callable[..., float]) -> Value:
    """A metric of (mean, std, target), for the predicted normal distribution of the error."""
    return lambda elements, _: metric(np.zeros_like(elements.errors), elements.stds, elements.errors)


def _calibrated(metric: Callable[..., float]) -> Value:
    """The same with the recalibrated std."""

    def value(elements: Elements, recalibration: Recalibration | None) -> float:
        assert recalibration is not None
        return metric(np.zeros_like(elements.errors), recalibration.stds(elements.scores), elements.errors)

    return value


def _percentile_auroc(elements: Elements, _: Recalibration | None) -> float:
    threshold = metrics.error_percentile(elements.errors, PERCENTILE)
    return metrics.outlier_auroc(elements.errors, elements.scores, threshold)


FIGURES: Mapping[str, Figure] = {
    "mae": Figure(
        "MAE", "lower", "errors", lambda e, _: metrics.mean_absolute_error(e.errors, np.zeros_like(e.errors))
    ),
    "rmse": Figure(
        "RMSE", "lower", "errors", lambda e, _: metrics.root_mean_square_error(e.errors, np.zeros_like(e.errors))
    ),
    "mll": Figure("MLL, normal", "higher", "stds", _of_stds(metrics.gaussian_log_likelihood)),
    "mll_mixture": Figure(
        "MLL, mixture",
        "higher",
        "samples",
        lambda e, _: metrics.mixture_log_likelihood(-e.offsets, e.sample_stds, -e.errors),
    ),
    "cnll": Figure(
        "calibrated NLL",
        "lower",
        "calibration",
        _calibrated(lambda mean, std, target: -metrics.gaussian_log_likelihood(mean, std, target)),
    ),
    "crps": Figure("CRPS", "lower", "stds", _of_stds(metrics.gaussian_crps)),
    "interval_score": Figure(
        "interval score, 90 %",
        "lower",
        "stds",
        lambda e, _: metrics.interval_score(e.errors, _half_widths(e), COVERAGE),
    ),
    "spearman": Figure("Spearman", "higher", "scores", lambda e, _: metrics.spearman(e.errors, e.scores)),
    "auroc": Figure(
        "ROC-AUC, 1 kcal/mol/Å", "higher", "scores", lambda e, _: metrics.outlier_auroc(e.errors, e.scores, OUTLIER)
    ),
    "auroc_percentile": Figure("ROC-AUC, 20th percentile", "higher", "scores", _percentile_auroc),
    "average_precision": Figure(
        "PR-AUC, 1 kcal/mol/Å",
        "higher",
        "scores",
        lambda e, _: metrics.outlier_average_precision(e.errors, e.scores, OUTLIER),
    ),
    "rejection_ratio": Figure(
        "rejection ratio", "higher", "scores", lambda e, _: metrics.prediction_rejection_ratio(e.errors, e.scores)
    ),
    "miscalibration_area": Figure(
        "miscalibration area", "lower", "stds", _of_stds(metrics.miscalibration_area), is_marked=False
    ),
    "calibrated_area": Figure(
        "the same, calibrated", "lower", "calibration", _calibrated(metrics.miscalibration_area), is_marked=False
    ),
    "ence": Figure(
        "ENCE", "lower", "stds", lambda e, _: metrics.ence(e.errors, e.stds, min(15, e.errors.size)), is_marked=False
    ),
    "nece": Figure(
        "NECE", "lower", "samples", lambda e, _: metrics.nece(e.errors, e.sample_stds, means=e.offsets), is_marked=False
    ),
    "mean_squared_z": Figure(
        "mean squared z",
        "nearer to one",
        "stds",
        lambda e, _: metrics.mean_squared_z_score(e.errors, e.stds),
        is_marked=False,
    ),
    "coverage": Figure(
        "coverage of 90 %",
        "none",
        "stds",
        lambda e, _: metrics.interval_coverage(e.errors, _half_widths(e)),
        is_marked=False,
    ),
    "sharpness": Figure("sharpness", "none", "stds", lambda e, _: metrics.sharpness(e.stds), is_marked=False),
}
"""By name, in the order of the table. Units are kcal/mol and Angstrom."""

_FIGURES_OF: Mapping[str, tuple[str, ...]] = {
    "forces": tuple(FIGURES),
    "structures": ("mae", "spearman", "auroc_percentile", "rejection_ratio"),
    "energy": ("mae", "rmse", "mll", "mll_mixture", "cnll", "crps", "spearman", "mean_squared_z", "coverage"),
}
_FIGURES_OF_AN_ELEMENT = ("mae", "mll", "spearman", "auroc", "mean_squared_z", "coverage")


def figures_of(quantity: str) -> tuple[str, ...]:
    """Names of the figures that a quantity is compared by.

    Args:
        quantity: a key of :func:`bnn_jax.comparison.elements.quantities`.
    """
    return _FIGURES_OF.get(quantity, _FIGURES_OF_AN_ELEMENT)


def figures(elements: Elements, recalibration: Recalibration | None, names: Sequence[str]) -> dict[str, float]:
    """Figures by name; NaN where the method has not what one needs.

    Args:
        elements: of one quantity.
        recalibration: of its scores, from the validation set; None where there is none.
        names: of :data:`FIGURES`.
    """
    there = {
        "errors": True,
        "stds": elements.has_stds,
        "scores": elements.has_scores,
        "calibration": recalibration is not None,
        "samples": bool((elements.sample_stds > 0).all()),
    }
    return {
        name: FIGURES[name].value(elements, recalibration) if there[FIGURES[name].needs] else float("nan")
        for name in names
    }


class Measured(NamedTuple):
    """Figures of one quantity of one test set by one fit."""

    estimates: dict[str, float]
    resampled: dict[str, Float[np.ndarray, " resample"]]
    """Of test sets drawn from the structures, the same draws for all methods; NaN for figures of the samples."""


def measure(
    elements: Elements, recalibration: Recalibration | None, names: Sequence[str], num_resamples: int = NUM_RESAMPLES
) -> Measured:
    """Figures and what they are on resampled test sets.

    Args:
        elements: of one quantity.
        recalibration: of its scores, from the validation set; None where there is none.
        names: of the figures.
        num_resamples: how often to draw the structures.
    """
    chosen = [name for name in names if FIGURES[name].needs != "samples"]
    light = elements._replace(offsets=elements.offsets[:0], sample_stds=elements.sample_stds[:0])
    rows = [
        figures(light.take(index), recalibration, chosen)
        for index in metrics.resamples(elements.structure, num_resamples, seed=0)
    ]
    resampled = {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}
    return Measured(figures(elements, recalibration, names), resampled)
