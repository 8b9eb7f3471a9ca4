"""The Bayesian neural network: chains of SGHMC over the weights, with log, checkpoints and resume."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Int

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.graph import PackedData, batch_bound, gather_batch
from bnn_jax.atoms.statistics import Statistics
from bnn_jax.checkpoint import RunFolder
from bnn_jax.config import Config
from bnn_jax.devices import agreed, chain_mesh, is_first
from bnn_jax.memory import COMPILATION_BYTES, peak_bytes, require_memory
from bnn_jax.methods import chain_log, recorder
from bnn_jax.methods.base import Posterior, SamplingRecord, example_graph
from bnn_jax.methods.preparation import Anchors, check_batch_size, choose_anchors, prepare
from bnn_jax.methods.recorder import DivergenceError as DivergenceError
from bnn_jax.methods.recorder import LostProcessError as LostProcessError
from bnn_jax.methods.watch import UNWATCHED, FiguresFn, watch
from bnn_jax.model import nequip
from bnn_jax.posterior import log_density_estimator, normal_log_prior, value_and_grad_estimator
from bnn_jax.sampling import chain, guard, schedule
from bnn_jax.sampling.groups import RunProgress, cut, extended, group_size
from bnn_jax.sampling.progress import OnDivergence, Progress, Turn, begin, drive
from bnn_jax.types import Batch, InputError, Potential, PRNGKey

TIMED_SECONDS = 1.0
"""That a measurement of steps takes at least, unless ``log_every`` of them take less."""
_LESS_MEMORY = "lower sampler.batch_size, sampler.num_chains or model.num_features, or use a larger machine"


def fit(
    rng_key: PRNGKey,
    train: Dataset,
    valid: Dataset | None,
    config: Config,
    *,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    on_divergence: OnDivergence = "stop",
    devices_per_chain: int = 1,
    metadata: Mapping[str, Any] | None = None,
    figures_fn: FiguresFn | None = None,
) -> Posterior:
    """Sample the posterior of the weights with ``config.sampler.num_chains`` chains.

    Args:
        rng_key: of initial weights, noise and minibatches.
        train: training set.
        valid: validation set, whose force error the log shows; it does not influence the chains.
        config: the run's configuration.
        seed: that ``rng_key`` was made from, for the record.
        out: run folder for configuration, log and checkpoints; nothing is written without one.
        resume: continue the run in ``out``, if there is one, bit for bit as if it had not stopped. With more samples or
            chains than it had it is extended (:func:`extended_config`): the samples so far stay as they are, and all
            are those of a run that was planned so.
        progress: show a progress bar on a terminal.
        on_divergence: what to do with a chain that diverges: ``stop`` it at its last sound state and leave its samples
            out, or ``halve-step``: repeat from there with half its step size. Other chains are not touched.
        devices_per_chain: devices that share the minibatches of each chain; they divide ``sampler.batch_size``.
        metadata: further plain values for the record of a new run.
        figures_fn: of the samples so far, from their predictive on the validation set; log and progress bar show them.

    Raises:
        InputError: the data or the configuration cannot be used, ``out`` holds another run, or memory or disk will not
            suffice.
        DivergenceError: every chain diverged.
        LostProcessError: another process of the run has ended.
    """
    _check_groups(config, devices_per_chain)
    check_batch_size(config.sampler.batch_size, train, "sampler.batch_size")
    config, statistics, packed = prepare(train, valid, config)
    watched = UNWATCHED if valid is None else watch(valid, config, statistics, figures_fn)
    fingerprint = train.fingerprint()
    out = None if out is None else Path(out)
    run = None if out is None else recorder.find(out, config, seed, fingerprint, resume, is_extension)
    config = config if run is None else extended_config(run.config, config)
    sampler = config.sampler
    require_memory(COMPILATION_BYTES, "the compilation of the network", _LESS_MEMORY)
    chunk, plan, starts = build_chains(rng_key, packed, config, devices_per_chain)
    data = chunk.place(packed)
    longest_plan = np.zeros((sampler.log_every, *plan(0, 0, 1).shape[1:]), np.int32)
    lowered = chunk.lower(starts[0], data, longest_plan)
    step_bytes = peak_bytes(lowered)
    require_memory(step_bytes, "a step of this network on batches of this size", _LESS_MEMORY)
    start = RunProgress(tuple(begin(states, lowered.out_info[1], sampler) for states in starts))
    run_plan = recorder.RunPlan(
        config,
        seed,
        fingerprint,
        num_steps=schedule.total_steps(sampler) * len(starts),
        out=out,
        metadata={"num_train": len(train), "num_valid": 0 if valid is None else len(valid), "step_bytes": step_bytes}
        | dict(metadata or {}),
        extent={"num_groups": str(len(starts)), "num_samples": str(sampler.num_samples)},
    )

    def drive_fn(group: int, start: Progress) -> Iterator[Turn]:
        return drive(start, chunk, data, functools.partial(plan, group), sampler, on_divergence)

    def reports_fn(start: RunProgress, run: RunFolder | None) -> Iterator[recorder.Report]:
        is_watched = run is not None or (progress and is_first())
        return chain_log.reports(drive_fn, start, sampler, watched if is_watched else UNWATCHED, run)

    def like_fn(extent: Mapping[str, str]) -> RunProgress:
        return cut(start, *(int(extent.get(name, text)) for name, text in run_plan.extent.items()))

    final = recorder.carry_out(
        start, reports_fn, run, run_plan, progress, like_fn, lambda progress: extended(progress, start)
    )
    posterior = _posterior(final, config, statistics, seed)
    return dataclasses.replace(posterior, train_hashes=train.hashes())


def time_steps(rng_key: PRNGKey, train: Dataset, config: Config, devices_per_chain: int = 1) -> tuple[float, float]:
    """Seconds until a group of chains has taken its first step, compilation included, and of a step after that.

    Args:
        rng_key: as of :func:`fit`.
        train: training set.
        config: of the run.
        devices_per_chain: as of :func:`fit`.
    """
    _check_groups(config, devices_per_chain)
    check_batch_size(config.sampler.batch_size, train, "sampler.batch_size")
    config, _, packed = prepare(train, None, config)
    begun = time.perf_counter()
    chunk, plan, (states, *_) = build_chains(rng_key, packed, config, devices_per_chain)
    data, indices = chunk.place(packed), np.repeat(plan(0, 0, 1), config.sampler.log_every, axis=0)

    def seconds(num_steps: int) -> float:
        start = time.perf_counter()
        jax.block_until_ready(chunk(states, data, indices, num_steps))
        return time.perf_counter() - start

    seconds(1)
    compile_seconds, num_steps = time.perf_counter() - begun, 1
    while (taken := seconds(num_steps)) < TIMED_SECONDS and num_steps < config.sampler.log_every:
        num_steps = min(2 * num_steps, config.sampler.log_every)
    return agreed(compile_seconds), agreed(taken / num_steps)


def is_extension(old: Config, new: Config) -> bool:
    """Whether the second differs from the first in nothing but more samples or chains, or not at all."""
    before, after = old.sampler, new.sampler
    size = {name: getattr(before, name) for name in ("num_samples", "num_chains", "chains_at_once")}
    same = dataclasses.replace(new, sampler=dataclasses.replace(after, **size)) == old
    as_many_at_once = after.chains_at_once in (before.chains_at_once, group_size(before))
    is_longer = after.num_samples >= before.num_samples and after.num_chains >= before.num_chains
    return same and as_many_at_once and is_longer


def extended_config(old: Config, new: Config) -> Config:
    """The configuration of a run that is extended: further chains run in groups of those that there are.

    A run that was planned with it from the start gives the same samples bit for bit.

    Args:
        old: of the run so far.
        new: the same with more samples or chains.

    Raises:
        InputError: the new chains do not fill groups of the size of the old ones.
    """
    if new.sampler.num_chains == old.sampler.num_chains:
        at_once = old.sampler.chains_at_once
    elif new.sampler.num_chains % (at_once := group_size(old.sampler)):
        raise InputError(
            f"sampler.num_chains is {new.sampler.num_chains}, and the run to extend has its chains in groups of"
            f" {at_once}; choose a multiple of {at_once}."
        )
    return dataclasses.replace(new, sampler=dataclasses.replace(new.sampler, chains_at_once=at_once))


def _posterior(final: RunProgress, config: Config, statistics: Statistics, seed: int) -> Posterior:
    """The samples of the chains that came to their end, and how they got there."""
    active, groups = final.active, final.groups

    def of_chains(name: str) -> np.ndarray:
        return np.concatenate([getattr(group, name) for group in groups])

    def finished(*leaves: np.ndarray) -> np.ndarray:
        return np.concatenate(leaves)[active].reshape(-1, *leaves[0].shape[2:])

    samples = jax.device_put(jax.tree.map(finished, *(group.samples for group in groups)))
    kinetic = np.concatenate([group.kinetic_temperature / (int(group.num_kinetic) or np.nan) for group in groups])
    steps, causes = of_chains("stopped_step").tolist(), of_chains("stopped_cause").tolist()
    record = SamplingRecord(
        temperature=config.sampler.temperature,
        kinetic_temperature=tuple(kinetic[active].tolist()),
        num_halvings=tuple(of_chains("num_halvings")[active].tolist()),
        stopped=tuple((i, steps[i], guard.CAUSES[causes[i]].text) for i in np.flatnonzero(~active).tolist()),
    )
    return Posterior(config, statistics, samples, int(active.sum()), seed, sampling=record)


def potential(config: Config) -> Potential:
    """The network whose weights are sampled.

    Args:
        config: with the model's data-dependent fields filled in.
    """
    return nequip(config.model)


def num_networks(config: Config) -> int:
    """Chains, each of which has a network of its own."""
    return config.sampler.num_chains


def _check_groups(config: Config, devices_per_chain: int) -> None:
    sampler = config.sampler
    if devices_per_chain < 1 or sampler.batch_size % devices_per_chain:
        raise InputError(
            f"devices_per_chain is {devices_per_chain}, which does not divide sampler.batch_size {sampler.batch_size};"
            " choose a divisor."
        )
    if sampler.num_chains % group_size(sampler):
        raise InputError(
            f"sampler.chains_at_once is {sampler.chains_at_once}, which does not divide sampler.num_chains"
            f" {sampler.num_chains}; choose a multiple of {sampler.chains_at_once} chains."
        )


def build_chains(
    rng_key: PRNGKey, packed: PackedData, config: Config, devices_per_chain: int = 1
) -> tuple[chain.Chunk, Callable, list[chain.ChainState]]:
    """What :func:`fit` runs.

    Args:
        rng_key: of the starts and the minibatches.
        packed: the training set.
        config: of the run, with the model's data-dependent fields filled in.
        devices_per_chain: devices that share the minibatches of each chain.

    Returns:
        The compiled chunk (:func:`chain.build_chunk`) of a group of chains, the plan of minibatches (``(group,
        first_step, num_steps)`` to indices ``[step, chain, batch]``), and the chains of each group at their start, with
        a leading axis.
    """
    sampler, data_size = config.sampler, len(packed.energy)
    sizes = batch_bound(packed, sampler.batch_size // devices_per_chain)
    seed, at_once = tuple(np.asarray(jax.random.key_data(rng_key)).tolist()), group_size(sampler)

    def plan(group: int, first_step: int, num_steps: int):
        chains = range(group * at_once, (group + 1) * at_once)
        return chain.minibatch_plan(seed, chains, data_size, sampler.batch_size, first_step, num_steps)

    # What is compiled is that of one group, whatever the number of groups and samples.
    of_a_group = dataclasses.replace(config, sampler=dataclasses.replace(sampler, num_chains=at_once, num_samples=1))
    anchors = choose_anchors(packed, sampler.batch_size)
    chunk, start = _chunk(of_a_group, data_size, sizes, anchors, devices_per_chain), _start(of_a_group)
    batch = anchors.batch(packed)
    starts = [start(rng_key, numbers, batch) for numbers in np.arange(sampler.num_chains).reshape(-1, at_once)]
    return chunk, plan, starts


@functools.lru_cache(maxsize=8)
def _chunk(
    config: Config, data_size: int, sizes: tuple[int, int], anchors: Anchors, devices_per_chain: int
) -> chain.Chunk:
    """The same for all runs that differ in nothing that it is compiled for, such as those of several seeds."""
    sampler, network = config.sampler, potential(config)
    prior = lambda params: normal_log_prior(params, 0.0, config.posterior.prior_std)  # noqa: E731
    estimate = log_density_estimator(network.apply, prior, data_size, config.posterior.stress_std)
    value_and_grad_fn = value_and_grad_estimator(estimate)
    if devices_per_chain > 1:
        value_and_grad_fn = chain.mean_over_devices(value_and_grad_fn)
    step = chain.build_step(value_and_grad_fn, data_size, sampler)
    minibatch = lambda data, indices: gather_batch(data, indices, *sizes)  # noqa: E731
    turn = chain.build_turn(sampler, anchors.centre_fn(network))
    return chain.build_chunk(step, minibatch, chain_mesh(sampler.num_chains, devices_per_chain), turn)


@functools.lru_cache(maxsize=8)
def _start(config: Config) -> Callable[[PRNGKey, Int[np.ndarray, " chain"], Batch], chain.ChainState]:
    """Jitted: chains of these numbers at their start, from the key of the run and training structures."""
    network, graph, mass = potential(config), example_graph(config.model), config.sampler.mass

    def start(rng_key: PRNGKey, numbers: Int[Array, " chain"], batch: Batch) -> chain.ChainState:
        def one(number: Int[Array, ""]) -> chain.ChainState:
            weights, noise = (jax.random.fold_in(jax.random.fold_in(rng_key, i), number) for i in range(2))
            return chain.init(noise, network.start(network.init(weights, graph), batch), mass)

        return jax.lax.map(one, numbers)  # all together would take their memory for what is done once

    return jax.jit(start)
