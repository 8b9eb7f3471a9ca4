"""Gauss-Newton Hessians of the loss, as precision matrices of the weights."""

import numpy as np
from jaxtyping import Float


def last_layer_precision(
    features: Float[np.ndarray, "row feature"],
    zeta: float,
    weights: Float[np.ndarray, " row"] | None = None,
) -> Float[np.ndarray, "feature feature"]:
    r"""Precision of the weights of a linear last layer, in float64.

    .. math:: H = \sum_i w_i f_i f_i^T + \zeta^2 I

    Args:
        features: derivatives of the training predictions by those weights, one row each: an energy's, or a force
            component's.
        zeta: regulariser, in the unit of the features times the root of the weights.
        weights: of the square errors in the loss; one if None.

    Raises:
        ValueError: a value is not finite, a weight is negative, or the shapes differ.

    Reference: Chong et al. (2024), eq. 6 and 7; Bigi et al. (2024), doi:10.1088/2632-2153/ad805f.
    """
    features = np.asarray(features, np.float64)
    weights = np.ones(len(features)) if weights is None else np.asarray(weights, np.float64)
    if weights.shape != features.shape[:1]:
        raise ValueError(f"There are {len(features)} rows of features and {len(weights)} weights; give one each.")
    if not (np.isfinite(features).all() and np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError("A feature or a weight is not finite, or a weight is negative; remove its row.")
    return features.T @ (weights[:, None] * features) + zeta**2 * np.eye(features.shape[1])
