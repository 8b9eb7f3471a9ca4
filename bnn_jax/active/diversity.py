"""Which of many candidates to label together: good ones that are not copies of each other."""

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.distance import cdist

from bnn_jax.types import InputError


def k_centres(
    features: Float[np.ndarray, "candidate feature"],
    number: int,
    known: Float[np.ndarray, "structure feature"] | None = None,
    first: int = 0,
) -> Int[np.ndarray, " choice"]:
    """Greedily the candidates farthest from all that are known and chosen; each once.

    The largest distance of a candidate from its nearest choice is at most twice the smallest possible (Gonzalez 1985).

    Args:
        features: of the candidates.
        number: to choose, at most all.
        known: of structures that are labelled already.
        first: the first choice where nothing is known, such as the candidate of highest score.

    Raises:
        InputError: ``number`` is not positive.
    """
    _check(number)
    if known is not None and len(known):
        nearest = cdist(features, known).min(axis=1)
        chosen = [int(np.argmax(nearest))]
    else:
        nearest, chosen = np.full(len(features), np.inf), [first]
    while len(chosen) < min(number, len(features)):
        nearest = np.minimum(nearest, cdist(features, features[chosen[-1:]])[:, 0])
        nearest[chosen] = -np.inf
        chosen.append(int(np.argmax(nearest)))
    return np.array(chosen)


def determinantal(
    features: Float[np.ndarray, "candidate feature"], quality: Float[np.ndarray, " candidate"], number: int
) -> Int[np.ndarray, " choice"]:
    r"""Greedily the candidates of the largest determinant of their kernel :math:`q_i \, k(x_i, x_j) \, q_j`.

    The kernel k is a Gaussian of the distance of features, as wide as the median distance: a near copy of a choice
    adds nothing, and of two that are equally new the one of higher quality is taken.

    Args:
        features: of the candidates.
        quality: positive, such as expected errors.
        number: to choose, at most all.

    Raises:
        InputError: ``number`` is not positive, or a quality is not.

    Reference: Chen, Zhang and Zhou (2018), arXiv:1709.05135, algorithm 1.
    """
    _check(number)
    if not (quality > 0).all():
        raise InputError("The quality of every candidate must be positive.")
    distances = cdist(features, features)
    width = np.median(distances[np.triu_indices(len(features), 1)]) if len(features) > 1 else 1.0
    kernel = np.exp(-0.5 * (distances / max(width, 1e-300)) ** 2) * quality[:, None] * quality[None, :]
    rows = np.zeros((0, len(features)))  # of the Cholesky factor of the chosen, continued to all candidates
    gains, chosen = np.diag(kernel).copy(), []
    for _ in range(min(number, len(features))):
        best = int(np.argmax(gains))
        chosen.append(best)
        row = (kernel[best] - rows[:, best] @ rows) / np.sqrt(max(gains[best], 1e-300))
        rows = np.vstack([rows, row])
        gains = gains - row**2
        gains[chosen] = -np.inf
    return np.array(chosen)


def _check(number: int) -> None:
    if number < 1:
        raise InputError(f"{number} candidates were to be chosen; ask for 1 or more.")
