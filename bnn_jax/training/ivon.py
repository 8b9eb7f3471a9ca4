r"""The improved variational online Newton optimiser: a normal distribution of the weights in place of weights.

It minimises :math:`\lambda\, E_q[\ell] + KL(q \| p)` over :math:`q = N(m, \sigma^2)` with a diagonal covariance, where
:math:`\ell` is minus the mean log likelihood of a structure, :math:`\lambda` the number of structures and
:math:`p = N(0, s^2)` the prior of every weight: the divergence from the posterior, up to a constant. Where the
derivative by :math:`\sigma` is zero, :math:`\sigma^{-2} = \lambda E_q[\nabla^2 \ell] + s^{-2}`, so that with the weight
decay :math:`\delta = 1 / (\lambda s^2)` and the mean curvature h the variance is :math:`1 / (\lambda (h + \delta))`.

Reference: Shen et al. (2024), arXiv:2402.17641, eq. 1 and algorithm 1, line by line.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from bnn_jax.config import IVONConfig
from bnn_jax.training.trainer import Optimizer
from bnn_jax.types import Params, PRNGKey


class IVONState(NamedTuple):
    """What the optimiser knows beside the mean."""

    step: Int[Array, ""]
    momentum: Params
    """Running mean of gradients."""
    hessian: Params
    """Running mean h of the diagonal of the curvature of the loss of a structure."""


class Normal(NamedTuple):
    """A distribution of independent weights."""

    mean: Params
    variance: Params


def sample(rng_key: PRNGKey, normal: Normal) -> Params:
    """Weights drawn from their distribution."""
    noise = optax.tree.random_like(rng_key, normal.mean, jax.random.normal)
    return jax.tree.map(lambda m, v, n: m + jnp.sqrt(v) * n, normal.mean, normal.variance, noise)


def ivon(config: IVONConfig, num_data: int, prior_std: float) -> Optimizer:
    """The optimiser, with one draw of the weights in a step; what it keeps is a :class:`Normal`.

    Args:
        config: its numbers.
        num_data: lambda, the number of structures of the training set.
        prior_std: of the normal prior of every weight.
    """
    decay = 1 / (num_data * prior_std**2)
    beta1, beta2, rest = config.beta1, config.beta2, 1 - config.beta2

    def init(params: Params) -> IVONState:
        hessian = jax.tree.map(lambda p: jnp.full_like(p, config.hess_init), params)
        return IVONState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params), hessian)

    def keep(state: IVONState, params: Params) -> Normal:
        return Normal(params, jax.tree.map(lambda h: 1 / (num_data * (h + decay)), state.hessian))

    def draw(rng_key: PRNGKey, state: IVONState, params: Params) -> Params:
        return sample(rng_key, keep(state, params))

    def curvature(h: Array, gradient: Array, drawn: Array, mean: Array) -> Array:
        estimate = gradient * (drawn - mean) * num_data * (h + decay)
        return beta2 * h + rest * estimate + 0.5 * rest**2 * (h - estimate) ** 2 / (h + decay)  # stays above -decay

    def update(gradient: Params, drawn: Params, state: IVONState, params: Params) -> tuple[Params, Any]:
        momentum = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.momentum, gradient)
        hessian = jax.tree.map(curvature, state.hessian, gradient, drawn, params)
        debias = 1 - beta1 ** (state.step + 1)

        def towards(mean: Array, g: Array, h: Array) -> Array:
            newton = (g / debias.astype(g.dtype) + decay * mean) / (h + decay)
            return (config.hess_init + decay) * jnp.clip(newton, -config.clip_radius, config.clip_radius)

        return jax.tree.map(towards, params, momentum, hessian), IVONState(state.step + 1, momentum, hessian)

    return Optimizer(init, draw, update, keep)
