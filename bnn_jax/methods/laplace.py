"""Laplace approximation of the last layer: a normal distribution of the energy readout about trained weights.

The energy is linear in these weights, and so are the forces: their derivatives by the weights are the energies and
forces of the network with unit vectors for a readout, all of which one pass through the network gives.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.linalg import cholesky, solve_triangular

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.config import Config
from bnn_jax.methods.base import Posterior
from bnn_jax.methods.ensemble import absolute_loss, deterministic
from bnn_jax.methods.training import Task, fit_networks
from bnn_jax.model import nequip, readout, with_readout
from bnn_jax.rigidity import Network, SquareLoss, gauss_newton_matrix, jacobians, last_layer, outputs, weighted_rows
from bnn_jax.types import InputError, Params, Potential, Prediction, PRNGKey
from bnn_jax.units import EV_PER_KCAL_PER_MOL

MIN_VALID = 2
"""Structures that a calibration needs at least."""


def potential(config: Config) -> Potential:
    r"""The trained network with the stds that the covariance of its readout gives, or last layers drawn from it.

    .. math:: \sigma^2 = c\, g^T H^{-1} g

    Args:
        config: with the model's data-dependent fields filled in.

    Reference: Bigi et al. (2024), doi:10.1088/2632-2153/ad805f; the variance is c over the prediction rigidity
    of Chong et al. (2024), eq. 2 and 7.
    """
    network = deterministic(nequip(config.model))
    if config.laplace.num_samples:
        return network
    num_features = config.model.num_features

    def init(rng_key: PRNGKey, graph: Any) -> Params:
        covariance = {"factor": jnp.zeros((num_features, num_features)), "scales": jnp.ones(2)}
        return {"network": network.init(rng_key, graph), **covariance}

    def apply(params: Params, graph: Any, *, rng_key: PRNGKey | None = None) -> Prediction:
        def along(direction: Float[Array, " feature"]) -> tuple[Array, Array]:
            prediction = network.apply(with_readout(params["network"], direction), graph)
            return prediction.energy, prediction.forces

        energies, forces = jax.vmap(along)(params["factor"].T)
        energy_scale, forces_scale = params["scales"]
        return network.apply(params["network"], graph, rng_key=rng_key)._replace(
            energy_std_epistemic=energy_scale * jnp.sqrt(jnp.sum(energies**2, axis=0)),
            forces_std_epistemic=forces_scale * jnp.sqrt(jnp.sum(forces**2, axis=0)),
        )

    return Potential(init, apply)


def fit(rng_key: PRNGKey, train: Dataset, valid: Dataset | None, config: Config, **options: Any) -> Posterior:
    """Train one network on absolute errors; take the curvature of its square errors, and its scale from validation.

    Arguments and errors are those of :func:`bnn_jax.methods.training.fit_networks`, and the validation set is needed.

    Raises:
        InputError: the validation set is absent or too small, or what :func:`fit_networks` refuses.
    """
    if valid is None or len(valid) < MIN_VALID:
        there = 0 if valid is None else len(valid)
        raise InputError(
            f"laplace scales its error bars on the validation set and needs {MIN_VALID} structures there, not {there};"
            " give more (--valid)."
        )
    trained = fit_networks(rng_key, train, valid, config, _task, **options)
    laplace, trainer = config.laplace, config.trainer
    # The unit that the weights are for.
    energy_weight, forces_weight = (w / EV_PER_KCAL_PER_MOL**2 for w in (trainer.energy_weight, trainer.forces_weight))
    loss = SquareLoss(energy_weight, forces_weight)
    params = jax.tree.map(lambda leaf: leaf[0], trained.samples)
    network = Network(nequip(trained.config.model).apply, params, trained.statistics, trained.config.model.cutoff)
    derivatives = jacobians(network, last_layer(network), train, outputs(network, loss.names))
    precision = gauss_newton_matrix(weighted_rows(derivatives, train, np.zeros(len(train)), loss))
    precision += laplace.zeta**2 * np.trace(precision) / len(precision) * np.eye(len(precision))
    # H = C C^T, so that H^-1 = C^-T C^-1: the columns of C^-T are independent directions of unit variance.
    factor = solve_triangular(cholesky(precision, lower=True), np.eye(len(precision)), lower=True).T
    scales = _scales(trained, valid, factor)
    if not laplace.num_samples:
        return _with_covariance(trained, factor, scales)
    return dataclasses.replace(trained, samples=_drawn(rng_key, trained, scales[1] * factor, laplace.num_samples))


def _task(config: Config) -> Task:
    network = nequip(config.model)
    return Task(network, absolute_loss(network, config))


def _with_covariance(
    trained: Posterior, factor: Float[np.ndarray, "feature feature"], scales: Sequence[float]
) -> Posterior:
    """The trained network with the covariance itself, and factors of energy and force stds."""
    dtype = jax.tree.leaves(trained.samples)[0].dtype
    covariance = {"factor": jnp.asarray(factor[None], dtype), "scales": jnp.asarray([scales], dtype)}
    samples = {"network": trained.samples, **covariance}
    laplace = dataclasses.replace(trained.config.laplace, num_samples=0)
    return dataclasses.replace(trained, config=dataclasses.replace(trained.config, laplace=laplace), samples=samples)


def _scales(trained: Posterior, valid: Dataset, factor: Float[np.ndarray, "feature feature"]) -> tuple[float, float]:
    """Factors of energy and force stds that make their mean square z-scores on the validation set one."""
    predictive = _with_covariance(trained, factor, (1.0, 1.0)).predict(valid)
    scales = []
    for mean, std, target in (
        (predictive.energy, predictive.energy_std, valid.energy),
        (predictive.forces, predictive.forces_std, valid.forces),
    ):
        labelled = np.isfinite(target) & (std > 0)
        z = (mean[labelled] - target[labelled]) / std[labelled]
        scales.append(float(np.sqrt(np.mean(z**2))) if z.size else float("nan"))
    return scales[0], scales[1]


def _drawn(
    rng_key: PRNGKey, trained: Posterior, factor: Float[np.ndarray, "feature feature"], num_samples: int
) -> Params:
    """Networks whose readouts are drawn from the normal distribution about the trained one."""
    network = jax.tree.map(lambda leaf: leaf[0], trained.samples)
    normal = jax.random.normal(jax.random.fold_in(rng_key, 1), (num_samples, len(factor)))
    readouts = readout(network) + normal @ jnp.asarray(factor.T, normal.dtype)
    return jax.vmap(lambda each: with_readout(network, each))(readouts)
