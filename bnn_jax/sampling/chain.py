"""Chains of the sampler: one step with its adaptation, chunks of steps on the device, and their minibatches.

A chain is a pure function of its key and the plan of minibatches: the noise of step t comes from ``fold_in(key, t)``
and the minibatch from the epoch that t falls in. How the steps are cut into chunks, and whether a run was stopped and
resumed in between, therefore changes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from bnn_jax.config import MassName, SamplerConfig
from bnn_jax.devices import placed
from bnn_jax.sampling import amsgrad, diagnostics, kronecker, schedule, sghmc
from bnn_jax.types import Params, PRNGKey


class ChainState(NamedTuple):
    """All that a chain is between two steps; every leaf gains a leading ``chain`` axis in a run of several."""

    step: Int[Array, ""]
    """Number of steps taken."""
    rng_key: PRNGKey
    """Fixed for the whole chain."""
    sampler: sghmc.SGHMCState
    mass: amsgrad.AMSGradState
    """Learnt in the coordinates of ``basis``, in which the momentum is given too."""
    basis: kronecker.Basis
    step_scale: Float[Array, ""]
    """Factor on the schedule's step sizes: 1, halved each time that a divergence asks for it."""


class StepInfo(NamedTuple):
    """Scalars of one step."""

    step_size: Float[Array, ""]
    temperature: Float[Array, ""]
    potential_energy: Float[Array, ""]
    """Minus the minibatch's estimate of the full-data log density, of the position before the step."""
    configurational_temperature: Float[Array, ""]
    """Of the position before the step, from the minibatch's gradient: noisy, for averages over many steps."""
    sghmc: sghmc.SGHMCInfo
    estimate: Any
    """The auxiliary output of ``value_and_grad_fn``."""


def init(rng_key: PRNGKey, position: Params, mass: MassName = "diagonal") -> ChainState:
    """A chain at rest at ``position``, with no mass yet, which will be diagonal in the weights or in another basis."""
    basis = kronecker.init(position) if mass == "kronecker" else ()
    step, step_scale = jnp.zeros((), jnp.int32), jnp.ones((), jnp.float32)
    return ChainState(step, rng_key, sghmc.init(position), amsgrad.init(position), basis, step_scale)


def halve_step(state: ChainState) -> ChainState:
    """The state from which the chain goes on with half the step size, its physical momentum kept."""
    scale = state.step_scale
    return state._replace(sampler=sghmc.rescale_momentum(state.sampler, scale, scale / 2), step_scale=scale / 2)


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
        position, basis = state.sampler.position, state.basis
        (log_density, estimate), gradient = value_and_grad_fn(position, minibatch)
        mean_gradient = jax.tree.map(lambda g: g / data_size, gradient)
        adapted = (
            amsgrad.update(state.mass, kronecker.to_basis(basis, mean_gradient), config.beta),
            kronecker.update(basis, mean_gradient),
        )
        adapting = schedule.mass_is_adapting(state.step, freeze_step)
        mass, basis = jax.tree.map(lambda new, old: jnp.where(adapting, new, old), adapted, (state.mass, basis))
        step_size = state.step_scale * schedule.step_size(state.step, config)
        previous_step_size = state.step_scale * schedule.step_size(state.step - 1, config)
        temperature = schedule.temperature(state.step, config)
        # The kernel moves from zero in the coordinates of the basis: to turn the position there and back at every step
        # would add up rounding errors.
        at_rest = state.sampler._replace(position=jax.tree.map(jnp.zeros_like, position))
        moved, info = kernel(
            jax.random.fold_in(state.rng_key, state.step),
            sghmc.rescale_momentum(at_rest, previous_step_size, step_size),
            lambda *_: kronecker.to_basis(basis, gradient),  # the mass has already asked for it
            minibatch,
            step_size,
            amsgrad.inverse_mass(mass, config.beta, config.stability),
            temperature,
        )
        displacement = kronecker.from_basis(basis, moved.position)
        sampler = moved._replace(position=jax.tree.map(jnp.add, position, displacement))
        new_state = ChainState(state.step + 1, state.rng_key, sampler, mass, basis, state.step_scale)
        descent = jax.tree.map(jnp.negative, gradient)
        configurational = diagnostics.configurational_temperature(position, descent)
        return new_state, StepInfo(step_size, temperature, -log_density, configurational, info, estimate)

    return step


def now_and_then(fn: Callable[[Any, Any], Any], every: int, end: int) -> Callable[[Any, Any], Any]:
    """What is done to states between two steps, apart from the steps because it costs as much as several.

    Under ``vmap`` a step cannot leave it out.

    Args:
        fn: of a state, which knows its ``step``, and the data.
        every: steps from one time to the next; 0 for never.
        end: step from which on it is not done.

    Returns:
        A function of all states, which have a leading axis, and the data.
    """

    def where_due(states: Any, data: Any) -> Any:
        due = (states.step > 0) & (states.step % every == 0) & (states.step < end)
        select = jax.vmap(lambda is_due, new, old: jax.tree.map(lambda a, b: jnp.where(is_due, a, b), new, old))
        done = jax.vmap(fn, in_axes=(0, None))
        return jax.lax.cond(jnp.any(due), lambda old: select(due, done(old, data), old), lambda old: old, states)

    return where_due if every else lambda states, _: states


def build_turn(
    config: SamplerConfig, centre_fn: Callable[[Params, Any], Params] | None = None
) -> Callable[[ChainState, Any], ChainState]:
    """What chains do between two steps: now and then, while the mass is learnt, their bases turn and energies are set.

    Args:
        config: the sampler's settings.
        centre_fn: ``(position, data) -> position`` without a mean error of the energies; None leaves positions alone.

    Returns:
        A function of the states of all chains, which have a leading axis, and the data.
    """
    freeze_step = schedule.freeze_step(config)

    def centred(state: ChainState, data: Any) -> ChainState:
        assert centre_fn is not None
        return state._replace(sampler=state.sampler._replace(position=centre_fn(state.sampler.position, data)))

    def turned(state: ChainState, _: Any) -> ChainState:
        basis = kronecker.turn(state.basis)
        momentum = kronecker.to_basis(basis, kronecker.from_basis(state.basis, state.sampler.momentum))
        return state._replace(basis=basis, sampler=state.sampler._replace(momentum=momentum))

    centre = now_and_then(centred, config.centre_every if centre_fn else 0, freeze_step)
    turn = now_and_then(turned, config.basis_every if config.mass == "kronecker" else 0, freeze_step)
    return lambda states, data: turn(centre(states, data), data)


@dataclass(frozen=True)
class Chunk:
    """Many steps of many chains in one compiled call; see :func:`build_chunk`.

    States are whatever the step takes, with a leading ``chain`` axis on every leaf.
    """

    jitted: Any
    sharding: NamedSharding
    """Of the states."""

    def place(self, data: Any) -> Any:
        """Data for all calls, on every device."""
        return placed(data, NamedSharding(self.sharding.mesh, PartitionSpec()))

    def __call__(
        self, states: Any, data: Any, plan: Int[np.ndarray, "step chain batch"], num_steps: int
    ) -> tuple[Any, Any]:
        """States after the first ``num_steps`` of the plan, and infos [step, chain] of which the rest is zero."""
        # Where the chunk leaves its states: the first call, with states from elsewhere, would compile for itself.
        return self.jitted(placed(states, self.sharding), data, plan, num_steps)

    def lower(self, states: Any, data: Any, plan: Int[np.ndarray, "step chain batch"]) -> Any:
        """The call traced, as :meth:`jax.stages.Wrapped.lower` has it; a call of these shapes does not trace again."""
        return self.jitted.lower(placed(states, self.sharding), data, plan, 1)


def mean_over_devices(value_and_grad_fn: Callable) -> Callable:
    """The estimate and gradient of a minibatch of which each device of the ``data`` axis holds an equal part.

    Args:
        value_and_grad_fn: of a mean over the minibatch, whatever else it adds.
    """

    def mean(position: Params, minibatch: Any) -> Any:
        return jax.lax.pmean(value_and_grad_fn(position, minibatch), "data")

    return mean


def build_chunk(step: Callable, minibatch_fn: Callable, mesh: Mesh, turn: Callable = lambda states, _: states) -> Chunk:
    """Many steps of many chains in one compiled call, the chains spread evenly over devices.

    Chains never communicate: each device runs its own loop over its own chains. Only where several devices share the
    minibatches of a chain (:func:`mean_over_devices`) do they exchange gradients.

    Args:
        step: from :func:`build_step`.
        minibatch_fn: ``(data, indices) -> minibatch``, pure, of the indices of one device.
        mesh: axis ``chain``, which divides the chains, and ``data``, which divides each minibatch.
        turn: from :func:`build_turn` or :func:`now_and_then`, before each step.

    Returns:
        ``chunk(states, data, plan [step, chain, batch], num_steps) -> (states, infos [step, chain])``, jitted; it takes
        the first ``num_steps`` of the plan, so that one compilation serves chunks of any length.
    """
    chains, steps, plans = PartitionSpec("chain"), PartitionSpec(None, "chain"), PartitionSpec(None, "chain", "data")

    def one_chain(state: Any, data: Any, indices: Int[Array, " batch"]) -> tuple[Any, Any]:
        return step(state, minibatch_fn(data, indices))

    all_chains = jax.vmap(one_chain, in_axes=(0, None, 0))

    @jax.jit
    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(chains, PartitionSpec(), plans, PartitionSpec()),
        out_specs=(chains, steps),
        check_vma=False,
    )
    def chunk(states: Any, data: Any, plan: Int[Array, "step chain batch"], num_steps: Int[Array, ""]) -> Any:
        _, shape = jax.eval_shape(all_chains, states, data, plan[0])
        infos = jax.tree.map(lambda leaf: jnp.zeros((plan.shape[0], *leaf.shape), leaf.dtype), shape)

        def body(index: Array, carry: tuple) -> tuple:
            states, infos = carry
            states, info = all_chains(turn(states, data), data, plan[index])
            return states, jax.tree.map(lambda all_, one: all_.at[index].set(one), infos, info)

        return jax.lax.fori_loop(0, num_steps, body, (states, infos))

    return Chunk(chunk, NamedSharding(mesh, chains))


@lru_cache(maxsize=64)
def _permutation(seed: tuple[int, ...], chain: int, epoch: int, data_size: int) -> np.ndarray:
    return np.random.default_rng([*seed, chain, epoch]).permutation(data_size)


def minibatch_plan(
    seed: tuple[int, ...], chains: Sequence[int], data_size: int, batch_size: int, first_step: int, num_steps: int
) -> Int[np.ndarray, "step chain batch"]:
    """Which data each step of each chain sees: every epoch visits a fresh permutation, less a remainder.

    Args:
        seed: of the permutations.
        chains: numbers of the chains, which draw independently of one another.
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
    return np.stack([np.stack([row(step, chain) for chain in chains]) for step in steps]).astype(np.int32)
