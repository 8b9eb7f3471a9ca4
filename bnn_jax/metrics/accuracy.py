"""How far predictions are from the reference."""

import numpy as np
from jaxtyping import Float

from bnn_jax.metrics._arrays import broadcast_float64


def mean_absolute_error(
    prediction: Float[np.ndarray, "*#element"],
    target: Float[np.ndarray, "*#element"],
) -> float:
    r"""Mean of :math:`|\mathrm{prediction} - \mathrm{target}|` over all elements.

    Args:
        prediction: predicted values; forces are averaged over their components.
        target: reference values, same unit.

    Returns:
        The error, in the unit of the arguments.

    Raises:
        ValueError: the shapes do not broadcast, or a value is missing or not finite.

    Example:
        >>> mean_absolute_error(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
        1.0
    """
    prediction, target = broadcast_float64(prediction=prediction, target=target)
    return float(np.abs(prediction - target).mean())


def root_mean_square_error(
    prediction: Float[np.ndarray, "*#element"],
    target: Float[np.ndarray, "*#element"],
) -> float:
    r"""Root of the mean of :math:`(\mathrm{prediction} - \mathrm{target})^2` over all elements.

    Args:
        prediction: predicted values; forces are averaged over their components.
        target: reference values, same unit.

    Returns:
        The error, in the unit of the arguments.

    Raises:
        ValueError: the shapes do not broadcast, or a value is missing or not finite.

    Example:
        >>> root_mean_square_error(np.array([0.0, 2.0]), np.array([2.0, 0.0]))
        2.0
    """
    prediction, target = broadcast_float64(prediction=prediction, target=target)
    return float(np.sqrt(np.square(prediction - target).mean()))
