"""Whether large errors come with large predicted spreads, whatever the scale of the spreads."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, roc_curve

from bnn_jax.metrics._arrays import broadcast_float64


class RocCurve(NamedTuple):
    """Points of a receiver operating characteristic, from (0, 0) to (1, 1)."""

    false_positive_rate: Float[np.ndarray, " point"]
    true_positive_rate: Float[np.ndarray, " point"]
    score: Float[np.ndarray, " point"]
    """Elements with at least this score count as detected; infinite at the first point."""


def error_percentile(errors: Float[np.ndarray, "*element"], percentile: float = 20.0) -> float:
    """The size of error that a percentage of the errors stays below, as a threshold for what is an outlier.

    Give it to :func:`outlier_auroc` where an absolute threshold would leave a class empty, or would mean another thing
    for another system: ``outlier_auroc(errors, scores, error_percentile(errors))``.

    Args:
        errors: predictions minus references.
        percentile: between 0 and 100. At the paper's 20, four fifths of the elements are outliers.

    Returns:
        The percentile of ``|errors|``, in their unit, interpolated between elements.

    Raises:
        ValueError: there is no error, one is missing or not finite, or the percentile is outside its range.

    Reference:
        Tan et al. (2023), section 2.3.
    """
    (errors,) = broadcast_float64(errors=errors)
    if not 0.0 <= percentile <= 100.0:
        raise ValueError(f"percentile is {percentile}; give a percentage between 0 and 100.")
    return float(np.percentile(np.abs(errors), percentile))


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
            paper; :func:`error_percentile` gives that of Tan et al.).

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
    # Mann and Whitney's count of pairs in order; a third of the time of scikit-learn's curve, for the bootstrap.
    num_outliers, num_inliers = int(outlier.sum()), int((~outlier).sum())
    above = rankdata(scores)[outlier].sum() - num_outliers * (num_outliers + 1) / 2
    return float(above / (num_outliers * num_inliers))


def swept_auroc(
    errors: Float[np.ndarray, "*#element"],
    scores: Float[np.ndarray, "*#element"],
    num_thresholds: int = 19,
) -> float:
    """Mean of :func:`outlier_auroc` over thresholds: evenly spaced quantiles of the absolute errors.

    A single threshold finds nearly all errors, or hardly any, beyond it where another potential is better or worse.

    Args:
        errors: predictions minus references.
        scores: predicted standard deviations, or anything that grows with them.
        num_thresholds: of them; 19 takes every twentieth.

    Returns:
        The mean where both kinds are there; NaN when all errors are of one size.

    Raises:
        ValueError: the shapes do not broadcast, a value is missing or not finite, or there is no threshold.
    """
    if num_thresholds < 1:
        raise ValueError(f"num_thresholds is {num_thresholds}; give 1 at least.")
    levels = np.arange(1, num_thresholds + 1) / (num_thresholds + 1)
    thresholds = np.quantile(np.abs(np.asarray(errors, np.float64)), levels)
    areas = np.array([outlier_auroc(errors, scores, float(threshold)) for threshold in thresholds])
    return float(np.nanmean(areas)) if np.isfinite(areas).any() else float("nan")


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


def outlier_average_precision(
    errors: Float[np.ndarray, "*#element"],
    scores: Float[np.ndarray, "*#element"],
    threshold: float,
) -> float:
    r"""Area under the precision-recall curve (PR-AUC) for the detection of :func:`outlier_auroc`; same arguments.

    .. math:: \sum_n (R_n - R_{n-1}) P_n

    over the distinct scores in falling order: of all outliers the fraction :math:`R_n` scores at least as high, and of
    all elements that do the fraction :math:`P_n` is an outlier. Unlike the AUROC it tells how many alarms are false
    where outliers are rare.

    Returns:
        Between 0 and 1; scores that say nothing get the fraction of outliers. NaN when every element is an outlier or
        none is.

    Raises:
        ValueError: the shapes do not broadcast, or a value is missing or not finite.

    Reference:
        Davis and Goadrich (2006), doi:10.1145/1143844.1143874; as scikit-learn's ``average_precision_score``.
    """
    outlier, scores = _labelled(errors, scores, threshold)
    if outlier.all() or not outlier.any():
        return float("nan")
    return float(average_precision_score(outlier, scores))


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
