"""Monte Carlo dropout: a stochastic network trained with random masks, and predictions averaged over such masks.

A mask drops channels of the invariant features between blocks and of the hidden layers of every MLP. All of them enter
linear maps, so that to drop a channel is to drop a row of the next weights: a masked network is a network, one mask
serves a whole pass, and energy, forces and stress of a pass belong together and stay equivariant. The passes of the
predictive are drawn once, when training ends (Gal and Ghahramani 2016, whose approximate posterior this is).
"""

import dataclasses
from typing import Any

import jax

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.config import Config
from bnn_jax.methods.base import Posterior
from bnn_jax.methods.ensemble import likelihood_loss
from bnn_jax.methods.training import Task, fit_networks
from bnn_jax.model import channel_readers, leaf, nequip, with_leaf
from bnn_jax.types import Batch, Params, Potential, Prediction, PRNGKey


def potential(config: Config) -> Potential:
    """The stochastic network; its samples are masked weights.

    Args:
        config: with the model's data-dependent fields filled in.
    """
    return nequip(config.model)


def drop(rng_key: PRNGKey, params: Params, rate: float) -> Params:
    """The weights of a network some of whose channels are dropped, the others divided by the share that is kept.

    Args:
        rng_key: of the mask.
        params: of a network.
        rate: probability that a channel is dropped.
    """
    for i, readers in enumerate(channel_readers(params)):
        width = leaf(params, readers[0]).shape[-2]
        kept = jax.random.bernoulli(jax.random.fold_in(rng_key, i), 1 - rate, (width,))
        for path in readers:
            kernel = leaf(params, path)
            params = with_leaf(params, path, kernel * (kept / (1 - rate)).astype(kernel.dtype)[:, None])
    return params


def fit(rng_key: PRNGKey, train: Dataset, valid: Dataset | None, config: Config, **options: Any) -> Posterior:
    """Train one network under ``config.dropout.rate`` and draw ``num_passes`` masked networks from it.

    Arguments and errors are those of :func:`bnn_jax.methods.training.fit_networks`. A minibatch is one pass; the
    validation loss is that of the whole network.
    """
    posterior = fit_networks(rng_key, train, valid, config, _task, **options)
    whole = jax.tree.map(lambda array: array[0], posterior.samples)
    keys = jax.random.split(jax.random.fold_in(rng_key, 1), config.dropout.num_passes)
    samples = jax.jit(jax.vmap(lambda key: drop(key, whole, config.dropout.rate)))(keys)
    return dataclasses.replace(posterior, samples=samples)


def _task(config: Config) -> Task:
    network = nequip(config.model)
    loss = likelihood_loss(network, config)

    def loss_fn(params: Params, batch: Batch, rng_key: PRNGKey | None) -> tuple[Any, Prediction]:
        masked = params if rng_key is None else drop(rng_key, params, config.dropout.rate)
        return loss(masked, batch, None)

    return Task(network, loss_fn)
