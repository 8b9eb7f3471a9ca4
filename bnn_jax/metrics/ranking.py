"""Whether large errors come with large predicted spreads, whatever the scale of the spreads."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score, roc_curve

from bnn_jax.metrics._arrays import broadcast_float64


class RocCurve(NamedTuple):
    """Points of a receiver operating characteristic, from (0, 0) to (1, 1)."""

    false_positive_rate: Float[np.ndarray, " point"]
    true_positive_rate: Float[np.ndarray, " point"]
    score: Float[np.ndarray, " point"]
    """Elements with at least this score count as detected; infinite at the first point."""


def outlier_auroc(
    errors: Float[np.ndarray, "*#element"],
    scores: Float[np.ndarray, "*#element"],
    threshold: float,
) -> float:
    """Area under the ROC curve for detecting ``|errors| > threshold`` by the scores.

    Args:
        errors: predictions minus references; forces by component.
        scores: predicted standard deviations, or anything that grows with them.
        threshold: error beyond which an element is an outlier, in the unit of the errors (1 kcal/mol/Angstrom in the
            paper).

    Returns:
        The probability that an outlier has a larger score than an inlier, ties counting half; NaN when every element
        is an outlier or none is.

    Raises:
        ValueError: the shapes do not broadcast, or a value is missing or not finite.

    Reference:
        Rensmeyer et al. (2024), section 4.2 and table 4.
    """
    outlier, scores = _labelled(errors, scores, threshold)
    if outlier.all() or not outlier.any():
        return float("nan")
    return float(roc_auc_score(outlier, scores))


def outlier_roc_curve(
    errors: Float[np.ndarray, "*#element"],
    scores: Float[np.ndarray, "*#element"],
    threshold: float,
) -> RocCurve:
    """The curve of which :func:`outlier_auroc` is the area; same arguments.

    Returns:
        Rates of false and true detections as the score decreases; without points when every element is an outlier or
        none is.

    Raises:
        ValueError: the shapes do not broadcast, or a value is missing or not finite.

    Reference:
        Rensmeyer et al. (2024), figures 3 and 5.
    """
    outlier, scores = _labelled(errors, scores, threshold)
    if outlier.all() or not outlier.any():
        return RocCurve(np.empty(0), np.empty(0), np.empty(0))
    return RocCurve(*roc_curve(outlier, scores))


def spearman(errors: Float[np.ndarray, "*#element"], scores: Float[np.ndarray, "*#element"]) -> float:
    """Spearman's rank correlation of ``|errors|`` and the scores.

    Args:
        errors: predictions minus references.
        scores: predicted standard deviations, or anything that grows with them.

    Returns:
        Between -1 and 1; NaN when all the errors or all the scores are equal.

    Raises:
        ValueError: the shapes do not broadcast, or a value is missing or not finite.

    Reference:
        Tan et al. (2023), eq. 12.
    """
    errors, scores = (array.ravel() for array in broadcast_float64(errors=errors, scores=scores))
    errors = np.abs(errors)
    if np.ptp(errors) == 0.0 or np.ptp(scores) == 0.0:
        return float("nan")
    return float(np.corrcoef(rankdata(errors), rankdata(scores))[0, 1])


def _labelled(errors: np.ndarray, scores: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    errors, scores = broadcast_float64(errors=errors, scores=scores)
    return (np.abs(errors) > threshold).ravel(), scores.ravel()
