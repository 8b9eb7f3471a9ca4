r"""Step size, temperature and mass adaptation as pure functions of the step, counted from zero.

The first ``convergence_steps`` decay exponentially and end with the first sample. Cosine cycles follow, each ending
with a sample: :math:`\gamma_i = \gamma_0 / 2 \, (\cos(\pi + i \pi / K) + 1)`. The papers give this formula and K; it
starts at zero and is back there after 2K steps, so that a cycle is ``cycle_steps`` = 2K.

At its zeros the formula would make the kernel's noise, which goes as :math:`\gamma^{-1/2}`, infinite: the step at zero
takes the step size of its neighbour. A momentum has its stationary variance, proportional to :math:`1 / \gamma`, only
after 1 / alpha steps at one step size; carried along unchanged it is too hot while the step size grows and too cold
while it falls, the more so the shorter the cycle. :func:`bnn_jax.sampling.sghmc.rescale_momentum` removes this.

References:
    Rensmeyer et al. (2024), section 3.3; Rensmeyer et al., Bayesian transfer learning, "Generating samples".
"""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from bnn_jax.config import SamplerConfig

__all__ = [
    "cosine_cycle",
    "exponential_decay",
    "freeze_step",
    "mass_is_adapting",
    "sample_steps",
    "step_size",
    "temperature",
    "total_steps",
]


def exponential_decay(
    step: Int[ArrayLike, ""], num_steps: int, first: Float[ArrayLike, ""], last: Float[ArrayLike, ""]
) -> Float[Array, ""]:
    """Geometric interpolation from ``first`` at step 0 to ``last`` at step ``num_steps`` - 1 and after.

    Args:
        step: step, counted from zero.
        num_steps: number of steps of the decay, at least 1; one step takes ``first``.
        first: value at the first step, positive.
        last: value at the last step, positive.

    Returns:
        The value at ``step``.

    Example:
        >>> [round(float(exponential_decay(i, 3, 1.0, 0.01)), 4) for i in range(4)]
        [1.0, 0.1, 0.01, 0.01]
    """
    fraction = jnp.clip(jnp.asarray(step) / max(num_steps - 1, 1), 0, 1)
    return jnp.asarray(first * (jnp.asarray(last) / first) ** fraction)


def cosine_cycle(step: Int[ArrayLike, ""], cycle_steps: int, peak: Float[ArrayLike, ""]) -> Float[Array, ""]:
    """Cyclic step size: up from (nearly) zero to ``peak`` and back, again and again.

    Args:
        step: step since the first cycle began, counted from zero.
        cycle_steps: 2K, the number of steps of a cycle; a cycle of one step stays at the peak.
        peak: gamma_0, reached in the middle of the cycle.

    Returns:
        The step size, never zero: a cycle's first step takes the value of its second (head of this module).

    Example:
        >>> [round(float(cosine_cycle(i, 4, 1.0)), 4) for i in range(5)]
        [0.5, 0.5, 1.0, 0.5, 0.5]
    """
    # (cos(pi + x) + 1) / 2 = sin(x / 2)^2, and distances from the nearer end, without the cancellation that loses all
    # digits near the ends in single precision.
    step = jnp.asarray(step) % cycle_steps
    distance = jnp.maximum(jnp.minimum(step, cycle_steps - step), 1)
    return jnp.asarray(peak * jnp.sin(jnp.pi * distance / max(cycle_steps, 2)) ** 2)


def step_size(step: Int[ArrayLike, ""], config: SamplerConfig) -> Float[Array, ""]:
    """Step size of the step about to be taken: exponential decay, then cosine cycles.

    Args:
        step: number of steps already taken.
        config: the sampler's settings.

    Returns:
        gamma, always positive.
    """
    return jnp.where(
        jnp.asarray(step) < config.convergence_steps,
        exponential_decay(step, config.convergence_steps, config.step_size_first, config.step_size_last),
        cosine_cycle(jnp.asarray(step) - config.convergence_steps, config.cycle_steps, config.cycle_step_size),
    )


def temperature(step: Int[ArrayLike, ""], config: SamplerConfig, num_ramp_steps: int = 0) -> Float[Array, ""]:
    """Temperature of the step about to be taken: the warm start's, a linear ramp, then the target's.

    Args:
        step: number of steps already taken.
        config: the sampler's settings; the warm start lasts ``warm_start_fraction`` of the convergence steps.
        num_ramp_steps: steps of the ramp after the warm start; 0 jumps.

    Returns:
        T, which scales the variance of the noise.
    """
    warm_start_steps = round(config.warm_start_fraction * config.convergence_steps)
    if warm_start_steps == 0:
        return jnp.asarray(config.temperature)
    # The last warm step is number warm_start_steps - 1, the first at the target num_ramp_steps + 1 later.
    ramp = jnp.clip((jnp.asarray(step) - (warm_start_steps - 1)) / (num_ramp_steps + 1), 0, 1)
    return (1 - ramp) * config.warm_start_temperature + ramp * config.temperature


def freeze_step(config: SamplerConfig) -> int:
    """Number of steps that adapt the mass; all later ones keep it.

    Args:
        config: the sampler's settings.

    Returns:
        ``freeze_fraction`` of the convergence steps, rounded.
    """
    return round(config.freeze_fraction * config.convergence_steps)


def mass_is_adapting(step: Int[ArrayLike, ""], freeze_step: Int[ArrayLike, ""]) -> Bool[Array, ""]:
    """Whether the step about to be taken updates the mass first.

    Args:
        step: number of steps already taken.
        freeze_step: number of steps that adapt, from :func:`freeze_step`.

    Returns:
        True for steps 0 to ``freeze_step`` - 1.
    """
    return jnp.asarray(step) < freeze_step


def sample_steps(config: SamplerConfig) -> Int[np.ndarray, " sample"]:
    """Numbers of steps after which a chain's position is a sample.

    Args:
        config: the sampler's settings.

    Returns:
        The end of the convergence steps, then the end of each cycle; ``num_samples`` values, ascending.
    """
    return config.convergence_steps + config.cycle_steps * np.arange(config.num_samples)


def total_steps(config: SamplerConfig) -> int:
    """Number of steps of a chain, up to its last sample.

    Args:
        config: the sampler's settings.

    Returns:
        The number of steps.
    """
    return config.convergence_steps + config.cycle_steps * (config.num_samples - 1)
