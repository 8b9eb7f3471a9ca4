"""Intervals about the predictions: how wide they are, how often they hold the target, and both as one score.

An interval is given by its half-width, be it that of a normal (:func:`normal_half_widths`) or a conformal one.
"""

import numpy as np
from jaxtyping import Float
from scipy.stats import norm

from bnn_jax.metrics._arrays import broadcast_float64


def sharpness(stds: Float[np.ndarray, "*element"]) -> float:
    """Root of the mean predicted variance: of equally calibrated predictions, the sharper is the better.

    Args:
        stds: predicted standard deviations.

    Returns:
        One std for all elements, in the unit of the arguments.

    Raises:
        ValueError: there is no std, or one is missing, not finite or not positive.

    Reference:
        Tran et al. (2020), doi:10.1088/2632-2153/ab7e1a; as uncertainty-toolbox's ``sharpness``.
    """
    (stds,) = broadcast_float64(stds=stds)
    return float(np.sqrt(np.square(stds).mean()))


def normal_half_widths(stds: Float[np.ndarray, "*element"], level: float) -> Float[np.ndarray, "*element"]:
    """Half-widths of the central intervals that hold a normal variable with the probability ``level``.

    Args:
        stds: predicted standard deviations.
        level: from zero to below one; 0.6827 gives back the stds.

    Returns:
        Half-widths, in the unit of the stds.

    Raises:
        ValueError: there is no std, one is missing, not finite or not positive, or the level is out of its range.
    """
    (stds,) = broadcast_float64(stds=stds)
    _check_level(level)
    return float(norm.ppf(0.5 + level / 2.0)) * stds


def interval_coverage(
    errors: Float[np.ndarray, "*#element"],
    half_widths: Float[np.ndarray, "*#element"] | float,
) -> float:
    """Fraction of the elements whose reference lies inside the interval about its prediction.

    For central normal intervals give ``normal_half_widths(stds, level)``:
    :func:`bnn_jax.metrics.calibration_curve` is this at many levels. Below the level means overconfident.

    Args:
        errors: predictions minus references.
        half_widths: half the length of each interval, same unit. An infinite one, as a conformal interval from few
            data has, holds everything.

    Raises:
        ValueError: the shapes do not broadcast, an error is missing or not finite, or a half-width is missing or
            negative.

    Reference:
        Tan et al. (2023), section 2.3, for normal intervals.
    """
    finite = np.minimum(np.asarray(half_widths, dtype=np.float64), np.finfo(np.float64).max)  # a NaN stays
    errors, half_widths = broadcast_float64(errors=errors, half_widths=finite)
    return float((np.abs(errors) <= half_widths).mean())


def interval_score(
    errors: Float[np.ndarray, "*#element"],
    half_widths: Float[np.ndarray, "*#element"] | float,
    level: float,
) -> float:
    r"""Mean length of the intervals, plus what the targets outside of them cost.

    .. math:: \frac{1}{n} \sum_i 2 w_i + \frac{2}{1 - p} \max(|y_i| - w_i, 0)

    for errors y, half-widths w and the level p. Smaller is better, and on average best when a fraction
    :math:`(1 - p) / 2` of the targets lies beyond either end.

    Args:
        errors: predictions minus references.
        half_widths: half the length of each interval, same unit.
        level: probability that the intervals are meant to hold their targets with, from zero to below one.

    Returns:
        The score, in the unit of the errors.

    Raises:
        ValueError: the shapes do not broadcast, a value is missing or not finite, a half-width is negative, or the
            level is out of its range.

    Reference:
        Gneiting and Raftery (2007), doi:10.1198/016214506000001437, eq. 43. The mean over levels is
        uncertainty-toolbox's ``interval_score``.
    """
    errors, half_widths = broadcast_float64(errors=errors, half_widths=half_widths)
    _check_level(level)
    excess = np.maximum(np.abs(errors) - half_widths, 0.0)
    return float((2.0 * half_widths + 2.0 / (1.0 - level) * excess).mean())


def _check_level(level: float) -> None:
    if not 0.0 <= level < 1.0:
        raise ValueError(f"level is {level}; give a probability from 0 to below 1.")
