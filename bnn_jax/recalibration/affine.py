"""A variance that is affine in the score, by maximum likelihood."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize_scalar

from bnn_jax.recalibration.validation import FLOOR, LARGEST, ScoreKind, ValidationSet

MIN_STRUCTURES = 4
"""Two for each of the two parameters."""
POINTS_PER_E_FOLD = 4
"""How densely the mixing weight is searched; see :func:`_best_weight`."""


class Affine(NamedTuple):
    r"""``variance = floor + slope * max(U - lowest, 0)`` with U = score**power.

    In the paper's letters a is the slope and b is ``floor - slope * lowest``.
    """

    power: float
    """2 for standard deviations, whose U is their variance; 1 for other scores, which are U themselves."""
    slope: float
    """Not negative, in the squared unit of the errors over that of U."""
    lowest: float
    """Zero for standard deviations; for other scores the smallest of the validation set, below which the variance is
    constant."""
    floor: float
    """Variance at ``lowest``, in the squared unit of the errors: zero at the least for standard deviations, else
    positive."""

    def __call__(self, scores: Float[np.ndarray, " element"]) -> Float[np.ndarray, " element"]:
        """Standard deviations, in the unit of the errors."""
        return np.sqrt(self.floor + self.slope * np.maximum(scores**self.power - self.lowest, 0.0))

    def is_sound(self) -> bool:
        """Whether it gives positive numbers."""
        smallest = self.slope + self.floor if (self.power, self.lowest) == (2.0, 0.0) else self.floor
        return self.power in (1.0, 2.0) and min(self.slope, self.floor) >= 0.0 and smallest > 0.0


def fit_affine(validation: ValidationSet, score_kind: ScoreKind) -> Affine:
    r"""Minimise the Gaussian negative log likelihood of the errors over the variances that are affine in U.

    .. math:: (a, b) = \arg\min \frac{1}{2} \sum_i \ln(2 \pi) + \ln(a U_i + b) + \frac{e_i^2}{a U_i + b}

    For standard deviations U is their square and both a and b are at least zero: the variance is positive whatever
    the score. Other scores may be negative and have no natural zero, as a mixture's negative log likelihood, so that
    there b may be negative. Then ``a U + b`` at the lowest score of the validation set must be at least
    :data:`FLOOR` of its mean over the set: an error that happens to vanish there could otherwise raise the
    likelihood without bound. Scores beneath that lowest one get its variance.

    Args:
        validation: errors, not all zero, and scores.
        score_kind: what U is.

    Returns:
        The global optimum. Where all scores are equal, so that a and b are not determined, the factor of the scores
        if they are standard deviations, else a constant.

    Reference:
        Tan et al. (2023), eq. 13.
    """
    squares = np.square(validation.errors)
    mean_square = squares.mean()
    power = 2.0 if score_kind == "std" else 1.0
    values = validation.scores**power
    lowest = 0.0 if score_kind == "std" else values.min()
    above = values - lowest
    mean_above = above.mean()
    if score_kind != "std" and mean_above < 1.0 / LARGEST:
        return Affine(power, 0.0, float(lowest), float(mean_square))
    # Beside a U with b >= 0, FLOOR / (1 - FLOOR) of the mean of U bounds the smallest share by FLOOR.
    margin = 0.0 if score_kind == "std" else FLOOR / (1.0 - FLOOR)
    positive = (above / mean_above + margin) / (1.0 + margin)
    weight, scale = _best_weight(squares / mean_square, positive)
    slope = mean_square * scale * (1.0 - weight) / (1.0 + margin) / mean_above
    floor = mean_square * scale * (weight + (1.0 - weight) * margin / (1.0 + margin))
    return Affine(power, float(slope), float(lowest), float(floor))


def _best_weight(squares: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """The weight w and the scale t of the likeliest variances ``t ((1 - w) values + w)``, both inputs of mean one.

    The scale of given w is the mean of the squares over the unscaled variances. That leaves one bounded variable,
    with a likelihood that may have several optima. It is a sum of functions of ln(w / (1 - w)), each of which changes
    where that passes ln(value), over about one e-fold. So a grid that reaches from far below the smallest value to far
    above the largest, and that resolves an e-fold, sees all of them; the best point is refined between its
    neighbours.
    """

    def scale(weight: float) -> float:
        return float(np.mean(squares / ((1.0 - weight) * values + weight)))

    def loss(weight: float) -> float:
        return math.log(scale(weight)) + float(np.mean(np.log((1.0 - weight) * values + weight)))

    if np.ptp(values) == 0.0:
        return 0.0, scale(0.0)
    low, high = math.log(1e-3 * values.min()), math.log(1e3 * values.max())
    odds = np.exp(np.linspace(low, high, math.ceil(POINTS_PER_E_FOLD * (high - low))))
    grid = np.concatenate([[0.0], odds / (1.0 + odds), [1.0]])
    best = int(np.argmin([loss(weight) for weight in grid]))
    left, right = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = minimize_scalar(loss, bounds=(left, right), method="bounded", options={"xatol": 1e-9 * (right - left)})
    weight = min(float(grid[best]), float(found.x), key=loss)  # the ends of the range are in the grid only
    return weight, scale(weight)
