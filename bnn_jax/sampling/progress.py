"""The loop that drives chains from their start to their last sample: chunks, samples, and what to do on divergence.

All that the loop knows is in :class:`Progress`, which a checkpoint can hold at any turn: a run that goes on from it is
the run that never stopped, bit for bit, however the steps were cut into chunks.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bnn_jax.config import SamplerConfig
from bnn_jax.devices import whole
from bnn_jax.sampling import chain, guard, schedule
from bnn_jax.sampling.pace import Pace, written
from bnn_jax.types import Params

MAX_HALVINGS = 8
"""Halvings of the step size after which a chain is stopped all the same."""

OnDivergence = Literal["stop", "halve-step"]


class Progress(NamedTuple):
    """Where a run of several chains stands. Host arrays, except for the chains' own states."""

    states: chain.ChainState
    good_states: chain.ChainState
    """At the last row, when nothing was amiss: what a chain that diverges goes back to."""
    step: Int[np.ndarray, ""]
    samples: Params
    """Leaves [chain, sample, ...], zero where no sample has been taken yet."""
    num_samples: Int[np.ndarray, ""]
    """Taken of each chain."""
    infos: chain.StepInfo
    """Leaves [log_every, chain]: the steps since the last row, then rows that mean nothing."""
    num_infos: Int[np.ndarray, ""]
    first_potential_energy: Float[np.ndarray, " chain"]
    """Of each chain's first step; NaN before it."""
    kinetic_temperature: Float[np.ndarray, " chain"]
    """Sum over the steps after the first sample."""
    num_kinetic: Int[np.ndarray, ""]
    """Terms of that sum."""
    stopped_step: Int[np.ndarray, " chain"]
    """Step at which a chain diverged and was stopped; -1 for one that goes on."""
    stopped_cause: Int[np.ndarray, " chain"]
    """Index into :data:`bnn_jax.sampling.guard.CAUSES`."""
    num_halvings: Int[np.ndarray, " chain"]

    @property
    def active(self) -> np.ndarray:
        """Which chains go on [chain]."""
        return self.stopped_step < 0

    @property
    def num_events(self) -> int:
        """Halvings and stops so far, over all chains."""
        return int(self.num_halvings.sum() + (~self.active).sum())


class Turn(NamedTuple):
    """What the loop hands out after each chunk."""

    progress: Progress
    row: chain.StepInfo | None
    """Leaves [step, chain]: the steps since the last row, where a row of the log is due; chains that go on only."""
    divergences: list[guard.Divergence]
    """Found in this chunk. With ``halve-step`` the progress is then that of the last row."""


def begin(states: chain.ChainState, infos: chain.StepInfo, config: SamplerConfig) -> Progress:
    """Progress before the first step.

    Args:
        states: chains, with a leading ``chain`` axis.
        infos: shapes and dtypes of what a chunk of ``log_every`` steps tells of them.
        config: the sampler's settings.
    """
    num_chains = states.step.shape[0]
    position = states.sampler.position
    zero = np.zeros((), np.int64)
    return Progress(
        states=states,
        good_states=states,
        step=zero,
        samples=jax.tree.map(lambda x: np.zeros((x.shape[0], config.num_samples, *x.shape[1:]), x.dtype), position),
        num_samples=zero,
        infos=jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), infos),
        num_infos=zero,
        first_potential_energy=np.full(num_chains, np.nan),
        kinetic_temperature=np.zeros(num_chains),
        num_kinetic=zero,
        stopped_step=np.full(num_chains, -1),
        stopped_cause=np.full(num_chains, -1),
        num_halvings=np.zeros(num_chains, np.int64),
    )


def drive(
    progress: Progress,
    chunk_fn: chain.Chunk,
    data: Any,
    plan_fn: Callable,
    config: SamplerConfig,
    on_divergence: OnDivergence = "stop",
) -> Iterator[Turn]:
    """Run chains from where they stand to their last sample, in chunks of a few seconds.

    A chain that diverges (:mod:`bnn_jax.sampling.guard`) goes back to the last row and stays there, while the others go
    on untouched; or, with ``halve-step``, all go back there and repeat their steps, it with half its step size.

    Args:
        progress: from :func:`begin` or a checkpoint.
        chunk_fn: from :func:`bnn_jax.sampling.chain.build_chunk`.
        data: passed to ``chunk_fn``.
        plan_fn: ``(first_step, num_steps) -> [step, chain, batch]``.
        config: the sampler's settings.
        on_divergence: what to do with a chain that diverges.

    Yields:
        A :class:`Turn` at least at every multiple of ``log_every`` and at every sample; none after all chains stopped.
    """
    sample_steps = schedule.sample_steps(config)
    stops = np.union1d(sample_steps, np.arange(0, sample_steps[-1], config.log_every))
    pace = Pace(config.log_every)
    while progress.active.any() and (step := int(progress.step)) < sample_steps[-1]:
        stop = int(stops[stops > step][0])
        states, infos, num_steps = pace.run(chunk_fn, progress.states, data, plan_fn, step, stop)
        turn = _advance(progress, states, infos, step + num_steps == stop, config, on_divergence)
        progress = turn.progress
        yield turn


def _advance(
    before: Progress,
    states: chain.ChainState,
    infos: chain.StepInfo,
    is_row: bool,
    config: SamplerConfig,
    on_divergence: OnDivergence,
) -> Turn:
    first_step, num_steps = int(before.step), len(infos.step_size)
    energy = infos.potential_energy
    is_first = np.isnan(before.first_potential_energy)
    progress = before._replace(
        states=states if before.active.all() else _select(before.active, states, before.states),
        step=before.step + num_steps,
        infos=jax.tree.map(lambda old, new: written(old, int(before.num_infos), new), before.infos, infos),
        num_infos=before.num_infos + num_steps,
        first_potential_energy=np.where(is_first, energy[0], before.first_potential_energy),
    )
    row = jax.tree.map(lambda leaf: leaf[: int(progress.num_infos)], progress.infos)
    signs = (np.asarray(leaf) for leaf in (infos.sghmc.is_finite, energy, infos.sghmc.grad_norm))
    divergences = guard.not_finite(*signs, first_step=first_step)
    if is_row:
        divergences += guard.out_of_bounds(
            row.sghmc.kinetic_temperature,
            row.potential_energy,
            progress.first_potential_energy,
            sum(leaf.size // len(leaf) for leaf in jax.tree.leaves(states.sampler.position)),
            config.temperature,
            int(progress.step),
        )
    divergences = _first_of_each(divergences, before.active)
    for divergence in divergences:
        halve = on_divergence == "halve-step" and progress.num_halvings[divergence.chain] < MAX_HALVINGS
        progress = (_halve if halve else _stop)(progress, divergence)
    if (progress.num_halvings > before.num_halvings).any():
        return Turn(_rolled_back(progress, before), None, divergences)
    if not is_row or not progress.active.any():
        return Turn(progress, None, divergences)
    row = jax.tree.map(lambda leaf: leaf[:, progress.active], row)
    return Turn(_with_row_closed(progress, config), row, divergences)


def _first_of_each(divergences: list[guard.Divergence], active: np.ndarray) -> list[guard.Divergence]:
    """One of each chain, in their order, and none of a chain that was stopped before."""
    first: dict[int, guard.Divergence] = {}
    for divergence in divergences:
        if active[divergence.chain]:
            first.setdefault(divergence.chain, divergence)
    return list(first.values())


def _stop(progress: Progress, divergence: guard.Divergence) -> Progress:
    stopped_step, stopped_cause = progress.stopped_step.copy(), progress.stopped_cause.copy()
    stopped_step[divergence.chain], stopped_cause[divergence.chain] = divergence.step, divergence.cause
    return progress._replace(
        states=_select(stopped_step < 0, progress.states, progress.good_states),
        stopped_step=stopped_step,
        stopped_cause=stopped_cause,
    )


def _halve(progress: Progress, divergence: guard.Divergence) -> Progress:
    num_halvings = progress.num_halvings.copy()
    num_halvings[divergence.chain] += 1
    chosen = np.arange(len(num_halvings)) == divergence.chain
    halved = jax.vmap(chain.halve_step)(progress.good_states)
    return progress._replace(
        good_states=_select(chosen, halved, progress.good_states),
        num_halvings=num_halvings,
    )


def _rolled_back(progress: Progress, before: Progress) -> Progress:
    """At the last row, where all chains repeat what came after it."""
    return progress._replace(
        states=progress.good_states,
        step=progress.step - progress.num_infos,
        num_infos=np.zeros_like(progress.num_infos),
        first_potential_energy=before.first_potential_energy,
    )


def _with_row_closed(progress: Progress, config: SamplerConfig) -> Progress:
    step, num_samples = int(progress.step), int(progress.num_samples)
    if step > config.convergence_steps:
        row = progress.infos.sghmc.kinetic_temperature[: int(progress.num_infos)].astype(np.float64)
        progress = progress._replace(
            kinetic_temperature=progress.kinetic_temperature + np.where(progress.active, row.sum(axis=0), 0.0),
            num_kinetic=progress.num_kinetic + progress.num_infos,
        )
    if step in schedule.sample_steps(config):
        samples = jax.tree.map(np.copy, progress.samples)
        position = whole(progress.states.sampler.position)
        for all_, one in zip(jax.tree.leaves(samples), jax.tree.leaves(position), strict=True):
            all_[:, num_samples] = one
        progress = progress._replace(samples=samples, num_samples=progress.num_samples + 1)
    return progress._replace(good_states=progress.states, num_infos=np.zeros_like(progress.num_infos))


def _select(chosen: np.ndarray, new: chain.ChainState, old: chain.ChainState) -> chain.ChainState:
    """``new`` where chosen [chain], else ``old``."""

    def select(one: Array, other: Array) -> Array:
        return jnp.where(chosen.reshape(-1, *[1] * (one.ndim - 1)), one, other)

    return jax.tree.map(select, new, old)
