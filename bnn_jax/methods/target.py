"""The posterior density of the weights as plain functions of a pytree, for samplers and optimisers of others."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bnn_jax.atoms.graph import AnyArray, batch_bound, gather_batch
from bnn_jax.atoms.parts import check_parts
from bnn_jax.atoms.sources import Structures, load
from bnn_jax.config import Config
from bnn_jax.methods import registry
from bnn_jax.methods.base import Posterior, example_graph
from bnn_jax.methods.preparation import check_batch_size, choose_anchors, prepare
from bnn_jax.posterior import log_likelihood, normal_log_prior
from bnn_jax.types import Params, PRNGKey


class LogPosterior(NamedTuple):
    """What ``fit`` samples, for those who sample, optimise or expand it by other means."""

    init: Callable[[PRNGKey], Params]
    """``init(rng_key) -> params``: where chains of ``fit`` start, a draw of the prior less its offset of energies."""
    density: Callable[[Params], Float[Array, ""]]
    """``density(params)``: log prior and log likelihood of all structures, up to a constant."""
    estimate: Callable[[Params, Int[AnyArray, " batch"]], Float[Array, ""]]
    """``estimate(params, indices)``: the same from a minibatch, unbiased where its structures are drawn evenly."""
    posterior: Callable[[Params], Posterior]
    """``posterior(samples)``: the samples, with a leading axis, as a :class:`bnn_jax.Posterior` that predicts."""
    num_structures: int
    """Of the training set."""


def log_posterior(train: Structures, config: Config | None = None) -> LogPosterior:
    r"""The posterior of :math:`\theta`, given labelled structures, as ``fit`` has it.

    .. math:: \ln p(\theta) + \sum_{(x, y)} \ln p(y | x, \theta)

    Args:
        train: training set, as :func:`bnn_jax.load` takes it.
        config: its sections ``model`` and ``posterior`` count, and ``sampler.batch_size``, of which the density is
            summed; the preset ``small`` if none.

    Raises:
        InputError: the data or the configuration cannot be used.

    Reference: Rensmeyer et al. (2024), sections 3.2 and 3.3.
    """
    train = load(train)
    config = config or Config.preset("small")
    check_parts(train, {})
    check_batch_size(config.sampler.batch_size, train, "sampler.batch_size")
    config, statistics, packed = prepare(train, None, config)
    potential = registry.get("sghmc").potential(config)
    size, batch_size = len(train), config.sampler.batch_size
    on_device = jax.device_put(packed)

    def log_prior(params: Params) -> Float[Array, ""]:
        return normal_log_prior(params, 0.0, config.posterior.prior_std)

    def sum_of(params: Params, indices: Int[AnyArray, " batch"]) -> Float[Array, ""]:
        """Log likelihood of the structures of a minibatch; negative indices count for nothing."""
        batch = gather_batch(on_device, jnp.asarray(indices), *batch_bound(packed, len(indices), repeated=True))
        return jnp.sum(log_likelihood(potential.apply(params, batch.graph), batch, config.posterior.stress_std))

    def estimate(params: Params, indices: Int[AnyArray, " batch"]) -> Float[Array, ""]:
        return log_prior(params) + size / len(indices) * sum_of(params, indices)

    plan = np.full((-(-size // batch_size), batch_size), -1, np.int32)
    plan.reshape(-1)[:size] = np.arange(size)

    def density(params: Params) -> Float[Array, ""]:
        # Of each minibatch only the sum is kept, and made again for the gradient: all data would not fit the memory.
        of_batch = jax.checkpoint(sum_of)
        return log_prior(params) + jnp.sum(jax.lax.map(lambda indices: of_batch(params, indices), plan))

    graph, batch = example_graph(config.model), choose_anchors(packed, batch_size).batch(packed)

    def init(rng_key: PRNGKey) -> Params:
        return potential.start(potential.init(rng_key, graph), batch)

    def posterior(samples: Params) -> Posterior:
        return Posterior(config, statistics, samples, 1, 0, train_hashes=train.hashes())

    return LogPosterior(init, density, estimate, posterior, size)
