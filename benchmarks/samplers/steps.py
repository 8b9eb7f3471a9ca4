"""Steps of chains that differ from :func:`bnn_jax.sampling.chain.build_step`, and the run that takes them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from benchmarks.samplers import mclmc, noise
from bnn_jax.atoms import Dataset, batch_bound, gather_batch
from bnn_jax.config import Config, SamplerConfig
from bnn_jax.devices import chain_mesh
from bnn_jax.methods import sghmc as method
from bnn_jax.methods.base import Posterior
from bnn_jax.methods.preparation import Anchors, choose_anchors, prepare
from bnn_jax.posterior import log_density_estimator, normal_log_prior, value_and_grad_estimator
from bnn_jax.sampling import amsgrad, chain, diagnostics, kronecker, schedule, sghmc
from bnn_jax.sampling.groups import RunProgress
from bnn_jax.sampling.progress import begin, drive
from bnn_jax.types import Params

RELEARN_SHARE = 0.5
"""Of the convergence steps, after which the mass is learnt again."""
WARM_SHARE = 0.7
"""Of the convergence steps, at temperature zero before the first noise."""
LENGTH = 1.0
"""Of MCLMC's memory of its direction, in units of the root of the dimension."""


class Variant(NamedTuple):
    """A sampler: its step, and what its chains have at their start."""

    build: Callable
    """``(value_and_grad_fn, data_size, config) -> step(state, minibatch)``, as ``chain.build_step``."""
    start: Callable = lambda state: state
    """Of one chain, from the package's start."""


class Learnt(NamedTuple):
    """In the place of a chain's mass: what was learnt of gradients, in the coordinates of the basis."""

    mass: amsgrad.AMSGradState
    noise: noise.NoiseState


class Moving(NamedTuple):
    """In the place of a chain's sampler: SGHMC's position and momentum, and MCLMC's direction, in the basis."""

    position: Params
    momentum: Params
    direction: Params
    half_change: Float[Array, ""]


def relearning_step(value_and_grad_fn: Callable, data_size: int, config: SamplerConfig) -> Callable:
    """SGHMC whose mass and basis start anew from nothing, at rest, after half of the convergence steps."""
    step = chain.build_step(value_and_grad_fn, data_size, config)
    begins_anew = round(RELEARN_SHARE * config.convergence_steps)

    def relearning(state: chain.ChainState, minibatch: Any) -> tuple[chain.ChainState, chain.StepInfo]:
        fresh = chain.init(state.rng_key, state.sampler.position, config.mass)
        parts = [(each.sampler, each.mass, each.basis) for each in (fresh, state)]
        is_due = state.step == begins_anew
        sampler, mass, basis = jax.tree.map(lambda new, old: jnp.where(is_due, new, old), *parts)
        return step(state._replace(sampler=sampler, mass=mass, basis=basis), minibatch)

    return relearning


def heat_counting_step(value_and_grad_fn: Callable, data_size: int, config: SamplerConfig) -> Callable:
    r"""SGHMC that counts the minibatch's noise as heat: injected is what the target's temperature lacks.

    The variance of the injected noise is :math:`\max(2 M T / (N \gamma) - V, 0)`, with V the variance of the
    minibatch's mean gradient, learnt and frozen with the mass. Where V is the larger, no noise is injected.

    Reference: Chen, Fox and Guestrin (2014), equations 13 and 15, whose estimate of the noise is V; Ahn, Korattikara
    and Welling (2012), arXiv:1206.6380.
    """
    kernel, freeze_step = sghmc.build_kernel(config.alpha, data_size), schedule.freeze_step(config)

    def heat_counting(state: chain.ChainState, minibatch: Any) -> tuple[chain.ChainState, chain.StepInfo]:
        position, learnt = state.sampler.position, learnt_by(state)
        (log_density, estimate), gradient = value_and_grad_fn(position, minibatch)
        mean_gradient = jax.tree.map(lambda g: g / data_size, gradient)
        turned = kronecker.to_basis(state.basis, mean_gradient)
        adapted = (
            Learnt(amsgrad.update(learnt.mass, turned, config.beta), noise.update(learnt.noise, turned)),
            kronecker.update(state.basis, mean_gradient),
        )
        is_adapting = schedule.mass_is_adapting(state.step, freeze_step)
        learnt, basis = jax.tree.map(lambda new, old: jnp.where(is_adapting, new, old), adapted, (learnt, state.basis))
        inverse_mass = amsgrad.inverse_mass(learnt.mass, config.beta, config.stability)
        step_size = state.step_scale * schedule.step_size(state.step, config)
        previous_step_size = state.step_scale * schedule.step_size(state.step - 1, config)
        temperature = schedule.temperature(state.step, config)
        key = jax.random.fold_in(state.rng_key, state.step)
        # The kernel at temperature zero, with the noise in its gradient: v - alpha (g - s n) - alpha v.
        stds = jax.tree.map(
            lambda w, v: jnp.sqrt(jnp.maximum(2 * temperature / (data_size * step_size * w) - v, 0)),
            inverse_mass,
            noise.variance(learnt.noise),
        )
        uphill = jax.tree.map(
            lambda g, s, n: g + data_size * s * n,
            kronecker.to_basis(basis, gradient),
            stds,
            sghmc._standard_normal_like(key, stds),
        )
        at_rest = state.sampler._replace(position=jax.tree.map(jnp.zeros_like, position))
        carried = sghmc.rescale_momentum(at_rest, previous_step_size, step_size)
        moved, info = kernel(key, carried, lambda *_: uphill, minibatch, step_size, inverse_mass, 0.0)
        sampler = moved._replace(position=_away(position, basis, moved.position))
        descent = jax.tree.map(jnp.negative, gradient)
        configurational = diagnostics.configurational_temperature(position, descent)
        new_state = state._replace(step=state.step + 1, sampler=sampler, mass=_as_mass(learnt), basis=basis)
        return new_state, chain.StepInfo(step_size, temperature, -log_density, configurational, info, estimate)

    return heat_counting


def mclmc_step(length: float, prior_std: float) -> Callable:
    r"""MCLMC from where SGHMC at temperature zero has led in a share of the convergence steps.

    The first stage is that of the reference with all its schedule in ``WARM_SHARE`` of the convergence steps. Then the
    basis is kept and the inverse mass is :math:`W = 1 / (N b V + 1 / \sigma^2)` of the variance V of the mean gradient
    of b structures, learnt up to the first sample, and the prior's std. Where the likelihood's normal approximation
    holds, N b V is its curvature (Fisher's information): W estimates the posterior's variance, and makes the noise
    the same in all directions that the prior does not rule.

    Args:
        length: of a step, in units of the root of the dimension: h of :mod:`benchmarks.samplers.mclmc` over that root.
        prior_std: sigma, of every weight.

    Returns:
        What builds the step, as of :class:`Variant`. The kinetic temperature that it tells is 1 by construction.
    """

    def build(value_and_grad_fn: Callable, data_size: int, config: SamplerConfig) -> Callable:
        num_warm = max(round(WARM_SHARE * config.convergence_steps), 1)
        changes = {"temperature": 0.0, "warm_start_fraction": 0.0, "freeze_fraction": 1.0}
        warm_config = dataclasses.replace(config, convergence_steps=num_warm, **changes)

        def step(state: chain.ChainState, minibatch: Any) -> tuple[chain.ChainState, chain.StepInfo]:
            position, learnt = state.sampler.position, learnt_by(state)
            moving: Any = state.sampler
            found = value_and_grad_fn(position, minibatch)
            warm_state = state._replace(sampler=sghmc.SGHMCState(position, moving.momentum), mass=learnt.mass)
            warm, info = chain.build_step(lambda *_: found, data_size, warm_config)(warm_state, minibatch)
            uphill = kronecker.to_basis(state.basis, found[1])
            counted = noise.update(learnt.noise, jax.tree.map(lambda g: g / data_size, uphill))
            is_learning = state.step < config.convergence_steps
            counted = jax.tree.map(lambda new, old: jnp.where(is_learning, new, old), counted, learnt.noise)
            size = sum(leaf.size for leaf in jax.tree.leaves(position))
            moved, moved_info = mclmc.build_kernel(LENGTH * size**0.5)(
                jax.random.fold_in(state.rng_key, state.step),
                mclmc.MCLMCState(jax.tree.map(jnp.zeros_like, position), moving.direction, moving.half_change),
                lambda *_: uphill,
                minibatch,
                length * size**0.5,
                jax.tree.map(
                    lambda v: 1 / (data_size * config.batch_size * v + prior_std**-2), noise.variance(counted)
                ),
                config.temperature,
            )
            is_warm = state.step < num_warm
            sampler, basis, told = jax.tree.map(
                lambda one, other: jnp.where(is_warm, one, other),
                (
                    Moving(*warm.sampler, moving.direction, moving.half_change),
                    warm.basis,
                    info.sghmc._replace(kinetic_temperature=jnp.ones(())),
                ),
                (
                    Moving(_away(position, state.basis, moved.position), moving.momentum, *moved[1:]),
                    state.basis,
                    info.sghmc._replace(
                        kinetic_temperature=jnp.ones(()), is_finite=moved_info.is_finite, noise_scale=jnp.zeros(())
                    ),
                ),
            )
            mass = _as_mass(Learnt(warm.mass, counted))  # AMSGrad's is not asked again after the first stage
            new_state: Any = state._replace(step=state.step + 1, sampler=sampler, mass=mass, basis=basis)
            return new_state, info._replace(sghmc=told)

        return step

    return build


def learnt_by(state: chain.ChainState) -> Learnt:
    """What a chain of a variant with noise has in the place of its mass."""
    learnt: Any = state.mass
    return learnt


def with_noise(state: chain.ChainState) -> chain.ChainState:
    """The start of a chain that learns the variance of its gradients."""
    return state._replace(mass=_as_mass(Learnt(state.mass, noise.init(state.sampler.position))))


def with_direction(state: chain.ChainState) -> chain.ChainState:
    """The start of a chain of :func:`mclmc_step`."""
    start = mclmc.init(
        state.sampler.position, jax.random.fold_in(state.rng_key, np.uint32(2**32 - 1))
    )  # steps fold in theirs
    sampler: Any = Moving(*state.sampler, *start[1:])
    return with_noise(state)._replace(sampler=sampler)


RELEARNING = Variant(relearning_step)
HEAT_COUNTING = Variant(heat_counting_step, with_noise)


@functools.cache  # one and the same for all seeds, so that they share compilations
def mclmc_variant(length: float, prior_std: float) -> Variant:
    """Of :func:`mclmc_step`."""
    return Variant(mclmc_step(length, prior_std), with_direction)


def sample(train: Dataset, config: Config, seed: int, variant: Variant) -> tuple[Posterior, chain.ChainState]:
    """A run of :func:`bnn_jax.methods.sghmc.fit` with another step, and the chains at its end.

    Raises:
        DivergenceError: every chain diverged.
    """
    config, statistics, packed = prepare(train, None, config)
    _, plan, starts = method.build_chains(jax.random.key(seed), packed, config)
    batch_size = config.sampler.batch_size
    anchors = choose_anchors(packed, batch_size)
    chunk = _chunk(variant, config, len(train), batch_bound(packed, batch_size), anchors)
    states = jax.jit(jax.vmap(variant.start))(starts[0])
    data = chunk.place(packed)
    longest = np.zeros((config.sampler.log_every, *plan(0, 0, 1).shape[1:]), np.int32)
    progress = begin(states, chunk.lower(states, data, longest).out_info[1], config.sampler)
    for turn in drive(progress, chunk, data, functools.partial(plan, 0), config.sampler):
        progress = turn.progress
    if not progress.active.any():
        raise method.DivergenceError("all chains diverged")
    return method._posterior(RunProgress((progress,)), config, statistics, seed), progress.states


@functools.lru_cache(maxsize=4)
def _chunk(variant: Variant, config: Config, data_size: int, sizes: tuple[int, int], anchors: Anchors) -> chain.Chunk:
    network = method.potential(config)
    prior = lambda params: normal_log_prior(params, 0.0, config.posterior.prior_std)  # noqa: E731
    estimate = log_density_estimator(network.apply, prior, data_size, config.posterior.stress_std)
    step = variant.build(value_and_grad_estimator(estimate), data_size, config.sampler)
    minibatch = lambda data, indices: gather_batch(data, indices, *sizes)  # noqa: E731
    turn = chain.build_turn(config.sampler, anchors.centre_fn(network))
    return chain.build_chunk(step, minibatch, chain_mesh(config.sampler.num_chains, 1), turn)


def _as_mass(learnt: Learnt) -> Any:
    return learnt


def _away(position: Params, basis: kronecker.Basis, displacement: Params) -> Params:
    """The position after a displacement that is given in the basis."""
    return jax.tree.map(jnp.add, position, kronecker.from_basis(basis, displacement))
