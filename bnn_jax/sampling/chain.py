"""Chains of the sampler: one step with its adaptation, chunks of steps on the device, and the loop that drives them.

A chain is a pure function of its key and the plan of minibatches: the noise of step t comes from ``fold_in(key, t)``
and the minibatch from the epoch that t falls in. How the steps are cut into chunks, and whether a run was stopped and
resumed in between, therefore changes nothing.
"""

import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from bnn_jax.config import SamplerConfig
from bnn_jax.sampling import amsgrad, diagnostics, schedule, sghmc
from bnn_jax.types import Params, PRNGKey

MAX_CHUNK_SECONDS = 5.0


class ChainState(NamedTuple):
    """All that a chain is between two steps; every leaf gains a leading ``chain`` axis in a run of several."""

    step: Int[Array, ""]
    """Number of steps taken."""
    rng_key: PRNGKey
    """Fixed for the whole chain."""
    sampler: sghmc.SGHMCState
    mass: amsgrad.AMSGradState


class StepInfo(NamedTuple):
    """Scalars of one step."""

    step_size: Float[Array, ""]
    temperature: Float[Array, ""]
    configurational_temperature: Float[Array, ""]
    """Of the position before the step, from the minibatch's gradient: noisy, for averages over many steps."""
    sghmc: sghmc.SGHMCInfo
    estimate: Any
    """The auxiliary output of ``value_and_grad_fn``."""


def init(rng_key: PRNGKey, position: Params) -> ChainState:
    """A chain at rest at ``position``, with no mass yet."""
    return ChainState(jnp.zeros((), jnp.int32), rng_key, sghmc.init(position), amsgrad.init(position))


def build_step(value_and_grad_fn: Callable, data_size: int, config: SamplerConfig) -> Callable:
    """One step of algorithm 1 of Rensmeyer (2024): mass, momentum, position, with the schedules of ``config``.

    When the schedule changes the step size the momentum is rescaled (:func:`sghmc.rescale_momentum`), which the printed
    algorithm leaves out and short cycles need.

    Args:
        value_and_grad_fn: ``(position, minibatch) -> ((log density, aux), gradient)`` of the full-data log density.
        data_size: N.
        config: the sampler's settings.

    Returns:
        ``step(state, minibatch) -> (state, StepInfo)``.
    """
    kernel = sghmc.build_kernel(config.alpha, data_size)
    freeze_step = schedule.freeze_step(config)

    def step(state: ChainState, minibatch: Any) -> tuple[ChainState, StepInfo]:
        (_, estimate), gradient = value_and_grad_fn(state.sampler.position, minibatch)
        mean_gradient = jax.tree.map(lambda g: g / data_size, gradient)
        adapted = amsgrad.update(state.mass, mean_gradient, config.beta)
        adapting = schedule.mass_is_adapting(state.step, freeze_step)
        mass = jax.tree.map(lambda new, old: jnp.where(adapting, new, old), adapted, state.mass)
        step_size = schedule.step_size(state.step, config)
        temperature = schedule.temperature(state.step, config)
        sampler, info = kernel(
            jax.random.fold_in(state.rng_key, state.step),
            sghmc.rescale_momentum(state.sampler, schedule.step_size(state.step - 1, config), step_size),
            lambda *_: gradient,  # the mass has already asked for it
            minibatch,
            step_size,
            amsgrad.inverse_mass(mass, config.beta, config.stability),
            temperature,
        )
        new_state = ChainState(state.step + 1, state.rng_key, sampler, mass)
        descent = jax.tree.map(jnp.negative, gradient)
        configurational = diagnostics.configurational_temperature(state.sampler.position, descent)
        return new_state, StepInfo(step_size, temperature, configurational, info, estimate)

    return step


def build_chunk(step: Callable, minibatch_fn: Callable, num_chains: int) -> Callable:
    """Many steps of many chains in one compiled call, the chains spread evenly over devices.

    Chains never communicate: each device runs its own loop over its own chains, as many devices as divide them.

    Args:
        step: from :func:`build_step`.
        minibatch_fn: ``(data, indices [batch]) -> minibatch``, pure.
        num_chains: length of the leading axis of the states.

    Returns:
        ``chunk(states, data, plan [step, chain, batch], num_steps) -> (states, infos [step, chain])``, jitted; it takes
        the first ``num_steps`` of the plan, so that one compilation serves chunks of any length.
    """
    num_devices = max(n for n in range(1, len(jax.devices()) + 1) if num_chains % n == 0)
    mesh = Mesh(np.array(jax.devices()[:num_devices]), ("chain",))
    chains, steps = PartitionSpec("chain"), PartitionSpec(None, "chain")

    def one_chain(state: ChainState, data: Any, indices: Int[Array, " batch"]) -> tuple[ChainState, StepInfo]:
        return step(state, minibatch_fn(data, indices))

    all_chains = jax.vmap(one_chain, in_axes=(0, None, 0))

    @jax.jit
    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(chains, PartitionSpec(), steps, PartitionSpec()),
        out_specs=(chains, steps),
        check_vma=False,
    )
    def chunk(states: ChainState, data: Any, plan: Int[Array, "step chain batch"], num_steps: Int[Array, ""]) -> Any:
        _, shape = jax.eval_shape(all_chains, states, data, plan[0])
        infos = jax.tree.map(lambda leaf: jnp.zeros((plan.shape[0], *leaf.shape), leaf.dtype), shape)

        def body(index: Array, carry: tuple) -> tuple:
            states, infos = carry
            states, info = all_chains(states, data, plan[index])
            return states, jax.tree.map(lambda all_, one: all_.at[index].set(one), infos, info)

        return jax.lax.fori_loop(0, num_steps, body, (states, infos))

    def placed_chunk(states: ChainState, data: Any, plan: Int[np.ndarray, "step chain batch"], num_steps: int) -> Any:
        # Where the chunk leaves its states: the first call, with states from elsewhere, would compile for itself.
        return chunk(jax.device_put(states, NamedSharding(mesh, chains)), data, plan, num_steps)

    return placed_chunk


@lru_cache(maxsize=64)
def _permutation(seed: tuple[int, ...], chain: int, epoch: int, data_size: int) -> np.ndarray:
    return np.random.default_rng([*seed, chain, epoch]).permutation(data_size)


def minibatch_plan(
    seed: tuple[int, ...], num_chains: int, data_size: int, batch_size: int, first_step: int, num_steps: int
) -> Int[np.ndarray, "step chain batch"]:
    """Which data each step of each chain sees: every epoch visits a fresh permutation, less a remainder.

    Args:
        seed: of the permutations.
        num_chains: chains draw independently of one another.
        data_size: N.
        batch_size: at most ``data_size``.
        first_step: steps already taken.
        num_steps: rows wanted.
    """
    per_epoch = data_size // batch_size

    def row(step: int, chain: int) -> np.ndarray:
        epoch, place = divmod(step, per_epoch)
        return _permutation(seed, chain, epoch, data_size)[place * batch_size : (place + 1) * batch_size]

    steps = range(first_step, first_step + num_steps)
    return np.stack([np.stack([row(step, chain) for chain in range(num_chains)]) for step in steps]).astype(np.int32)


class Chunk(NamedTuple):
    """What the driving loop hands out after each chunk."""

    states: ChainState
    infos: StepInfo
    """Host arrays [step, chain] of this chunk's steps."""
    step: int
    """Steps taken so far."""
    is_sample: bool
    """Whether the positions are now samples."""


def drive(
    chunk_fn: Callable, states: ChainState, data: Any, plan_fn: Callable, config: SamplerConfig
) -> Iterator[Chunk]:
    """Run chains from where ``states`` stands to their last sample, in chunks of a few seconds.

    Args:
        chunk_fn: from :func:`build_chunk`.
        states: chains, with a leading ``chain`` axis.
        data: passed to ``chunk_fn``.
        plan_fn: ``(first_step, num_steps) -> [step, chain, batch]``.
        config: the sampler's settings.

    Yields:
        A :class:`Chunk` at least at every multiple of ``log_every`` and at every sample.
    """
    sample_steps = schedule.sample_steps(config)
    stops = np.union1d(sample_steps, np.arange(0, sample_steps[-1], config.log_every))
    step, length = int(np.asarray(states.step).max()), 1
    while step < sample_steps[-1]:
        num_steps = min(length, int(stops[stops > step][0]) - step)
        rows = plan_fn(step, num_steps)
        plan = np.zeros((config.log_every, *rows.shape[1:]), rows.dtype)  # one shape for chunks of any length
        plan[:num_steps] = rows
        start = time.perf_counter()
        states, infos = chunk_fn(states, data, plan, num_steps)
        infos = jax.tree.map(lambda leaf, n=num_steps: np.asarray(leaf)[:n], infos)  # waits for the device
        seconds = time.perf_counter() - start
        step += num_steps
        yield Chunk(states, infos, step, step in sample_steps)
        if num_steps == length:
            length = min(config.log_every, 2 * length if seconds < MAX_CHUNK_SECONDS / 2 else length)
