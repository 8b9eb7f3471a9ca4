"""Mean-variance estimation: one network that predicts the variance of its force errors (Tan et al. 2023, SI B)."""

from typing import Any

import jax.numpy as jnp

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.config import Config
from bnn_jax.methods.base import Posterior
from bnn_jax.methods.training import Task, fit_networks
from bnn_jax.model import nequip
from bnn_jax.training import losses
from bnn_jax.types import Batch, Params, Potential, Prediction, PRNGKey


def potential(config: Config) -> Potential:
    """The stochastic network; of the error of its energies it says nothing, for the loss does not.

    Args:
        config: with the model's data-dependent fields filled in.
    """
    network = nequip(config.model)

    def apply(params: Params, graph: Any, *, rng_key: PRNGKey | None = None) -> Prediction:
        prediction = network.apply(params, graph, rng_key=rng_key)
        return prediction._replace(energy_std=jnp.full_like(prediction.energy_std, jnp.nan))

    return Potential(network.init, apply)


def fit(rng_key: PRNGKey, train: Dataset, valid: Dataset | None, config: Config, **options: Any) -> Posterior:
    """Train one network on absolute errors of energies and the likelihood of forces (Tan et al. 2023, SI eq. 2 to 4).

    Arguments and errors are those of :func:`bnn_jax.methods.training.fit_networks`.
    """
    return fit_networks(rng_key, train, valid, config, _task, **options)


def _task(config: Config) -> Task:
    network = nequip(config.model)
    weights = config.trainer.energy_weight, config.trainer.forces_weight

    def loss_fn(params: Params, batch: Batch, rng_key: PRNGKey | None) -> tuple[Any, Prediction]:
        prediction = network.apply(params, batch.graph, rng_key=rng_key)
        return losses.mean_variance(prediction, batch, *weights, config.mean_variance.variant), prediction

    return Task(network, loss_fn)
