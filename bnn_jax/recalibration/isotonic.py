"""A variance that never falls as the score grows, by isotonic regression of the squared errors."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from sklearn.isotonic import IsotonicRegression

from bnn_jax.recalibration.validation import FLOOR, ValidationSet

MIN_STRUCTURES = 20
"""The curve has of the order of n^(1/3) steps of n^(2/3) structures. If the elements of a structure are wholly
dependent, a step's mean square then has a relative error of sqrt(2 / n^(2/3)): about a half with 20."""


class Isotonic(NamedTuple):
    """The variance is linear in the score between the knots and constant beyond the outer ones."""

    scores: Float[np.ndarray, " knot"]
    """Ascending, in the unit of the scores."""
    variances: Float[np.ndarray, " knot"]
    """Positive and never falling, in the squared unit of the errors."""

    def __call__(self, scores: Float[np.ndarray, " element"]) -> Float[np.ndarray, " element"]:
        """Standard deviations, in the unit of the errors."""
        return np.sqrt(np.interp(scores, self.scores, self.variances))

    def is_sound(self) -> bool:
        """Whether it gives positive numbers that never fall."""
        if self.scores.shape != self.variances.shape or self.scores.size == 0:
            return False
        is_ascending = np.all(np.diff(self.scores) > 0.0) and np.all(np.diff(self.variances) >= 0.0)
        return bool(is_ascending and self.variances[0] > 0.0)


def fit_isotonic(validation: ValidationSet) -> Isotonic:
    """Least squares of the squared errors over the functions of the score that never fall.

    No variance is below :data:`FLOOR` of the mean squared error: the lowest step may hold a single, small error.

    Args:
        validation: errors, not all zero, and scores of either kind: only their order decides where the steps are.

    Reference:
        Zadrozny and Elkan (2002), doi:10.1145/775047.775151, there for probabilities; computed by scikit-learn.
    """
    squares = np.square(validation.errors)
    # Regressed on ranks, because scikit-learn takes scores for equal that are less than 1e-15 apart.
    distinct, rank = np.unique(validation.scores, return_inverse=True)
    curve = IsotonicRegression(y_min=FLOOR * squares.mean(), out_of_bounds="clip").fit(rank.astype(np.float64), squares)
    return Isotonic(distinct[curve.X_thresholds_.astype(np.int64)], np.asarray(curve.y_thresholds_, np.float64))
