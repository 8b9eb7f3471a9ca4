"""One network trained on half the weighted square errors: the loss whose Hessian eq. 6 of Chong et al. (2024) is.

The methods of the package minimise likelihoods or absolute errors, whose curvature is another; this one is registered
beside them, so that :func:`bnn_jax.fit` trains it like any other, with its checkpoints and early stopping.
"""

import sys
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from bnn_jax import Config, Dataset, Posterior
from bnn_jax.atoms.graph import structure_mask
from bnn_jax.methods import registry
from bnn_jax.methods.ensemble import deterministic
from bnn_jax.methods.training import Task, fit_networks
from bnn_jax.model import nequip
from bnn_jax.rigidity import SquareLoss
from bnn_jax.types import Batch, Params, Potential, Prediction, PRNGKey

NAME = "least_squares"
"""For ``Config.method``."""


def square_loss(config: Config) -> SquareLoss:
    """The loss that :func:`fit` minimises, for :func:`bnn_jax.rigidity.fit_rigidity`.

    Args:
        config: whose ``trainer.energy_weight`` is in 1/eV^2 and ``trainer.forces_weight`` in 1/(eV/Angstrom)^2.
    """
    return SquareLoss(config.trainer.energy_weight, config.trainer.forces_weight)


def half_square_error(prediction: Prediction, batch: Batch, loss: SquareLoss) -> Float[Array, ""]:
    """Mean over structures of half the weighted square errors; labels that are missing do not count.

    Args:
        prediction: of the batch.
        batch: with its labels.
        loss: weights of energies and forces.

    Reference: Chong et al. (2024), eq. 5, with a factor of one half (see :class:`bnn_jax.rigidity.SquareLoss`).
    """
    labels = batch.labels
    energy = jnp.sum(jnp.where(labels.energy_mask, prediction.energy - labels.energy, 0) ** 2)
    forces = jnp.sum(jnp.where(labels.forces_mask[:, None], prediction.forces - labels.forces, 0) ** 2)
    num_structures = jnp.maximum(jnp.sum(structure_mask(batch.graph)), 1)
    return 0.5 * (loss.energy * energy + loss.forces * forces) / num_structures


def potential(config: Config) -> Potential:
    """NequIP without stds."""
    return deterministic(nequip(config.model))


def fit(rng_key: PRNGKey, train: Dataset, valid: Dataset | None, config: Config, **options: Any) -> Posterior:
    """Train one network; arguments and errors are those of :func:`bnn_jax.methods.training.fit_networks`."""
    return fit_networks(rng_key, train, valid, config, task, **options)


def task(config: Config) -> Task:
    """What is trained: one network, on the square loss.

    Args:
        config: with the model's data-dependent fields filled in.
    """
    network, loss = potential(config), square_loss(config)

    def loss_fn(params: Params, batch: Batch, rng_key: PRNGKey | None) -> tuple[Array, Prediction]:
        prediction = network.apply(params, batch.graph, rng_key=rng_key)
        return half_square_error(prediction, batch, loss), prediction

    return Task(network, loss_fn)


registry.register(NAME, sys.modules[__name__])
