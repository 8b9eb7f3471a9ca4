"""Last-layer Hessians: derivatives are made once, the regulariser is chosen afterwards on validation data."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bnn_jax import Dataset
from bnn_jax.metrics import gaussian_log_likelihood
from bnn_jax.rigidity import (
    Network,
    SquareLoss,
    calibration_factor,
    jacobians,
    last_layer,
    outputs,
    prediction_rigidity,
    weighted_rows,
)
from bnn_jax.rigidity.gauss_newton import DenseHessian, absolute_zeta, regularised

ZETAS = tuple(10.0**power for power in range(-7, 1))
"""Relative regularisers to choose among: in units of the root of the mean diagonal element of the Hessian."""

Rows = dict[str, Float[np.ndarray, "row feature"]]
"""Derivatives of predictions by the last layer's weights, by name of the output."""


class Choice(NamedTuple):
    """A regularised Hessian and the factor of the standard deviations that it gives, both from validation data."""

    hessian: DenseHessian
    relative_zeta: float
    absolute_zeta: float
    alpha: float
    """Of energies."""
    likelihoods: list[float]
    """Mean log likelihood of the validation errors at each of the regularisers."""


def derivatives(network: Network, dataset: Dataset, names: tuple[str, ...]) -> Rows:
    """Of all structures, one row for each energy, force component or atom.

    Args:
        network: whose last layer is free.
        dataset: the structures; labels are ignored.
        names: of ``energy``, ``forces`` and ``atom_energies``.
    """
    weights = last_layer(network)
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for each in jacobians(network, weights, dataset, outputs(network, names)):
        for name in names:
            found[name].append(np.asarray(each.rows[name], np.float64).reshape(-1, len(weights.vector)))
    return {name: np.vstack(parts) for name, parts in found.items()}


def weighted(network: Network, train: Dataset, loss: SquareLoss) -> Iterator[Float[np.ndarray, "_row feature"]]:
    """Of each training structure, the rows whose squares add up to the Hessian.

    Args:
        network: at whose weights.
        train: labelled structures.
        loss: that the network was trained on.

    Reference: Chong et al. (2024), eq. 6 and 7.
    """
    rows = jacobians(network, last_layer(network), train, outputs(network, loss.names))
    return weighted_rows(rows, train, np.zeros(len(train)), loss)  # shifts do not matter to a square loss


def with_relative_zeta(matrix: Float[np.ndarray, "feature feature"], zeta: float) -> tuple[DenseHessian, float]:
    """The regularised Hessian, and the regulariser in the unit of the derivatives.

    Args:
        matrix: sum of the products of the rows of :func:`weighted`, without a regulariser.
        zeta: in units of the root of the mean diagonal element.
    """
    absolute = absolute_zeta(zeta, float(np.trace(matrix)), len(matrix))
    return regularised(matrix, absolute), absolute


def choose(
    matrix: Float[np.ndarray, "feature feature"],
    rows: Float[np.ndarray, "target feature"],
    errors: Float[np.ndarray, " target"],
    zetas: Sequence[float] = ZETAS,
) -> Choice:
    r"""The regulariser under which validation errors are most likely, :math:`\sigma^2 = \alpha^2 / R`.

    Args:
        matrix: sum of the products of the rows of :func:`weighted`, without a regulariser.
        rows: derivatives of the energies of the validation set.
        errors: predicted minus true energies of it, in eV.
        zetas: relative regularisers; of equal ones in likelihood the first is taken.
    """
    choices, likelihoods = [], []
    for zeta in zetas:
        hessian, absolute = with_relative_zeta(matrix, zeta)
        rigidities = prediction_rigidity(rows, hessian)
        alpha = calibration_factor(errors, rigidities)
        likelihoods.append(gaussian_log_likelihood(np.zeros(len(errors)), alpha / np.sqrt(rigidities), errors))
        choices.append((hessian, zeta, absolute, alpha))
    return Choice(*choices[int(np.argmax(likelihoods))], likelihoods)
