"""Deep ensemble: networks trained side by side from initial weights of their own (Lakshminarayanan et al. 2017)."""

from typing import Any

import jax.numpy as jnp

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.config import Config
from bnn_jax.methods.base import Posterior
from bnn_jax.methods.training import LossFn, Task, fit_networks
from bnn_jax.model import nequip
from bnn_jax.training import losses
from bnn_jax.types import Batch, Params, Potential, Prediction, PRNGKey


def potential(config: Config) -> Potential:
    """A stochastic network, or one without stds where absolute errors are minimised.

    Args:
        config: with the model's data-dependent fields filled in.
    """
    network = nequip(config.model)
    return network if config.ensemble.loss == "likelihood" else deterministic(network)


def deterministic(network: Potential) -> Potential:
    """A potential with the means of another and no stds."""

    def apply(params: Params, graph: Any, *, rng_key: PRNGKey | None = None) -> Prediction:
        prediction = network.apply(params, graph, rng_key=rng_key)
        zero = jnp.zeros_like
        return prediction._replace(energy_std=zero(prediction.energy_std), forces_std=zero(prediction.forces_std))

    return Potential(network.init, apply)


def absolute_loss(network: Potential, config: Config) -> LossFn:
    """Absolute errors of energies and forces (Tan et al. 2023, SI eq. 1).

    Args:
        network: what is trained.
        config: with the weights of the two.
    """
    trainer = config.trainer

    def loss_fn(params: Params, batch: Batch, rng_key: PRNGKey | None) -> tuple[Any, Prediction]:
        prediction = network.apply(params, batch.graph, rng_key=rng_key)
        return losses.absolute_error(prediction, batch, trainer.energy_weight, trainer.forces_weight), prediction

    return loss_fn


def likelihood_loss(network: Potential, config: Config) -> LossFn:
    """Minus the mean log likelihood of a structure (Rensmeyer et al. 2024, section 3.2).

    Args:
        network: what is trained.
        config: with the std of the stress.
    """

    def loss_fn(params: Params, batch: Batch, rng_key: PRNGKey | None) -> tuple[Any, Prediction]:
        prediction = network.apply(params, batch.graph, rng_key=rng_key)
        return losses.negative_log_likelihood(prediction, batch, config.posterior.stress_std), prediction

    return loss_fn


def fit(rng_key: PRNGKey, train: Dataset, valid: Dataset | None, config: Config, **options: Any) -> Posterior:
    """Train ``config.ensemble.num_members`` networks; their spread is the epistemic part (Tan et al. 2023, eq. 2 to 5).

    Arguments and errors are those of :func:`bnn_jax.methods.training.fit_networks`; each member stops early by itself.
    """
    return fit_networks(rng_key, train, valid, config, _task, **options)


def num_networks(config: Config) -> int:
    """Members of the ensemble."""
    return config.ensemble.num_members


def _task(config: Config) -> Task:
    ensemble, network = config.ensemble, nequip(config.model)
    loss_fn = likelihood_loss if ensemble.loss == "likelihood" else absolute_loss
    is_shared = ensemble.batches == "shared"
    return Task(network, loss_fn(network, config), range(num_networks(config)), is_shared, ensemble.bootstrap)
