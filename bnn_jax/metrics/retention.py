"""What remains of the error when the most uncertain predictions are handed to an oracle."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from bnn_jax.metrics._arrays import broadcast_float64


class RetentionCurve(NamedTuple):
    """Mean error, in the unit of the errors, against the fraction of predictions that are kept."""

    fraction: Float[np.ndarray, " point"]
    """Fraction kept, those with the lowest scores: from 0 to 1 in steps of one element."""
    error: Float[np.ndarray, " point"]
    """Mean over all elements, those that were handed over counting as zero."""
    oracle: Float[np.ndarray, " point"]
    """The same when the true errors are the scores: the lowest curve there is."""
    random: Float[np.ndarray, " point"]
    """The same on average over random scores: a straight line."""


def retention_curve(
    errors: Float[np.ndarray, "*#element"],
    scores: Float[np.ndarray, "*#element"],
) -> RetentionCurve:
    """Mean ``|errors|`` left when all but a fraction of the predictions, the most uncertain, are done by an oracle.

    The oracle is exact: what it does stays in the mean with an error of zero, as in the paper, rather than leaving it.
    Elements of equal score go over in random order: their errors are averaged.

    Args:
        errors: predictions minus references, or their squares for a curve of the mean squared error.
        scores: predicted standard deviations, or anything that grows with them.

    Returns:
        The curve, with one point more than there are elements, beside those of perfect and of random scores.

    Raises:
        ValueError: the shapes do not broadcast, or a value is missing or not finite.

    Example:
        >>> curve = retention_curve(np.array([1.0, -3.0]), np.array([0.1, 0.2]))
        >>> curve.error.tolist()
        [0.0, 0.5, 2.0]

    Reference:
        Malinin et al. (2021), arXiv:2107.07455 (there error-retention curve).
    """
    errors, scores = (array.ravel() for array in broadcast_float64(errors=errors, scores=scores))
    errors = np.abs(errors)
    fraction = np.arange(errors.size + 1) / errors.size
    return RetentionCurve(fraction, _retained(errors, scores), _retained(errors, errors), fraction * errors.mean())


def retention_area(errors: Float[np.ndarray, "*#element"], scores: Float[np.ndarray, "*#element"]) -> float:
    """Area under :func:`retention_curve` (R-AUC); same arguments.

    Returns:
        The area, in the unit of the errors: half of their mean if the scores say nothing. It falls with the errors as
        well as with a better order of the scores; :func:`prediction_rejection_ratio` is of the order alone.

    Raises:
        ValueError: the shapes do not broadcast, or a value is missing or not finite.

    Reference:
        Malinin et al. (2021), arXiv:2107.07455, up to the rule of integration; trapezoids here.
    """
    errors, scores = (array.ravel() for array in broadcast_float64(errors=errors, scores=scores))
    return float(np.trapezoid(_retained(np.abs(errors), scores), dx=1.0 / errors.size))


def prediction_rejection_ratio(
    errors: Float[np.ndarray, "*#element"],
    scores: Float[np.ndarray, "*#element"],
) -> float:
    r"""Retention area, normalised: 1 is as good as sorting by the true errors, 0 as good as random.

    .. math:: (A_\mathrm{random} - A) / (A_\mathrm{random} - A_\mathrm{oracle})

    Args:
        errors: predictions minus references; larger ones weigh more.
        scores: predicted standard deviations, or anything that grows with them.

    Returns:
        Between -1 and 1; NaN when all the errors are of one size.

    Raises:
        ValueError: the shapes do not broadcast, or a value is missing or not finite.

    Reference:
        Malinin et al. (2020), arXiv:1905.00076.
    """
    errors, scores = (array.ravel() for array in broadcast_float64(errors=errors, scores=scores))
    errors = np.abs(errors)
    if np.ptp(errors) == 0.0:
        return float("nan")
    # An area is short of the random one by the covariance of error and rank, over n. Taken as areas, the differences
    # would cancel for errors that are nearly the same.
    excess = errors - errors.mean()
    by_score, by_error = (excess @ (rankdata(order) - (errors.size + 1) / 2.0) for order in (scores, errors))
    return float(by_score / by_error)


def _retained(errors: np.ndarray, scores: np.ndarray) -> np.ndarray:
    _, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
    averaged = np.bincount(group, errors) / counts
    return np.append(0.0, np.cumsum(np.repeat(averaged, counts))) / errors.size
