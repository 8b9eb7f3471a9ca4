"""Promise 8: a chain that diverges stops at its last sound state, is named with cause and cure, and gives no sample."""

import logging
import re

import jax
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from safetensors.numpy import load_file

from bnn_jax.methods import Posterior, recorder, sghmc
from bnn_jax.sampling import guard
from bnn_jax.types import InputError
from tests.methods.test_sghmc import config_of, leaves, log_rows, run

WILD = {"cycle_step_size": 1e30}


@pytest.fixture(autouse=True)
def checkpoint_at_every_turn(monkeypatch):
    monkeypatch.setattr(recorder, "CHECKPOINT_SECONDS", 0.0)


@pytest.fixture(scope="module")
def sound():
    return run()


COMPILED = {}


def poisoned(monkeypatch, chain: int, from_step: int):
    """The given chain's gradient is NaN at that step, unless its step size has been halved."""
    build = sghmc.build_chains

    def build_poisoned(rng_key, packed, config, *devices):
        case = (chain, from_step, config, str(jax.random.key_data(rng_key)))
        if case not in COMPILED:
            COMPILED[case] = build_anew(rng_key, packed, config, *devices)
        return COMPILED[case]

    def build_anew(rng_key, packed, config, *devices):
        step_fn = sghmc.chain.build_step

        def build_step(value_and_grad_fn, data_size, sampler):
            step = step_fn(value_and_grad_fn, data_size, sampler)
            key = jax.random.key_data(jax.random.fold_in(jax.random.fold_in(rng_key, 1), chain))

            def poisoned_step(state, minibatch):
                new, info = step(state, minibatch)
                mine = (jax.random.key_data(state.rng_key) == key).all()
                bad = mine & (state.step == from_step - 1) & (state.step_scale == 1)
                position = jax.tree.map(lambda leaf: jax.numpy.where(bad, np.nan, leaf), new.sampler.position)
                sampler_info = info.sghmc._replace(is_finite=info.sghmc.is_finite & ~bad)
                return new._replace(sampler=new.sampler._replace(position=position)), info._replace(sghmc=sampler_info)

            return poisoned_step

        with monkeypatch.context() as patched:
            patched.setattr(sghmc.chain, "build_step", build_step)
            patched.setattr(sghmc, "_chunk", sghmc._chunk.__wrapped__)
            return build(rng_key, packed, config, *devices)

    monkeypatch.setattr(sghmc, "build_chains", build_poisoned)


def test_all_chains_diverge(tmp_path):
    """The sentence names the last one with its step, cause and two cures; the last checkpoint is sound."""
    with pytest.raises(sghmc.DivergenceError) as error:
        run(tmp_path, config_of(**WILD))
    text = str(error.value)
    cause = "|".join(re.escape(each.text) for each in guard.CAUSES)
    assert re.fullmatch(
        rf"Chain \d diverged at step \d+: ({cause}), the last of 2 chains to do so; lower sampler\.step_size_first and"
        rf" sampler\.cycle_step_size \(or give --on-divergence halve-step\), or [^;]+\. The last checkpoint in"
        rf" {tmp_path} is sound\.",
        text,
    ), text
    assert 12 < int(text.split("step ")[1].split(":")[0]) <= 18

    assert not (tmp_path / "posterior.safetensors").exists()
    for path in tmp_path.glob("checkpoint-*.safetensors"):
        arrays = load_file(path)
        finite = {name: np.isfinite(array).all() for name, array in arrays.items() if array.dtype.kind == "f"}
        # What the guard looked at may be anything; what a chain goes on from may not.
        assert all(value for name, value in finite.items() if ".states" in name or "samples" in name)
    assert all(np.isfinite(row["loss"]) for row in log_rows(tmp_path) if "loss" in row)
    with pytest.raises(InputError, match=r"holds no posterior\.safetensors: its run has not finished"):
        Posterior.load(tmp_path)
    # It resumes from there, and diverges at the same step again.
    with pytest.raises(sghmc.DivergenceError, match=text.split(":")[0]):
        run(tmp_path, config_of(**WILD), resume=True)


def test_without_a_folder_no_checkpoint_is_named():
    with pytest.raises(sghmc.DivergenceError, match=r"Chain \d diverged at step \d+: its ") as error:
        run(config=config_of(step_size_first=1e30, step_size_last=1e29))
    assert "checkpoint" not in str(error.value)


def test_the_other_chain_goes_on(tmp_path, monkeypatch, sound, caplog):
    poisoned(monkeypatch, chain=0, from_step=17)
    with caplog.at_level(logging.WARNING):
        posterior = run(tmp_path)
    assert (
        "Chain 0 diverged at step 17: its state is not finite; its last sound state is that of step 15" in caplog.text
    )
    assert (posterior.num_chains, posterior.num_samples) == (1, 3)
    for one, both in zip(leaves(posterior), leaves(sound), strict=True):
        assert_array_equal(one, both[3:])
    assert posterior.sampling is not None
    assert posterior.sampling.stopped == ((0, 17, "its state is not finite"),)
    (event,) = [row for row in log_rows(tmp_path) if "event" in row]
    assert (event["event"], event["chain"], event["found_at_step"], event["step"]) == ("stop", 0, 17, 15)
    assert [row["num_chains"] for row in log_rows(tmp_path) if "loss" in row] == [2, 2, 2, 2, 1, 1, 1]


def test_half_the_step_size_is_recorded(tmp_path, monkeypatch, sound):
    poisoned(monkeypatch, chain=1, from_step=17)
    posterior = run(tmp_path, on_divergence="halve-step")
    assert (posterior.num_chains, posterior.num_samples) == (2, 6)
    for one, both in zip(leaves(posterior), leaves(sound), strict=True):
        assert_array_equal(one[:3], both[:3])
        assert np.isfinite(one).all() and (one[5] != both[5]).any()
        assert_array_equal(one[3], both[3])  # its first sample came before
    assert posterior.sampling is not None and posterior.sampling.num_halvings == (0, 1)
    (event,) = [row for row in log_rows(tmp_path) if "event" in row]
    assert (event["event"], event["chain"], event["step_scale"], event["step"]) == ("halve-step", 1, 0.5, 15)
    rows = [row["step"] for row in log_rows(tmp_path) if "loss" in row]
    assert rows == [5, 10, 12, 15, 18, 20, 24]


@pytest.mark.parametrize("on_divergence", ["stop", "halve-step"])
@pytest.mark.parametrize("calls", [5, 7, 8, 9])
def test_killed_around_a_divergence_and_resumed(tmp_path, monkeypatch, on_divergence, calls):
    poisoned(monkeypatch, chain=1, from_step=17)
    whole = run(tmp_path / "whole", on_divergence=on_divergence)
    save, count = recorder.save_checkpoint, 0

    def killed(*arguments):
        nonlocal count
        count += 1
        path = save(*arguments)
        if count == calls:
            raise KeyError("killed")
        return path

    with monkeypatch.context() as patched:
        patched.setattr(recorder, "save_checkpoint", killed)
        with pytest.raises(KeyError, match="killed"):
            run(tmp_path / "cut", on_divergence=on_divergence)
    resumed = run(tmp_path / "cut", on_divergence=on_divergence, resume=True)
    for one, other in zip(leaves(resumed), leaves(whole), strict=True):
        assert_array_equal(one, other)
    assert resumed.sampling == whole.sampling
    assert log_rows(tmp_path / "cut") == log_rows(tmp_path / "whole")
