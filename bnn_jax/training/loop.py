"""The loop that trains networks side by side: chunks, validation, best weights, and when each of them stops.

All that the loop knows is in :class:`Progress`, which a checkpoint can hold at any turn: a run that goes on from it is
the run that never stopped, bit for bit, however the steps were cut into chunks.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from bnn_jax.config import TrainerConfig
from bnn_jax.devices import whole
from bnn_jax.sampling.chain import Chunk
from bnn_jax.sampling.pace import Pace, written
from bnn_jax.training.trainer import TrainInfo, TrainState
from bnn_jax.types import Params


class Progress(NamedTuple):
    """Where networks in training stand. Host arrays, except for their states."""

    states: TrainState
    step: Int[np.ndarray, ""]
    best: Params
    """Averaged weights of the lowest validation loss so far [member, ...]."""
    best_loss: Float[np.ndarray, " member"]
    """Infinite before the first validation."""
    num_since_best: Int[np.ndarray, " member"]
    """Rows since then."""
    num_since_change: Int[np.ndarray, " member"]
    """Rows since then, or since the learning rate was lowered last."""
    active: Bool[np.ndarray, " member"]
    """Which of them are trained on."""
    is_finite: Bool[np.ndarray, " member"]
    infos: TrainInfo
    """Leaves [log_every, member]: the steps since the last row, then rows that mean nothing."""
    num_infos: Int[np.ndarray, ""]

    @property
    def num_events(self) -> int:
        """The log of a training has rows only."""
        return 0


class Turn(NamedTuple):
    """What the loop hands out after each chunk."""

    progress: Progress
    row: TrainInfo | None
    """Leaves [step, member]: the steps since the last row, where a row of the log is due."""
    valid: dict[str, Float[np.ndarray, " member"]]
    """Validation of the averaged weights, where a row is due."""


def begin(states: TrainState, infos: TrainInfo) -> Progress:
    """Progress before the first step.

    Args:
        states: with a leading ``member`` axis.
        infos: shapes and dtypes of what a chunk of ``log_every`` steps tells of them.
    """
    num_members = states.step.shape[0]
    zeros = np.zeros(num_members, np.int64)
    return Progress(
        states=states,
        step=np.zeros((), np.int64),
        best=jax.tree.map(np.asarray, states.average),
        best_loss=np.full(num_members, np.inf),
        num_since_best=zeros,
        num_since_change=zeros,
        active=np.ones(num_members, bool),
        is_finite=np.ones(num_members, bool),
        infos=jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), infos),
        num_infos=np.zeros((), np.int64),
    )


def drive(
    progress: Progress,
    chunk_fn: Chunk,
    data: Any,
    plan_fn: Callable,
    valid_fn: Callable[[Params], dict[str, Float[np.ndarray, " member"]]] | None,
    config: TrainerConfig,
) -> Iterator[Turn]:
    """Train from where the networks stand until none improves or all steps are done, in chunks of a few seconds.

    A network whose validation loss has not improved for ``patience`` rows, or whose weights are no longer finite, is
    left at its best; the others go on. Without a validation set the last average is kept.

    Args:
        progress: from :func:`begin` or a checkpoint.
        chunk_fn: from :func:`bnn_jax.sampling.chain.build_chunk`, of :func:`bnn_jax.training.trainer.build_step`.
        data: passed to ``chunk_fn``.
        plan_fn: ``(first_step, num_steps) -> [step, member, batch]``.
        valid_fn: of averaged weights [member, ...] to figures [member], of which ``valid_loss`` decides; or None.
        config: of the trainer.

    Yields:
        A :class:`Turn` at least at every multiple of ``log_every`` and at the end.
    """
    stops = np.union1d(np.arange(config.log_every, config.num_steps, config.log_every), config.num_steps)
    pace = Pace(config.log_every)
    while progress.active.any() and (step := int(progress.step)) < config.num_steps:
        stop = int(stops[stops > step][0])
        states, infos, num_steps = pace.run(chunk_fn, progress.states, data, plan_fn, step, stop)
        progress = progress._replace(
            states=states,
            step=progress.step + num_steps,
            is_finite=progress.is_finite & infos.is_finite.all(axis=0),
            infos=jax.tree.map(lambda old, new, n=int(progress.num_infos): written(old, n, new), progress.infos, infos),
            num_infos=progress.num_infos + num_steps,
        )
        if step + num_steps < stop:
            yield Turn(progress, None, {})
        else:
            row = jax.tree.map(lambda leaf, n=int(progress.num_infos): leaf[:n], progress.infos)
            average = jax.device_get(whole(progress.states.average))
            valid = {} if valid_fn is None else valid_fn(average)
            progress = _judged(progress, average, valid.get("valid_loss"), config)
            yield Turn(progress, row, valid)


def _judged(
    progress: Progress, average: Params, loss: Float[np.ndarray, " member"] | None, config: TrainerConfig
) -> Progress:
    """After a row: which weights are the best so far, whose learning rate falls, who goes on."""
    if loss is None:
        is_better = progress.active & progress.is_finite
        loss = np.where(is_better, 0.0, progress.best_loss)
    else:
        is_better = progress.active & progress.is_finite & (loss < progress.best_loss)  # NaN is not better
    num_since_best = np.where(is_better, 0, progress.num_since_best + 1)
    num_since_change = np.where(is_better, 0, progress.num_since_change + 1)
    states = progress.states
    if config.schedule == "plateau":
        lowered = num_since_change >= config.plateau_patience
        factor = np.where(lowered, config.plateau_factor, 1.0).astype(states.rate_scale.dtype)
        states = states._replace(rate_scale=states.rate_scale * factor)
        num_since_change = np.where(lowered, 0, num_since_change)
    return progress._replace(
        states=states,
        best=jax.tree.map(lambda new, old: _select(is_better, np.asarray(new), old), average, progress.best),
        best_loss=np.where(is_better, loss, progress.best_loss),
        num_since_best=num_since_best,
        num_since_change=num_since_change,
        active=progress.active & progress.is_finite & (num_since_best < config.patience),
        num_infos=np.zeros_like(progress.num_infos),
    )


def _select(chosen: np.ndarray, new: np.ndarray, old: np.ndarray) -> np.ndarray:
    return np.where(chosen.reshape(-1, *[1] * (new.ndim - 1)), new, old)
