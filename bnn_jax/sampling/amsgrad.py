r"""Mass adaptation: the denominator of AMSGrad, learnt during convergence and then kept.

.. math::
    a_t = \beta a_{t-1} + (1 - \beta) g_t^2, \qquad D_t = \max(D_{t-1}, a_t), \qquad
    M_t = \sqrt{D_t / (1 - \beta^t)} + \epsilon

While the mass follows the path the chain does not sample its target. To freeze it, stop calling :func:`update`: the
bias correction :math:`1 - \beta^t` belongs to the state and stops with it.

References:
    Rensmeyer et al. (2024), section 3.3 and algorithm 1.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from bnn_jax.types import Params

__all__ = ["AMSGradState", "init", "inverse_mass", "update"]


class AMSGradState(NamedTuple):
    """Running statistics of the mean gradient."""

    mean_square: Params
    """a, the exponential moving average of the squared gradient, not corrected for its start at zero."""
    maximum: Params
    """D, the largest ``mean_square`` so far."""
    count: Int[Array, ""]  # pyright: ignore[reportIncompatibleMethodOverride]
    """t, the number of updates."""


def init(position: Params) -> AMSGradState:
    """State before the first gradient: a = D = 0.

    Args:
        position: pytree of floating point arrays, of which only shapes and dtypes count.

    Returns:
        The state.
    """
    zeros = jax.tree.map(lambda x: jnp.zeros_like(x, jnp.result_type(x)), position)
    return AMSGradState(mean_square=zeros, maximum=zeros, count=jnp.zeros((), jnp.int32))


def update(state: AMSGradState, mean_gradient: Params, beta: Float[ArrayLike, ""]) -> AMSGradState:
    """Take one gradient in.

    Args:
        state: the state so far.
        mean_gradient: g, the gradient of the (minibatch's estimate of the) log density over the number of data;
            its sign does not matter.
        beta: decay of the running mean, above 0 and below 1.

    Returns:
        The new state.
    """
    mean_square = jax.tree.map(
        lambda a, g: (beta * a + (1 - beta) * jnp.square(g)).astype(a.dtype), state.mean_square, mean_gradient
    )
    maximum = jax.tree.map(jnp.maximum, state.maximum, mean_square)
    return AMSGradState(mean_square, maximum, state.count + 1)


def inverse_mass(state: AMSGradState, beta: Float[ArrayLike, ""], stability: Float[ArrayLike, ""]) -> Params:
    """1 / M of the state, as the kernel of :mod:`bnn_jax.sampling.sghmc` takes it.

    Args:
        state: running statistics.
        beta: the decay that the updates used.
        stability: epsilon, added to the mass, in units of g.

    Returns:
        A pytree like the position, in units of 1 / g. Before any update it is one everywhere.
    """
    # 1 - beta^t of a beta near one: the logarithm is taken in double precision where beta is a Python number.
    log_beta = math.log(beta) if isinstance(beta, float) else jnp.log(beta)
    correction = -jnp.expm1(state.count * log_beta)

    def inverse(maximum: Float[Array, "..."]) -> Float[Array, "..."]:
        mass = jnp.sqrt(maximum / correction.astype(maximum.dtype)) + stability
        return jnp.where(state.count > 0, 1 / mass, 1.0).astype(maximum.dtype)

    return jax.tree.map(inverse, state.maximum)
