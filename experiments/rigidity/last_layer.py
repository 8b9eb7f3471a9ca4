"""Last-layer Hessians: derivatives are made once, the regulariser is chosen afterwards on validation data."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bnn_jax import Dataset
from bnn_jax.atoms.graph import PackedData, batch_size_needed, gather_batch, pack
from bnn_jax.metrics import gaussian_log_likelihood
from bnn_jax.model import with_readout
from bnn_jax.rigidity import (
    Jacobian,
    Network,
    SquareLoss,
    calibration_factor,
    gauss_newton_matrix,
    jacobians,
    last_layer,
    outputs,
    prediction_rigidity,
    weighted_rows,
)
from bnn_jax.rigidity.gauss_newton import DenseHessian, absolute_zeta, regularised
from bnn_jax.types import Params

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


def curvature(network: Network, train: Dataset, loss: SquareLoss) -> Float[np.ndarray, "feature feature"]:
    """Gauss-Newton Hessian of the loss by the last layer's weights, without a regulariser.

    Args:
        network: at whose weights.
        train: labelled structures.
        loss: that the network was trained on.

    Reference: Chong et al. (2024), eq. 6 and 7.
    """
    rows = jacobians(network, last_layer(network), train, outputs(network, loss.names))
    return gauss_newton_matrix(weighted_rows(rows, train, np.zeros(len(train)), loss))  # shifts: see weighted_rows


def compiled_derivatives(
    network: Network, dataset: Dataset, names: tuple[str, ...]
) -> Callable[[Params], list[Jacobian]]:
    """:func:`bnn_jax.rigidity.jacobians` by the last layer, compiled once for networks that differ in weights only.

    Predictions are linear in the last layer: their derivative by one of its weights is what the network predicts with
    that weight one and the others zero.

    Args:
        network: whose weights will be replaced.
        dataset: the structures.
        names: of ``energy``, ``forces`` and ``atom_energies``.

    Returns:
        A function of weights to the derivatives of each structure.
    """
    dtype = jax.tree.leaves(network.params)[0].dtype
    packed = pack(dataset, network.cutoff, network.statistics.species, network.statistics.shifts, dtype)
    sizes = batch_size_needed(packed, np.arange(len(dataset))[:, None])
    outputs_fn = outputs(network, names)

    @jax.jit
    def of_all(params: Params, packed: PackedData) -> dict[str, Array]:
        unit_vectors = jnp.eye(len(last_layer(network).vector), dtype=dtype)

        def of_one(index: Int[Array, ""]) -> dict[str, Array]:
            graph = gather_batch(packed, index[None], *sizes).graph
            along = jax.vmap(lambda unit: outputs_fn(with_readout(params, unit), graph))(unit_vectors)
            return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), along)

        return jax.lax.map(of_one, jnp.arange(len(dataset)))

    on_device = jax.device_put(packed)

    def call(params: Params) -> list[Jacobian]:
        rows = jax.device_get(of_all(params, on_device))
        return [
            Jacobian({}, {name: rows[name][i] if name == "energy" else rows[name][i, :count] for name in names})
            for i, count in enumerate(dataset.num_atoms)
        ]

    return call


def with_relative_zeta(matrix: Float[np.ndarray, "feature feature"], zeta: float) -> tuple[DenseHessian, float]:
    """The regularised Hessian, and the regulariser in the unit of the derivatives.

    Args:
        matrix: from :func:`curvature`.
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
        matrix: from :func:`curvature`.
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
