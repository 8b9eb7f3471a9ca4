"""Rigidities of predictions, given the Hessian of the loss, and variances from them."""

from collections.abc import Mapping
from typing import Literal, Protocol, Self, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float
from scipy.linalg import cho_factor, cho_solve

from bnn_jax.types import InputError

CalibrationName = Literal["squared", "absolute", "likelihood"]


@runtime_checkable
class Hessian(Protocol):
    """What every form of a Hessian offers."""

    def quadratic(self, vectors: Float[np.ndarray, "target parameter"]) -> Float[np.ndarray, " target"]:
        """v^T H^-1 v of several vectors."""
        ...

    def solve(self, vectors: Float[np.ndarray, "target parameter"]) -> Float[np.ndarray, "target parameter"]:
        """H^-1 v of several vectors."""
        ...

    def update(self, rows: Float[np.ndarray, "row parameter"]) -> Self:
        """The Hessian with further rows, such as those of a structure that joins the training set."""
        ...


def prediction_rigidity(
    g: Float[np.ndarray, "target parameter"], precision: "Hessian | Float[np.ndarray, 'parameter parameter']"
) -> Float[np.ndarray, " target"]:
    r"""Inverse variance of predictions, in float64.

    .. math:: R = \frac{1}{g^T H^{-1} g}

    Args:
        g: derivatives of the predictions by the weights: of total energies (PR), of atoms' energies (LPR), of
            components of the energy (CPR), or of force components.
        precision: of the weights: a positive definite matrix, or a form of the Hessian.

    Returns:
        Infinite where the derivative is zero.

    Raises:
        numpy.linalg.LinAlgError: the matrix is not positive definite; raise ``zeta``.

    Reference: Chong et al. (2024), eq. 2 and table 1.
    """
    g = np.asarray(g, np.float64)
    if isinstance(precision, np.ndarray):
        solved = cho_solve(cho_factor(np.asarray(precision, np.float64), lower=True), g.T)
        variance = np.einsum("ij,ji->i", g, solved)
    else:
        variance = precision.quadratic(g)
    with np.errstate(divide="ignore"):
        return 1 / variance


def components(
    rows: Float[np.ndarray, "row parameter"], slices: Mapping[str, slice]
) -> dict[str, Float[np.ndarray, "row parameter"]]:
    """Derivatives of the parts of a linear prediction that named slices of its features give.

    Args:
        rows: of the whole prediction.
        slices: of the weights, which cover all of them once.

    Raises:
        InputError: they overlap, or leave a gap.

    Reference: Chong et al. (2024), table 1 (CPR).
    """
    owners = np.zeros(rows.shape[1], int)
    masks: dict[str, Bool[np.ndarray, " parameter"]] = {}
    for name, chosen in slices.items():
        masks[name] = np.zeros(rows.shape[1], bool)
        masks[name][chosen] = True
        owners += masks[name]
    for count, what in ((owners > 1, "in several components"), (owners == 0, "in no component")):
        if count.any():
            raise InputError(
                f"Weight {int(np.argmax(count))} is {what} ({int(count.sum())} such weights); let the slices cover each"
                " weight once."
            )
    return {name: np.where(mask, rows, 0.0) for name, mask in masks.items()}


def calibration_factor(
    errors: Float[np.ndarray, " target"], rigidities: Float[np.ndarray, " target"], by: CalibrationName = "squared"
) -> float:
    r"""The alpha that makes :math:`\sigma^2 = \alpha^2 / R` fit errors of a validation set.

    ``squared``: :math:`\alpha^2` is the mean of :math:`e^2 R`, which also maximises the Gaussian likelihood
    (``likelihood``, another name of it). ``absolute``: :math:`\alpha` is :math:`\sqrt{\pi / 2}` times the mean of
    :math:`|e| \sqrt R`, which outliers move less.

    Args:
        errors: predictions minus references, of structures that were not trained on.
        rigidities: of these predictions.
        by: which of them.

    Returns:
        In the unit of the errors over that of the predictions' rigidity, squared: dimensionless where the loss has
        weight one.

    Raises:
        InputError: there are no errors, one is not finite, or a rigidity is not positive.

    Reference: Bigi et al. (2024), doi:10.1088/2632-2153/ad805f.
    """
    errors, rigidities = np.asarray(errors, np.float64), np.asarray(rigidities, np.float64)
    if not errors.size or not np.isfinite(errors).all() or not (rigidities > 0).all():
        raise InputError("A calibration needs finite errors and positive rigidities, one of each.")
    standard = errors * np.sqrt(np.where(np.isinf(rigidities), 0.0, rigidities))
    if by == "absolute":
        return float(np.sqrt(np.pi / 2) * np.abs(standard).mean())
    return float(np.sqrt(np.mean(standard**2)))
