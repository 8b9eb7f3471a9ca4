"""Schedules against the papers' formulas, written out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bnn_jax.config import Config, SamplerConfig
from bnn_jax.sampling import schedule

CONFIG = SamplerConfig(
    num_samples=4,
    convergence_steps=100,
    step_size_first=1e-2,
    step_size_last=1e-5,
    freeze_fraction=0.9,
    cycle_steps=20,
    cycle_step_size=1e-3,
    temperature=0.5,
    warm_start_fraction=0.3,
    warm_start_temperature=0.01,
)


def test_exponential_decay_is_geometric():
    values = jax.vmap(lambda step: schedule.exponential_decay(step, 50, 1e-2, 1e-5))(jnp.arange(60))
    assert_allclose(values[:50], np.geomspace(1e-2, 1e-5, 50), rtol=1e-5)
    assert_allclose(values[50:], 1e-5, rtol=1e-5)


def test_exponential_decay_of_one_step():
    assert_allclose(schedule.exponential_decay(0, 1, 0.3, 0.1), 0.3, rtol=1e-6)


@pytest.mark.parametrize("cycle_steps", [2, 50, 2_000, 100_000])
def test_cosine_cycle_is_the_papers_formula(cycle_steps):
    i = np.unique(np.linspace(1, cycle_steps - 1, 1000).astype(int))
    got = jax.vmap(lambda step: schedule.cosine_cycle(step, cycle_steps, 1e-3))(jnp.asarray(i))
    expected = 1e-3 / 2 * (np.cos(np.pi + i * np.pi / (cycle_steps / 2)) + 1)
    assert_allclose(got, expected, rtol=2e-6, atol=1e-3 * 2e-16)  # the formula itself cancels in double precision
    assert_allclose(schedule.cosine_cycle(cycle_steps // 2, cycle_steps, 1e-3), 1e-3, rtol=1e-6)


@pytest.mark.parametrize("cycle_steps", [1, 2, 3, 50, 2_000, 100_000])
def test_cosine_cycle_is_never_zero_and_repeats(cycle_steps):
    ends = jnp.array([0, 1, cycle_steps - 1, cycle_steps, 7 * cycle_steps, 7 * cycle_steps + 1])
    values = np.asarray(jax.vmap(lambda step: schedule.cosine_cycle(step, cycle_steps, 1e-3))(ends))
    assert_allclose(values, np.full(6, values[0]), rtol=1e-6)
    assert values[0] > 0.99e-3 / cycle_steps**2
    assert np.isfinite(1 / np.sqrt(values)).all()


def test_step_size_joins_the_two():
    values = np.asarray(jax.jit(jax.vmap(lambda step: schedule.step_size(step, CONFIG)))(jnp.arange(160)))
    assert_allclose(values[:100], np.geomspace(1e-2, 1e-5, 100), rtol=1e-5)
    cycle = 1e-3 * np.sin(np.pi * np.arange(20) / 20) ** 2
    cycle[0] = cycle[1]
    assert_allclose(values[100:], np.tile(cycle, 3), rtol=1e-4)


def test_samples_end_convergence_and_each_cycle():
    assert_array_equal(schedule.sample_steps(CONFIG), [100, 120, 140, 160])
    assert schedule.total_steps(CONFIG) == 160
    for count in schedule.sample_steps(CONFIG):  # the last step before each sample is the smallest of its phase
        before, last = (float(schedule.step_size(count - k, CONFIG)) for k in (2, 1))
        assert last < before


@pytest.mark.parametrize("preset", ["tiny", "quick", "small", "paper"])
def test_step_size_of_presets_is_positive(preset):
    config = Config.preset(preset).sampler
    steps = jnp.concatenate([jnp.arange(5) + count for count in schedule.sample_steps(config) - 2])
    values = jax.vmap(lambda step: schedule.step_size(step, config))(steps)
    assert bool(jnp.all(values > 0)) and bool(jnp.all(jnp.isfinite(1 / jnp.sqrt(values))))


@pytest.mark.parametrize("num_ramp_steps", [0, 1, 9])
def test_temperature_warm_start_ramp_target(num_ramp_steps):
    values = np.asarray(jax.vmap(lambda step: schedule.temperature(step, CONFIG, num_ramp_steps))(jnp.arange(100)))
    assert_allclose(values[:30], 0.01, rtol=1e-6)
    assert_allclose(values[29 : 31 + num_ramp_steps], np.linspace(0.01, 0.5, num_ramp_steps + 2), rtol=1e-5)
    assert_allclose(values[30 + num_ramp_steps :], 0.5, rtol=1e-6)


def test_temperature_without_warm_start():
    config = dataclasses.replace(CONFIG, warm_start_fraction=0.0)
    assert_allclose([schedule.temperature(step, config, 5) for step in (0, 3, 99)], 0.5, rtol=1e-6)


def test_mass_adapts_until_the_freeze():
    assert schedule.freeze_step(CONFIG) == 90
    adapting = jax.jit(jax.vmap(lambda step: schedule.mass_is_adapting(step, 90)))(jnp.arange(100))
    assert_array_equal(adapting, np.arange(100) < 90)
