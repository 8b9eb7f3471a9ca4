"""One factor for all standard deviations, which matches the mean variance to the mean squared error."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bnn_jax.recalibration.validation import ValidationSet

MIN_STRUCTURES = 2
"""With one, the factor would be that structure's own. If the elements of a structure are wholly dependent, n structures
determine the factor's square to a relative sqrt(2 / n): the paper's 10 to about a half, two only to its order."""


class VarianceScaling(NamedTuple):
    """``std -> factor * std``."""

    factor: float

    def __call__(self, scores: Float[np.ndarray, " element"]) -> Float[np.ndarray, " element"]:
        """Recalibrated standard deviations of standard deviations."""
        return self.factor * scores

    def is_sound(self) -> bool:
        """Whether it gives positive numbers."""
        return self.factor > 0.0


def fit_variance(validation: ValidationSet) -> VarianceScaling:
    r"""Match the mean predicted variance to the mean squared error.

    .. math:: s^2 = \sum_i e_i^2 / \sum_i \sigma_i^2

    Elements of large variance decide; it does not maximise the likelihood, whose factor is the root of the mean of
    :math:`e_i^2 / \sigma_i^2`.

    Args:
        validation: errors, not all zero, and standard deviations, in the same unit.

    Returns:
        The factor s, dimensionless.

    Reference:
        Rensmeyer et al., "Bayesian Transfer Learning", section "Empirical Evaluation".
    """
    return VarianceScaling(float(np.sqrt(np.square(validation.errors).mean() / np.square(validation.scores).mean())))
