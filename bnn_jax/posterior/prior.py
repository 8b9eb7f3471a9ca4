"""Priors over the weights."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bnn_jax.types import Params


def normal_log_prior(params: Params, mean: Params | float = 0.0, std: Params | float = 1.0) -> Float[Array, ""]:
    r"""Log density of independent normals over every weight, without its constant.

    .. math:: \ln p(\theta) = -\tfrac12 \sum_j \frac{(\theta_j - \mu_j)^2}{\sigma_j^2} + \text{const}

    Args:
        params: the weights.
        mean: one number, or a pytree like ``params`` (the pre-trained weights of a transfer prior).
        std: one number, or a pytree like ``params``.

    Reference: Rensmeyer et al. (2024), section 3.2; the transfer prior is that of Rensmeyer et al., "Bayesian
    Transfer Learning", N(theta_0, sigma_TL^2 I).
    """

    def leaf(weights: Array, centre: Array | float, width: Array | float) -> Array:
        return -0.5 * jnp.sum(((weights - centre) / width) ** 2)

    def spread(value: Params | float) -> Params:
        is_number = isinstance(value, int | float)
        return jax.tree.map(lambda _: value, params) if is_number else value

    return sum(jax.tree.leaves(jax.tree.map(leaf, params, spread(mean), spread(std))), jnp.zeros(()))
