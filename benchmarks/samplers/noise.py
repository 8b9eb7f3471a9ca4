r"""The variance of minibatch gradients, as a running mean that does not count the motion of the gradient's own mean.

.. math::
    V \leftarrow \beta V + (1 - \beta) \frac{(g_t - \hat m_{t-1})^2}{1 + r_{t-1}}, \qquad
    \hat m_t = \frac{m_t}{1 - \beta_m^t}, \qquad m_t = \beta_m m_{t-1} + (1 - \beta_m) g_t, \qquad
    r_t = \frac{(1 - \beta_m)(1 + \beta_m^t)}{(1 + \beta_m)(1 - \beta_m^t)}

where r is the variance of the running mean over that of a gradient, so that V, over :math:`1 - \beta^{t-1}`, has the
variance of independent gradients of one mean as its expectation from the second of them on. The mean's window is a few
steps: in stiff directions the full gradient of a chain at temperature one fluctuates by as much as the minibatch's
noise within tens of steps, and a window of a hundred steps takes the two for two to three times the noise.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bnn_jax.types import Params

DECAY = 0.99
"""beta, of the variance."""
MEAN_DECAY = 0.5
"""beta_m, of the mean."""


class NoiseState(NamedTuple):
    """Running statistics of a gradient."""

    mean: Params
    """m, not corrected for its start at zero."""
    variance: Params
    """V, likewise."""
    num_updates: Int[Array, ""]
    """t."""


def init(position: Params) -> NoiseState:
    """Before the first gradient."""
    zeros = jax.tree.map(jnp.zeros_like, position)
    return NoiseState(zeros, zeros, jnp.zeros((), jnp.int32))


def update(state: NoiseState, gradient: Params) -> NoiseState:
    """Take one gradient in."""
    power = MEAN_DECAY ** state.num_updates.astype(jnp.float32)
    is_first, done = state.num_updates == 0, 1 - jnp.where(state.num_updates == 0, 0.0, power)
    excess = (1 - MEAN_DECAY) / (1 + MEAN_DECAY) * (1 + power) / done

    def variance(old: Array, mean: Array, g: Array) -> Array:
        square = jnp.where(is_first, 0, jnp.square(g - mean / done) / (1 + excess))
        return DECAY * old + (1 - DECAY) * square

    return NoiseState(
        jax.tree.map(lambda m, g: MEAN_DECAY * m + (1 - MEAN_DECAY) * g, state.mean, gradient),
        jax.tree.map(variance, state.variance, state.mean, gradient),
        state.num_updates + 1,
    )


def variance(state: NoiseState) -> Params:
    """The estimate of each coordinate, in units of the gradient squared; zero before the second gradient."""
    weight = 1 - DECAY ** jnp.maximum(state.num_updates - 1, 0).astype(jnp.float32)
    return jax.tree.map(lambda v: v / jnp.where(weight > 0, weight, 1), state.variance)


def shares(
    variance: Params, inverse_mass: Params, step_size: Float[Array, ""], temperature: float, data_size: int
) -> Float[Array, " coordinate"]:
    """Variance of the minibatch's mean gradient over that of the injected noise, 2 M T / (N gamma), of each coordinate.

    Args:
        variance: of the mean gradient g of :mod:`bnn_jax.sampling.sghmc`.
        inverse_mass: 1 / M, like it.
        step_size: gamma.
        temperature: T, positive.
        data_size: N.
    """
    ratios = jax.tree.map(lambda v, w: v * w * data_size * step_size / (2 * temperature), variance, inverse_mass)
    return jnp.concatenate([ratio.ravel() for ratio in jax.tree.leaves(ratios)])
