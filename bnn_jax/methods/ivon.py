"""Variational learning: one network trained as a normal distribution of weights, predictions averaged over draws of it.

The distribution has independent weights and minimises its divergence from the posterior of the stochastic network that
:mod:`bnn_jax.methods.sghmc` samples, at temperature one and with the same prior (Shen et al. 2024, arXiv:2402.17641,
whose optimiser is :mod:`bnn_jax.training.ivon`).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.config import Config
from bnn_jax.methods.base import Posterior
from bnn_jax.methods.ensemble import likelihood_loss
from bnn_jax.methods.training import Task, fit_networks
from bnn_jax.model import nequip
from bnn_jax.training import ivon
from bnn_jax.types import Batch, Potential, Prediction, PRNGKey


def potential(config: Config) -> Potential:
    """The stochastic network; its samples are drawn weights.

    Args:
        config: with the model's data-dependent fields filled in.
    """
    return nequip(config.model)


def fit(rng_key: PRNGKey, train: Dataset, valid: Dataset | None, config: Config, **options: Any) -> Posterior:
    """Train the distribution and draw ``config.ivon.num_samples`` networks from it.

    Arguments and errors are those of :func:`bnn_jax.methods.training.fit_networks`. A minibatch is one draw; the
    validation loss is that of the mean weights, and mean and variances of the same moment are kept.
    """
    trained = fit_networks(rng_key, train, valid, config, _task_of(len(train)), **options)
    normal = jax.tree.map(lambda array: array[0], trained.samples)
    keys = jax.random.split(jax.random.fold_in(rng_key, 1), config.ivon.num_samples)
    samples = jax.jit(jax.vmap(lambda key: ivon.sample(key, normal)))(keys)
    return dataclasses.replace(trained, samples=samples)


@functools.cache  # one and the same for equal data sizes, so that their runs share compilations
def _task_of(num_data: int) -> Callable[[Config], Task]:
    return functools.partial(_task, num_data)


def _task(num_data: int, config: Config) -> Task:
    network = nequip(config.model)
    loss = likelihood_loss(network, config)

    def loss_fn(params: Any, batch: Batch, rng_key: PRNGKey | None) -> tuple[Any, Prediction]:
        return loss(params.mean if rng_key is None else params, batch, None)  # a whole distribution is validated

    return Task(network, loss_fn, optimizer=ivon.ivon(config.ivon, num_data, config.posterior.prior_std))
