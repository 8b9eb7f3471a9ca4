"""A run fills the minutes it is given, and goes on until it is trusted: by what it lacks, and no further."""

import dataclasses

import jax
import pytest
import yaml
from commands import MODEL, SAMPLER, SETTINGS, contents, write_ammonia
from systems import ammonia, labelled_series

import bnn_jax
from bnn_jax import api
from bnn_jax.cli import main
from bnn_jax.config import Config
from bnn_jax.planning import RESERVE, Timing, further, group_steps, planned
from bnn_jax.sampling import schedule
from bnn_jax.types import Criterion, InputError, Verdict

CONFIG = Config.from_dict({"model": MODEL, "sampler": SAMPLER | {"num_chains": 2, "num_samples": 2}})
TRAIN, VALID = labelled_series(ammonia(), 12), labelled_series(ammonia(), 5, seed=30)


def sampler_of(**changes) -> Config:
    return dataclasses.replace(CONFIG, sampler=dataclasses.replace(CONFIG.sampler, **changes))


def verdict_of(trusted: bool, mixed: bool | None = False) -> Verdict:
    calibrated, reproducible = (Criterion(trusted, "", "", {}) for _ in range(2))
    return Verdict(trusted, "as told", (), calibrated, reproducible, Criterion(mixed, "", "", {}))


@pytest.mark.parametrize("chains_at_once", [0, 1])
def test_a_schedule_that_fills_the_minutes(chains_at_once):
    config = sampler_of(convergence_steps=26_000, cycle_steps=4_000, num_samples=4, chains_at_once=chains_at_once)
    timing = Timing(compile_seconds=20.0, step_seconds=0.01)
    sampler = planned(config, 30.0, timing, seconds_spent=25.0).sampler
    seconds = 25 + 20 + 0.01 * group_steps(sampler)
    assert seconds == pytest.approx((1 - RESERVE) * 1800, abs=0.1)
    assert sampler.convergence_steps / sampler.cycle_steps == pytest.approx(26 / 4, rel=1e-3)
    assert dataclasses.replace(sampler, convergence_steps=26_000, cycle_steps=4_000) == config.sampler


def test_minutes_too_few_for_one_sample_say_how_many_are_needed():
    timing = Timing(compile_seconds=20.0, step_seconds=0.5)
    with pytest.raises(InputError, match=r"1 minutes are too few for one sample: compilation takes 20 s, and 2 chains"):
        planned(CONFIG, 1.0, timing, 0.0)
    with pytest.raises(InputError) as error:
        planned(CONFIG, 0.1, timing, 0.0)
    enough = float(str(error.value).split("give ")[1].split(" ")[0])
    assert schedule.total_steps(planned(CONFIG, enough, timing, 0.0).sampler) >= 200


def test_what_is_added_is_what_lacks():
    mixed, apart = (further(CONFIG, verdict_of(False, holds), float("inf"), 1.0) for holds in (True, False))
    assert mixed is not None and (mixed.sampler.num_samples, mixed.sampler.num_chains) == (4, 2)
    assert apart is not None and (apart.sampler.num_samples, apart.sampler.num_chains) == (2, 4)
    assert apart.sampler.chains_at_once == 2
    again = further(apart, verdict_of(False, None), float("inf"), 1.0)
    assert again is not None and again.sampler.num_chains == 6


def test_where_there_is_no_time_for_chains_samples_are_added_and_then_nothing():
    of_chains, of_samples = group_steps(CONFIG.sampler), 2 * CONFIG.sampler.cycle_steps
    assert of_samples < of_chains
    for steps, expected in ((of_chains, (2, 4)), (of_chains - 1, (4, 2)), (of_samples, (4, 2)), (of_samples - 1, None)):
        more = further(CONFIG, verdict_of(False), (steps + 0.01) / (1 - RESERVE), 1.0)
        found = None if more is None else (more.sampler.num_samples, more.sampler.num_chains)
        assert found == expected, steps


def judged_as(monkeypatch, verdicts: list[Verdict]) -> None:
    rest = iter(verdicts)
    monkeypatch.setattr(api, "judge_predictive", lambda *_, **__: next(rest))


@pytest.mark.parametrize("in_a_folder", [True, False])
def test_a_run_is_extended_until_it_is_trusted(tmp_path, monkeypatch, in_a_folder):
    judged_as(monkeypatch, [verdict_of(False), verdict_of(False, True), verdict_of(True), verdict_of(False)])
    seen = []
    out = tmp_path / "run" if in_a_folder else None
    posterior = bnn_jax.fit(TRAIN, VALID, CONFIG, out=out, until="trusted", progress=False, on_verdict=seen.append)
    assert [(each.num_chains, each.num_samples) for each in seen] == [(2, 4), (4, 8), (4, 16)]
    assert posterior.verdict is not None and posterior.verdict.is_trusted
    planned_so = bnn_jax.fit(
        TRAIN, VALID, sampler_of(num_chains=4, num_samples=4, chains_at_once=2), progress=False
    )  # judged as not trusted, and left at that
    assert posterior.config == planned_so.config
    for one, other in zip(*(_leaves(each) for each in (posterior, planned_so)), strict=True):
        assert (one == other).all()
    if out is not None:
        assert bnn_jax.Posterior.load(out).config == posterior.config


def _leaves(posterior):
    return jax.tree.leaves(posterior.samples)


def test_it_ends_when_the_time_is_up_and_says_that_it_is_not_trusted(tmp_path, monkeypatch):
    judged_as(monkeypatch, [verdict_of(False)])
    monkeypatch.setattr(api.sghmc, "time_steps", lambda *_: (0.0, 0.05))
    monkeypatch.setattr(api, "further", lambda *_: None)
    posterior = bnn_jax.fit(TRAIN, VALID, CONFIG, out=tmp_path / "run", until="trusted", minutes=1.0, progress=False)
    assert posterior.verdict is not None and not posterior.verdict.is_trusted


def test_minutes_are_planned_and_the_plan_is_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(api.sghmc, "time_steps", lambda *_: (1.0, 0.002))
    file, out = write_ammonia(tmp_path)["train"], tmp_path / "run"
    arguments = ["fit", file, "--out", str(out), "--valid", "4", *SETTINGS]
    assert main([*arguments, "--minutes", "0.001"]) == 2
    assert "minutes are too few for one sample" in capsys.readouterr().err and not out.exists()
    assert main([*arguments, "--minutes", "0.05"]) == 0
    sampler = yaml.safe_load((out / "config.yaml").read_text())["sampler"]
    assert sampler["convergence_steps"] > 5 * SAMPLER["convergence_steps"]
    before = (out / "posterior.safetensors").read_bytes()
    assert main(["fit", file, "--out", str(out), "--resume", "--minutes", "3"]) == 0
    assert (out / "posterior.safetensors").read_bytes() == before
    assert "has finished" in capsys.readouterr().out


def test_what_until_cannot_work_with_is_refused(tmp_path, capsys):
    with pytest.raises(InputError, match="needs a validation set, on which trust is found out"):
        bnn_jax.fit(TRAIN, None, CONFIG, until="trusted", progress=False)
    with pytest.raises(InputError, match="are for sghmc, not for ensemble"):
        bnn_jax.fit(TRAIN, VALID, dataclasses.replace(CONFIG, method="ensemble"), minutes=3.0, progress=False)
    out = tmp_path / "taken"
    out.mkdir()
    (out / "precious").write_text("")
    with pytest.raises(InputError, match="already holds files"):
        bnn_jax.fit(TRAIN, VALID, CONFIG, out=out, minutes=3.0, progress=False)
    assert set(contents(out)) == {"precious"}
    file = write_ammonia(tmp_path)["train"]
    assert main(["fit", file, "--out", str(tmp_path / "run"), "--valid", "0", "--until", "trusted"]) == 2
    assert "validation set" in capsys.readouterr().err and not (tmp_path / "run").exists()
