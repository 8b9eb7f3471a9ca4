"""A run that is extended by samples or chains is bit for bit the one that was planned so, also after a kill."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from bnn_jax.checkpoint import run as run_folder
from bnn_jax.config import Config
from bnn_jax.methods import Posterior, recorder
from bnn_jax.types import InputError
from tests.methods import test_divergence
from tests.methods.test_sghmc import Killed, config_of, contents, killed, leaves, log_rows, run, train_set

FIRST = config_of()
LONGER = config_of(num_samples=5)
WIDER = config_of(num_chains=4, chains_at_once=2)
BOTH = config_of(num_samples=5, num_chains=4, chains_at_once=2)


@pytest.fixture(scope="module")
def first() -> Posterior:
    return run()


@pytest.fixture(scope="module")
def planned() -> Posterior:
    return run(config=BOTH)


def saved(posterior: Posterior, folder: Path) -> bytes:
    folder.mkdir(exist_ok=True)
    return posterior.save(folder).read_bytes()


def test_more_samples(tmp_path, first, planned):
    run(tmp_path)
    longer = run(tmp_path, LONGER, resume=True)
    for new, old, all_ in zip(leaves(longer), leaves(first), leaves(planned), strict=True):
        chains = new.reshape(2, 5, *new.shape[1:])
        assert_array_equal(chains[:, :3], old.reshape(2, 3, *old.shape[1:]))
        assert_array_equal(new, all_[:10])


def test_more_chains(tmp_path, first, planned):
    run(tmp_path)
    wider = run(tmp_path, config_of(num_chains=4), resume=True)
    assert wider.config.sampler.chains_at_once == 2
    for new, old, all_ in zip(leaves(wider), leaves(first), leaves(planned), strict=True):
        assert_array_equal(new[:6], old)
        assert_array_equal(new.reshape(4, 3, *new.shape[1:]), all_.reshape(4, 5, *new.shape[1:])[:, :3])
        assert len(np.unique(new.reshape(12, -1), axis=0)) == 12


@pytest.mark.parametrize("way", [(LONGER, BOTH), (WIDER, BOTH), (BOTH,)], ids=["longer", "wider", "at once"])
def test_extended_twice_is_the_file_of_the_run_planned_so(tmp_path, way: tuple[Config, ...], planned):
    run(tmp_path / "run")
    for config in way:
        last = run(tmp_path / "run", config, resume=True)
    assert last.sampling == planned.sampling
    assert saved(last, tmp_path / "one") == saved(planned, tmp_path / "other")
    assert saved(run(tmp_path / "run", BOTH, resume=True), tmp_path / "again") == saved(planned, tmp_path / "other")


def test_the_log_has_every_row_once(tmp_path):
    run(tmp_path / "run")
    run(tmp_path / "run", WIDER, resume=True)
    run(tmp_path / "planned", WIDER)
    assert log_rows(tmp_path / "run") == log_rows(tmp_path / "planned")
    assert [row["first_chain"] for row in log_rows(tmp_path / "run")] == 7 * [0] + 7 * [2]
    assert [row["run_step"] for row in log_rows(tmp_path / "run")][-1] == 48


@pytest.mark.parametrize(
    ("function", "calls", "after"),
    [
        ("extend_run", 1, False),
        ("extend_run", 1, True),  # the folder knows of the extension, and its checkpoint does not
        ("save_checkpoint", 1, True),
        ("save_checkpoint", 4, False),
        ("append_jsonl", 6, True),
    ],
)
def test_killed_while_it_is_extended(tmp_path, monkeypatch, planned, function, calls, after):
    run(tmp_path / "run")
    with monkeypatch.context() as patched:
        patched.setattr(recorder, "CHECKPOINT_SECONDS", 0.0)
        patched.setattr(recorder, function, killed(calls, getattr(recorder, function), after=after))
        with pytest.raises(Killed):
            run(tmp_path / "run", BOTH, resume=True)
    extended = run(tmp_path / "run", BOTH, resume=True)
    assert saved(extended, tmp_path / "one") == saved(planned, tmp_path / "other")


def test_killed_between_the_two_files_that_say_so_it_is_the_run_that_it_was(tmp_path, monkeypatch, planned):
    run(tmp_path / "run")
    before = run_folder.open_run(tmp_path / "run")
    with monkeypatch.context() as patched:
        patched.setattr(run_folder, "write_text_atomic", killed(2, run_folder.write_text_atomic, after=False))
        with pytest.raises(Killed):
            run(tmp_path / "run", BOTH, resume=True)
    assert run_folder.open_run(tmp_path / "run").config == before.config
    assert json.loads((tmp_path / "run" / "run.json").read_text())["config_sha256"] != before.record["config_sha256"]
    extended = run(tmp_path / "run", BOTH, resume=True)
    assert saved(extended, tmp_path / "one") == saved(planned, tmp_path / "other")


def test_a_group_that_diverges_is_left_out(tmp_path, monkeypatch, planned):
    test_divergence.poisoned(monkeypatch, chain=3, from_step=17)
    posterior = run(tmp_path, BOTH)
    assert posterior.num_chains == 3 and posterior.sampling is not None
    assert posterior.sampling.stopped == ((3, 17, "its state is not finite"),)
    (event,) = [row for row in log_rows(tmp_path) if "event" in row]
    assert (event["chain"], event["first_chain"], event["step"]) == (3, 2, 15)
    for one, other in zip(leaves(posterior), leaves(planned), strict=True):
        assert_array_equal(one, other[:15])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": config_of(num_chains=3)}, r"has its chains in groups of 2; choose a multiple of 2\."),
        ({"config": config_of(num_samples=2)}, "has another seed or configuration"),
        ({"config": config_of(num_samples=5, alpha=0.2)}, "has another seed or configuration"),
        ({"config": LONGER, "train": train_set(seed=5)}, "was sampled on other training data"),
        ({"config": LONGER, "seed": 1}, "has another seed or configuration"),
    ],
    ids=["no whole group", "fewer", "another friction", "other data", "another seed"],
)
def test_what_is_no_extension_is_refused(tmp_path, options, message):
    run(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=message):
        run(tmp_path, resume=True, **options)
    assert contents(tmp_path) == before


def test_a_run_of_another_version_is_not_extended(tmp_path):
    run(tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    record["versions"]["bnn_jax"] = "0.0.9"
    (tmp_path / "run.json").write_text(json.dumps(record))
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"was begun with bnn_jax 0\.0\.9 and this is .*; extend it with the version"):
        run(tmp_path, LONGER, resume=True)
    assert contents(tmp_path) == before
    run(tmp_path, resume=True)  # to continue it is another matter


def test_groups_that_do_not_divide_the_chains_are_refused():
    with pytest.raises(InputError, match=r"chains_at_once is 3, which does not divide sampler.num_chains 4"):
        run(config=config_of(num_chains=4, chains_at_once=3))
