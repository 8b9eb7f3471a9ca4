"""One step of an optimiser, with the moving average of the weights that is validated and kept.

A network in training is a pure function of its key and the plan of minibatches, as a chain is
(:mod:`bnn_jax.sampling.chain`, whose compiled chunks of steps it runs in).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from bnn_jax.config import TrainerConfig
from bnn_jax.types import Params, PRNGKey


class TrainState(NamedTuple):
    """All that a network in training is between two steps; leaves gain a leading ``member`` axis for several."""

    step: Int[Array, ""]
    rng_key: PRNGKey
    """Fixed for the whole training."""
    params: Params
    optimizer: Any
    """State of the optax transformation."""
    average: Params
    """Exponential moving average of ``params``."""
    rate_scale: Float[Array, ""]
    """Factor on the learning rate: 1, lowered when the validation loss stagnates."""


class TrainInfo(NamedTuple):
    """Scalars of one step."""

    loss: Float[Array, ""]
    """Of the minibatch, before the step."""
    forces_square_error: Float[Array, ""]
    """Mean square error of the labelled force components of the minibatch, in (eV/Angstrom)^2."""
    gradient_norm: Float[Array, ""]
    learning_rate: Float[Array, ""]
    is_finite: Bool[Array, ""]
    """Whether the weights after the step are."""


def _transformation(config: TrainerConfig) -> optax.GradientTransformation:
    return optax.scale_by_amsgrad() if config.optimizer == "amsgrad" else optax.scale_by_adam()


def init(rng_key: PRNGKey, params: Params, config: TrainerConfig) -> TrainState:
    """A network before its first step."""
    zero, one = jnp.zeros((), jnp.int32), jnp.ones((), jnp.float32)
    return TrainState(zero, rng_key, params, _transformation(config).init(params), params, one)


def build_step(value_and_grad_fn: Callable, config: TrainerConfig) -> Callable:
    """One step of the optimiser.

    Args:
        value_and_grad_fn: ``(params, minibatch, rng_key) -> ((loss, forces_square_error), gradient)``.
        config: of the trainer.

    Returns:
        ``step(state, minibatch) -> (state, TrainInfo)``.

    Reference: Reddi et al. (2018), for AMSGrad; the average is Polyak's, whose decay rises to ``average_decay`` as
    ``(1 + t) / (10 + t)``, so that the first weights are forgotten.
    """
    transformation = _transformation(config)

    def step(state: TrainState, minibatch: Any) -> tuple[TrainState, TrainInfo]:
        rng_key = jax.random.fold_in(state.rng_key, state.step)
        (loss, square), gradient = value_and_grad_fn(state.params, minibatch, rng_key)
        updates, optimizer = transformation.update(gradient, state.optimizer, state.params)
        rate = state.rate_scale * _learning_rate(state.step, config)
        params = jax.tree.map(lambda p, u: p - rate.astype(p.dtype) * u, state.params, updates)
        decay = jnp.minimum(config.average_decay, (1 + state.step) / (10 + state.step))
        average = jax.tree.map(lambda a, p: a + (1 - decay).astype(p.dtype) * (p - a), state.average, params)
        is_finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]))
        new = TrainState(state.step + 1, state.rng_key, params, optimizer, average, state.rate_scale)
        return new, TrainInfo(loss, square, optax.tree.norm(gradient), rate, is_finite)

    return step


def _learning_rate(step: Int[Array, ""], config: TrainerConfig) -> Float[Array, ""]:
    if config.schedule == "plateau":
        return jnp.asarray(config.learning_rate, jnp.float32)
    return config.learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * step / config.num_steps))
