"""Intervals with guaranteed coverage: conformal prediction for elements that come in structures."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bnn_jax.recalibration.validation import ValidationSet
from bnn_jax.types import InputError

ROUNDING = 1e-9
"""Coverage that is given away so that sums of weights such as nine tenths reach a level such as 0.9."""


class ConformalScaling(NamedTuple):
    """``score -> quantile * score``, the half-width of an interval about the prediction."""

    quantile: float
    """In the unit of the errors over that of the scores."""

    def __call__(self, scores: Float[np.ndarray, " element"]) -> Float[np.ndarray, " element"]:
        """Half-widths, in the unit of the errors."""
        return self.quantile * scores

    def is_sound(self) -> bool:
        """Whether it gives no negative numbers."""
        return self.quantile >= 0.0


def min_structures(coverage: float) -> int:
    """The fewest structures whose largest ratio is wide enough: the least n with ``n / (n + 1) >= coverage``.

    Args:
        coverage: between zero and one.

    Raises:
        InputError: it is not.
    """
    if not 0.0 < coverage < 1.0:
        raise InputError(f"coverage is {coverage}; choose it between 0 and 1, such as 0.9.")
    level = coverage - ROUNDING
    return max(1, math.ceil(level / (1.0 - level)))


def fit_conformal(validation: ValidationSet, coverage: float) -> ConformalScaling:
    r"""The weighted quantile of the ratios ``|error| / score`` in which every structure weighs the same.

    .. math:: q = Q_{1 - \alpha}\left(\sum_{k=1}^{n} \frac{1}{n + 1} \sum_{i=1}^{m_k} \frac{1}{m_k} \delta_{r_{ki}}
              + \frac{1}{n + 1} \delta_{+\infty}\right)

    With one element per structure it is the :math:`\lceil (n + 1)(1 - \alpha) \rceil`-th smallest ratio of plain
    split-conformal prediction.

    **Guarantee.** Of a new structure's elements, the expected fraction whose reference lies in ``prediction +- q *
    score`` is at least the coverage :math:`1 - \alpha`, whatever the number of structures, the distribution of the
    errors and their dependence within a structure; and less than :math:`1 - \alpha + 1 / (n + 1)` if no two ratios
    are ever equal. The expectation is over validation sets and new structures, in which large and small structures
    count alike: neither a given validation set, nor a given structure, nor the elements of large structures alone are
    guaranteed as much.

    **Condition.** The structures of the validation set and the new one are exchangeable, that is, drawn
    independently from one population or so that their order says nothing, and the model and its scores were made
    without them. Neighbouring frames of a trajectory, structures chosen for their scores, and a validation set that
    stopped the training break it. With groups, this holds for the elements of each group, of structures that have
    some.

    Args:
        validation: errors and positive scores, of :func:`min_structures` structures or more.
        coverage: :math:`1 - \alpha`.

    Reference:
        Lee, Barber and Willett (2023), arXiv:2306.06342, theorem 1 (whose upper bound has twice this excess).
    """
    # Upper bound: let G be the distribution over the n structures above, without its infinity, and F that over n + 1,
    # the new one included. A ratio r of the new structure is covered if and only if G(r) < 1 - alpha, whence
    # F(r) < 1 - alpha + 1 / (n + 1). Given the structures but not which of them is new, r follows F, and F(r) is
    # below t with a probability less than t.
    _, structure, counts = np.unique(validation.structure_index, return_inverse=True, return_counts=True)
    ratios = np.abs(validation.errors) / validation.scores
    order = np.argsort(ratios, kind="stable")
    reached = np.cumsum(1.0 / counts[structure[order]]) / (counts.size + 1)
    index = min(int(np.searchsorted(reached, coverage - ROUNDING)), ratios.size - 1)
    return ConformalScaling(float(ratios[order[index]]))
