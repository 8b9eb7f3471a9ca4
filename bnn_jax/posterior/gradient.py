"""Minibatch estimates of the log posterior and its gradient, in BlackJAX's sign and scale."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bnn_jax.posterior.likelihood import log_likelihood
from bnn_jax.types import Batch, Params, Prediction


class LogDensity(NamedTuple):
    """Parts of the log posterior estimate, for the log of a run."""

    log_prior: Float[Array, ""]
    log_likelihood: Float[Array, ""]
    """Mean over the structures of the minibatch."""
    forces_square_error: Float[Array, ""]
    """Mean square error of the labelled force components of the minibatch, in (eV/Angstrom)^2."""


def log_density_estimator(
    apply: Callable[..., Prediction],
    log_prior_fn: Callable[[Params], Float[Array, ""]],
    data_size: int,
    stress_std: float,
) -> Callable[[Params, Batch], tuple[Float[Array, ""], LogDensity]]:
    r"""Unbiased estimate of the log posterior density of all data, up to its constant.

    .. math:: \ln p(\theta) + \frac{N}{|\hat D|} \sum_{(x, y) \in \hat D} \ln p(y | x, \theta)

    Args:
        apply: ``Potential.apply``.
        log_prior_fn: log density of the prior.
        data_size: N, the number of structures in the training set.
        stress_std: see :func:`bnn_jax.posterior.likelihood.log_likelihood`.

    Returns:
        ``estimate(params, batch) -> (log density, its parts)``; the batch holds one padding structure.

    Reference: Rensmeyer et al. (2024), section 3.3, minus its u-hat.
    """

    def estimate(params: Params, batch: Batch) -> tuple[Float[Array, ""], LogDensity]:
        prediction = apply(params, batch.graph)
        mean = jnp.sum(log_likelihood(prediction, batch, stress_std)) / (batch.graph.n_node.shape[0] - 1)
        prior = log_prior_fn(params)
        mask = batch.labels.forces_mask[:, None]
        square = jnp.sum(jnp.where(mask, prediction.forces - batch.labels.forces, 0) ** 2)
        parts = LogDensity(prior, mean, square / jnp.maximum(3 * jnp.sum(mask), 1))
        return prior + data_size * mean, parts

    return estimate


def value_and_grad_estimator(estimate: Callable) -> Callable:
    """``(params, batch) -> ((log density, parts), gradient)``; the gradient points uphill, as BlackJAX's does."""
    return jax.value_and_grad(estimate, has_aux=True)
