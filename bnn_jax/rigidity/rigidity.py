"""Rigidities of predictions, given the precision of the weights."""

import numpy as np
from jaxtyping import Float
from scipy.linalg import cho_factor, cho_solve


def prediction_rigidity(
    g: Float[np.ndarray, "target parameter"], precision: Float[np.ndarray, "parameter parameter"]
) -> Float[np.ndarray, " target"]:
    r"""Inverse variance of predictions, in float64.

    .. math:: R = \frac{1}{g^T H^{-1} g}

    Args:
        g: derivatives of the predictions by the weights.
        precision: of the weights, positive definite.

    Returns:
        Infinite where the derivative is zero.

    Raises:
        numpy.linalg.LinAlgError: the precision is not positive definite; raise ``zeta``.

    Reference: Chong et al. (2024), eq. 2.
    """
    g = np.asarray(g, np.float64)
    solved = cho_solve(cho_factor(np.asarray(precision, np.float64), lower=True), g.T)
    variance = np.einsum("ij,ji->i", g, solved)
    with np.errstate(divide="ignore"):
        return 1 / variance
