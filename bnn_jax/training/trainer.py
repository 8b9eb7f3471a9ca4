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
    """State of the :class:`Optimizer`."""
    average: Any
    """Exponential moving average of what the optimizer keeps: ``params``, or a distribution of weights."""
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
    """Whether what is kept of the step is."""


class Optimizer(NamedTuple):
    """An optax transformation, or one that takes its gradients at weights drawn about its own."""

    init: Callable[[Params], Any]
    """``init(params) -> state``."""
    draw: Callable[[PRNGKey, Any, Params], Params]
    """``draw(rng_key, state, params)``: the weights at which the gradient is taken."""
    update: Callable[[Params, Params, Any, Params], tuple[Params, Any]]
    """``update(gradient, drawn, state, params) -> (step, state)``; the learning rate times the step is subtracted."""
    keep: Callable[[Any, Params], Any]
    """``keep(state, params)``: what is averaged, validated and kept."""


def _optimizer(config: TrainerConfig) -> Optimizer:
    """The one that ``config`` names, which draws nothing."""
    transformation = optax.scale_by_amsgrad() if config.optimizer == "amsgrad" else optax.scale_by_adam()
    return Optimizer(
        transformation.init,
        lambda _rng_key, _state, params: params,
        lambda gradient, _drawn, state, params: transformation.update(gradient, state, params),
        lambda _state, params: params,
    )


def init(rng_key: PRNGKey, params: Params, config: TrainerConfig, optimizer: Optimizer | None = None) -> TrainState:
    """A network before its first step; the arguments are those of :func:`build_step`."""
    optimizer = optimizer or _optimizer(config)
    zero, one, state = jnp.zeros((), jnp.int32), jnp.ones((), jnp.float32), optimizer.init(params)
    return TrainState(zero, rng_key, params, state, optimizer.keep(state, params), one)


def build_step(value_and_grad_fn: Callable, config: TrainerConfig, optimizer: Optimizer | None = None) -> Callable:
    """One step of the optimiser.

    Args:
        value_and_grad_fn: ``(params, minibatch, rng_key) -> ((loss, forces_square_error), gradient)``.
        config: of the trainer.
        optimizer: in place of the one that ``config`` names.

    Returns:
        ``step(state, minibatch) -> (state, TrainInfo)``.

    Reference: Reddi et al. (2018), for AMSGrad; the average is Polyak's, whose decay rises to ``average_decay`` as
    ``(1 + t) / (10 + t)``, so that the first weights are forgotten.
    """
    optimizer = optimizer or _optimizer(config)

    def step(state: TrainState, minibatch: Any) -> tuple[TrainState, TrainInfo]:
        rng_key = jax.random.fold_in(state.rng_key, state.step)
        drawn = optimizer.draw(jax.random.fold_in(rng_key, 1), state.optimizer, state.params)
        (loss, square), gradient = value_and_grad_fn(drawn, minibatch, rng_key)
        updates, memory = optimizer.update(gradient, drawn, state.optimizer, state.params)
        rate = state.rate_scale * _learning_rate(state.step, config)
        params = jax.tree.map(lambda p, u: p - rate.astype(p.dtype) * u, state.params, updates)
        decay = jnp.minimum(config.average_decay, (1 + state.step) / (10 + state.step))
        kept = optimizer.keep(memory, params)
        average = jax.tree.map(lambda a, p: a + (1 - decay).astype(p.dtype) * (p - a), state.average, kept)
        is_finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(kept)]))
        new = TrainState(state.step + 1, state.rng_key, params, memory, average, state.rate_scale)
        return new, TrainInfo(loss, square, optax.tree.norm(gradient), rate, is_finite)

    return step


def _learning_rate(step: Int[Array, ""], config: TrainerConfig) -> Float[Array, ""]:
    if config.schedule == "plateau":
        return jnp.asarray(config.learning_rate, jnp.float32)
    return config.learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * step / config.num_steps))
