"""How long a run shall be: a schedule that fills the minutes given, and what to add where a verdict asks for more."""

import dataclasses
from typing import NamedTuple

from bnn_jax.config import Config, SamplerConfig
from bnn_jax.sampling import schedule
from bnn_jax.sampling.groups import group_size
from bnn_jax.types import InputError, Verdict

MIN_STEPS = 200
"""Steps of a chain below which no schedule is made of them."""
RESERVE = 0.15
"""Share of the time that is kept for the verdict, the report, and for steps that take longer than those measured."""
MORE_SAMPLES = 2
"""Samples of each chain that an extension adds."""


class Timing(NamedTuple):
    """What was measured before a run."""

    compile_seconds: float
    """Until the first step had been taken."""
    step_seconds: float
    """Of one step of a group of chains."""


def planned(config: Config, minutes: float, timing: Timing, seconds_spent: float) -> Config:
    """The configuration with its schedule stretched or shrunk so that the run ends within the minutes.

    Chains and samples stay as many as they are; steps before the first sample and of a cycle keep their ratio.

    Args:
        config: of the run.
        minutes: that it may take, the compilation included.
        timing: of its steps.
        seconds_spent: of these minutes, already.

    Raises:
        InputError: the minutes do not suffice for one sample.
    """
    sampler = config.sampler
    num_groups = sampler.num_chains // group_size(sampler)
    seconds = (1 - RESERVE) * 60 * minutes - seconds_spent - timing.compile_seconds
    num_steps = int(seconds / (timing.step_seconds * num_groups))
    if num_steps < MIN_STEPS:
        needed = seconds_spent + timing.compile_seconds + MIN_STEPS * timing.step_seconds * num_groups
        raise InputError(
            f"{minutes:g} minutes are too few for one sample: compilation takes {timing.compile_seconds:.0f} s, and"
            f" {sampler.num_chains} chains {1000 * timing.step_seconds * num_groups:.1f} ms a step; give"
            f" {needed / 60 / (1 - RESERVE) + 0.1:.1f} at least, or a smaller network."
        )
    factor = num_steps / schedule.total_steps(sampler)
    cycle_steps = max(1, round(factor * sampler.cycle_steps))
    convergence_steps = max(1, num_steps - cycle_steps * (sampler.num_samples - 1))
    stretched = dataclasses.replace(sampler, convergence_steps=convergence_steps, cycle_steps=cycle_steps)
    return dataclasses.replace(config, sampler=stretched)


def further(config: Config, verdict: Verdict | None, seconds_left: float, step_seconds: float) -> Config | None:
    """What to add to a run that is not trusted yet; None where nothing that would help can be done in time.

    Where the chains have mixed, each has found what the others have, and more samples of them tell more; where they
    have not, only more chains tell what others would find.

    Args:
        config: of the run.
        verdict: on it.
        seconds_left: until the run must end.
        step_seconds: of a step of a group of chains, with all that comes with it.
    """
    sampler = config.sampler
    longer = dataclasses.replace(sampler, num_samples=sampler.num_samples + MORE_SAMPLES)
    at_once = group_size(sampler)
    wider = dataclasses.replace(sampler, num_chains=sampler.num_chains + at_once, chains_at_once=at_once)
    ways = (longer, wider) if verdict is not None and verdict.mixed.holds else (wider, longer)
    for way in ways:
        if (group_steps(way) - group_steps(sampler)) * step_seconds <= (1 - RESERVE) * seconds_left:
            return dataclasses.replace(config, sampler=way)
    return None


def group_steps(sampler: SamplerConfig) -> int:
    """Steps of all groups, one after another."""
    return schedule.total_steps(sampler) * (sampler.num_chains // group_size(sampler))
