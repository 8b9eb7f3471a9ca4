"""Shallow ensemble: one network with many linear readouts, whose spread is trained to be the error of their mean.

The readouts share all weights below them (the trunk) and are no networks of their own: how they differ is learnt from
the likelihood of energies and forces, not left to chance, and says nothing of what another trunk would give. Energies
and forces of all readouts come from one pass forward through the trunk, and one pass back for each readout.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.config import Config
from bnn_jax.methods.base import Posterior
from bnn_jax.methods.ensemble import deterministic, likelihood_loss
from bnn_jax.methods.training import Task, fit_networks
from bnn_jax.model import READOUT_PATH, leaf, nequip, with_leaf
from bnn_jax.types import Params, Potential, Prediction, PRNGKey

MIN_STD = 1e-6
"""Of an energy in eV and of a force component in eV/Angstrom, below which the loss takes the readouts for no closer:
what ``nll_loss`` of apax (github.com/apax-hub/apax), a code of Schäfer and Kästner, clips stds to."""


def potential(config: Config) -> Potential:
    """The network without std heads; its samples are the trunk with one readout each.

    Args:
        config: with the model's data-dependent fields filled in.
    """
    return deterministic(nequip(config.model))


def mean_and_spread(config: Config) -> Potential:
    r"""The trunk with all its readouts as one potential, which predicts their mean and spread.

    .. math:: \mu = \frac1M \sum_m y_m, \qquad \sigma^2 = \frac{1}{M-1} \sum_m (y_m - \mu)^2

    with y the energy of a structure, or a component of a force, which is minus the gradient of its readout's energy.
    Parameters are those of the network with a readout of shape [readout, feature, 1], whose parts start as draws of
    their prior.

    Args:
        config: with the model's data-dependent fields filled in.

    Reference: Kellner and Ceriotti (2024), arXiv:2402.16621, for the energy; Schäfer et al. (2026), arXiv:2602.15747,
    for the forces.
    """
    network = potential(config)

    def init(rng_key: PRNGKey, graph: Any) -> Params:
        params = network.init(rng_key, graph)
        one = leaf(params, READOUT_PATH)
        shape = config.shallow.num_readouts, *one.shape
        return with_leaf(params, READOUT_PATH, jax.random.normal(jax.random.fold_in(rng_key, 1), shape, one.dtype))

    def apply(params: Params, graph: Any, *, rng_key: PRNGKey | None = None) -> Prediction:
        def one(params: Params) -> Prediction:
            return network.apply(params, graph, rng_key=rng_key)._replace(features=None)

        each = _each(one, params)
        mean: Prediction = jax.tree.map(lambda array: jnp.mean(array, axis=0), each)
        return mean._replace(energy_std_epistemic=_spread(each.energy), forces_std_epistemic=_spread(each.forces))

    return Potential(init, apply)


def separated(params: Params) -> Params:
    """The networks of the readouts, each with a copy of the trunk: leaves [readout, ...].

    Args:
        params: of :func:`mean_and_spread`.
    """
    return _each(lambda one: one, params)


def fit(rng_key: PRNGKey, train: Dataset, valid: Dataset | None, config: Config, **options: Any) -> Posterior:
    r"""Train a trunk and ``config.shallow.num_readouts`` readouts together on minus the log likelihood.

    .. math:: -\ln N(E; \mu_E, \sigma_E^2) - \sum_i \sum_{a = x, y, z} \ln N(F_{ia}; \mu_{ia}, \sigma_{ia}^2)

    of a structure, where every label counts alike and every component of a force has a variance of its own; stresses
    count as in :func:`bnn_jax.posterior.likelihood.log_likelihood`. Arguments and errors are those of
    :func:`bnn_jax.methods.training.fit_networks`.

    Reference: Schäfer et al. (2026), arXiv:2602.15747: energies and forces by their likelihoods, all weights from the
    start.
    """
    posterior = fit_networks(rng_key, train, valid, config, _task, **options)
    together = jax.tree.map(lambda leaf: leaf[0], posterior.samples)
    return dataclasses.replace(posterior, samples=jax.jit(separated)(together))


def _each(fn: Callable[[Params], Any], params: Params) -> Any:
    """A function of the network of every readout; what does not depend on the readout is done once."""
    return jax.vmap(lambda kernel: fn(with_leaf(params, READOUT_PATH, kernel)))(leaf(params, READOUT_PATH))


def _spread(values: Float[Array, "readout ..."]) -> Float[Array, "..."]:
    """Standard deviation over readouts, with a derivative where they agree, as at padding."""
    return jnp.sqrt(jnp.maximum(jnp.var(values, axis=0, ddof=1), MIN_STD**2))


def _task(config: Config) -> Task:
    network = mean_and_spread(config)
    return Task(network, likelihood_loss(network, config))
