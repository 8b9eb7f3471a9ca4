"""The benchmark of samplers: its steps on a normal target, equal gradients, and that every setting runs."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from benchmarks.samplers import __main__ as samplers
from benchmarks.samplers import mclmc, noise, steps
from bnn_jax.config import SamplerConfig
from bnn_jax.methods import registry
from bnn_jax.sampling import chain, schedule

DATA_SIZE, DIMENSION, NUM_CHAINS = 100, 10, 500
NOISE_STD = 0.3
CONFIG = SamplerConfig(
    num_samples=2,
    beta=0.99,
    convergence_steps=1_000,
    step_size_first=0.04,
    step_size_last=0.04,
    cycle_steps=1,  # stays at the peak
    cycle_step_size=0.04,
    batch_size=5,
)


def noisy_normal(position, minibatch):
    """Of curvature one a datum; a minibatch is noise of the mean gradient."""
    density = -0.5 * DATA_SIZE * jnp.sum(position**2)
    return (density, ()), -DATA_SIZE * (position + minibatch)


def after(variant, num_steps=1_500, num_chains=NUM_CHAINS, noise_std=NOISE_STD):
    """States of many chains."""
    step = variant.build(noisy_normal, DATA_SIZE, CONFIG)

    def one(key):
        def body(state, key):
            return step(state, noise_std * jax.random.normal(key, (DIMENSION,)))[0], None

        state = variant.start(chain.init(jax.random.fold_in(key, 0), jnp.ones(DIMENSION)))
        return jax.lax.scan(body, state, jax.random.split(key, num_steps))[0]

    return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), num_chains))


def variance(states):
    """Over that of the target."""
    return float(DATA_SIZE * jnp.mean(states.sampler.position**2))


def test_noise_that_is_counted_as_heat_does_not_heat():
    """The minibatches' noise is half of what is injected: it heats the reference by as much, and not the setting."""
    tolerance = 5 * np.sqrt(2 / NUM_CHAINS / DIMENSION)
    assert variance(after(steps.Variant(chain.build_step))) > 1.3
    assert_allclose(variance(after(steps.HEAT_COUNTING)), 1, atol=tolerance)


def test_without_noise_to_count_it_is_the_reference(monkeypatch):
    monkeypatch.setattr(noise, "variance", lambda state: jax.tree.map(jnp.zeros_like, state.variance))
    ours, theirs = (after(variant, 50, 2) for variant in (steps.HEAT_COUNTING, steps.Variant(chain.build_step)))
    assert_allclose(ours.sampler.position, theirs.sampler.position, rtol=1e-4, atol=1e-5)


def test_the_mass_is_learnt_again():
    halfway, frozen = round(steps.RELEARN_SHARE * CONFIG.convergence_steps), schedule.freeze_step(CONFIG)
    assert after(steps.RELEARNING, halfway, 1).mass.count == halfway
    assert after(steps.RELEARNING, halfway + 1, 1).mass.count == 1
    assert after(steps.RELEARNING, 1_000, 1).mass.count == frozen - halfway


def test_mclmc_samples_after_a_descent():
    """Of noise that is the same in all directions it is not heated, though the noise is thrice the gradient."""
    variant = steps.mclmc_variant(0.1, 1.0)
    num_warm = round(steps.WARM_SHARE * CONFIG.convergence_steps)
    assert variance(after(variant, num_warm, noise_std=0.0)) < 1e-2
    assert_allclose(variance(after(variant)), 1, atol=5 * np.sqrt(2 / NUM_CHAINS / DIMENSION))
    assert_allclose(jnp.linalg.norm(after(variant, 1_500, 2).sampler.direction, axis=1), 1, atol=1e-5)
    assert mclmc.MCLMCState._fields[2] == steps.Moving._fields[3]


@pytest.mark.parametrize("setting", samplers.SETTINGS)
def test_every_setting_has_as_many_gradients(setting):
    config = samplers.configured("small", setting, 4, 8_000)
    if setting in samplers.METHODS:
        assert registry.num_networks(setting, config) * config.trainer.num_steps == 4 * 8_000
    else:
        assert config.sampler.num_chains * schedule.total_steps(config.sampler) == 4 * 8_000


def test_the_presets_shares_of_steps_are_kept():
    sampler = samplers.configured("quick", "reference", 8, 9_500).sampler
    assert sampler == samplers.Config.preset("quick").sampler


def test_the_table_has_means_and_spreads():
    shared = {"system": "ammonia", "setting": "reference", "chains": 4, "steps": 10}
    rows = [shared | {"seed": 0, "forces_mll_in": 1.0}, shared | {"seed": 1, "forces_mll_in": 3.0}]
    rows.append(shared | {"seed": 2, "diverged": "all chains diverged"})
    text = samplers.report(rows)
    assert "| reference | 2 of 3 | 2.00 ± 1.41 | – |" in text and "4 chains of 10 steps" in text
    assert samplers.cell([0.5], 1e3, 1) == "500.0" and samplers.cell([np.nan], 1, 1) == "–"


@pytest.mark.slow
def test_it_runs_and_goes_on(tmp_path, monkeypatch, capsys):
    """One setting of each kind, with a network of a few weights."""
    configured = samplers.configured

    def small(*arguments):
        config = configured(*arguments)
        tiny = {"num_blocks": 1, "num_features": 2, "radial_hidden": (4,), "std_hidden": (4,), "l_max": 0}
        return dataclasses.replace(config, model=dataclasses.replace(config.model, **tiny))

    def few(folder, seed):
        parts = samplers.ammonia(folder, seed)
        return parts._replace(inside=parts.inside.take(np.arange(4)), outside=parts.outside.take(np.arange(4)))

    monkeypatch.setattr(samplers, "configured", small)
    monkeypatch.setitem(samplers.SYSTEMS, "ammonia", samplers.System("quick", 40, few))
    monkeypatch.setattr(samplers, "LENGTHS", (0.1,))
    out, settings = tmp_path / "rows.jsonl", ["reference", *samplers.VARIANTS, "mclmc", "ensemble"]
    command = ["--data", str(tmp_path), "--out", str(out), "--systems", "ammonia", "--seeds", "0", "--chains", "2"]
    samplers.main([*command, "--settings", *settings[:-1]])
    samplers.main([*command, "--settings", *settings])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["setting"] for row in rows] == settings
    for row in rows:
        assert np.isfinite([row[f"{name}_{where}"] for name in samplers.SCORES for where in ("in", "out")]).all()
        assert np.isfinite([row["shift"], row["factor"]]).all()
        assert ("rhat" in row) == (row["setting"] != "ensemble")
        assert ("kinetic_temperature" in row) == (row["setting"] not in ("mclmc", "ensemble"))
    assert "| ensemble | 1 |" in capsys.readouterr().out
