"""Run folders are versioned, refuse what is not theirs, and resume from the newest sound checkpoint."""

import errno
import json
import logging
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from bnn_jax.checkpoint import create_run, latest_checkpoint, locked, open_run, save_checkpoint
from bnn_jax.config import Config
from bnn_jax.types import InputError

LIKE = {"x": np.zeros(3)}


def tree(step: int) -> dict:
    return {"x": np.full(3, float(step))}


@pytest.fixture
def run(tmp_path):
    return create_run(
        tmp_path / "runs" / "first", Config.preset("tiny"), seed=7, data_fingerprint="abc", metadata={"method": "sghmc"}
    )


def checkpoints(run) -> list[str]:
    return sorted(item.name for item in run.path.glob("checkpoint-*"))


def test_created_run_opens_to_the_same(run):
    assert open_run(run.path) == run
    record = json.loads((run.path / "run.json").read_text())
    assert (record["seed"], record["data_fingerprint"], record["metadata"]) == (7, "abc", {"method": "sghmc"})
    assert set(record["versions"]) == {"python", "bnn_jax", "jax", "jaxlib", "flax", "e3nn-jax"}
    assert Config.from_yaml(run.path / "config.yaml") == Config.preset("tiny")


def test_occupied_folder_is_refused_and_untouched(run):
    before = {item.name: item.read_bytes() for item in run.path.iterdir()}
    with pytest.raises(
        InputError, match=r"already holds files; continue its run with --resume or choose another --out"
    ):
        create_run(run.path, Config(), seed=0, data_fingerprint="")
    assert {item.name: item.read_bytes() for item in run.path.iterdir()} == before


def test_empty_folder_and_leftovers_of_a_kill_are_no_obstacle(tmp_path):
    (tmp_path / ".config.yaml.partial").write_text("half")
    run = create_run(tmp_path, Config(), seed=0, data_fingerprint="")
    assert sorted(item.name for item in run.path.iterdir()) == ["config.yaml", "run.json"]


def test_kill_before_the_record_is_no_obstacle_but_a_foreign_config_is(tmp_path):
    config = Config.preset("tiny")
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    create_run(tmp_path, config, seed=0, data_fingerprint="abc")
    assert open_run(tmp_path).config == config
    (tmp_path / "run.json").unlink()
    with pytest.raises(InputError, match="already holds files"):
        create_run(tmp_path, Config.preset("paper"), seed=0, data_fingerprint="abc")
    assert (tmp_path / "config.yaml").read_text() == config.to_yaml()


def test_out_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match=r"out cannot be written \(Not a directory\)"):
        create_run(tmp_path / "out", Config(), seed=0, data_fingerprint="")


def test_unwritable_folder_is_refused(tmp_path, monkeypatch):
    # By a refusing os.replace, since file permissions do not bind root.
    def replace(*_arguments):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(InputError, match=r"config\.yaml cannot be written \(Permission denied\)"):
        create_run(tmp_path / "run", Config(), seed=0, data_fingerprint="")
    assert list((tmp_path / "run").iterdir()) == []


def test_folder_that_is_no_run(tmp_path):
    with pytest.raises(InputError, match=r"is not a run folder \(it has no run\.json\)"):
        open_run(tmp_path)


def test_other_format_version_names_both(run):
    record = run.record | {"format_version": 99, "versions": {"bnn_jax": "9.0"}}
    (run.path / "run.json").write_text(json.dumps(record))
    with pytest.raises(
        InputError, match=r"has run format 99 \(bnn_jax 9\.0\) and this version reads format 3; use the"
    ):
        open_run(run.path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format_version": 1, "ver', "\xff"])
def test_damaged_record(run, content):
    (run.path / "run.json").write_bytes(content.encode("latin1"))
    with pytest.raises(InputError, match=r"run\.json is damaged; restore it"):
        open_run(run.path)


def test_truncated_or_edited_config_is_refused(run):
    path = run.path / "config.yaml"
    path.write_text(path.read_text()[:-30])
    with pytest.raises(InputError, match=r"config\.yaml is not as the run wrote it; undo the change"):
        open_run(run.path)
    path.unlink()
    with pytest.raises(InputError, match=r"config\.yaml cannot be read"):
        open_run(run.path)


def test_last_two_checkpoints_are_kept_in_numeric_order(run):
    for step in (5, 90, 100, 1000):
        save_checkpoint(run, step, tree(step))
    assert checkpoints(run) == ["checkpoint-100.safetensors", "checkpoint-1000.safetensors"]
    step, restored = latest_checkpoint(run, lambda _: LIKE)
    assert step == 1000
    np.testing.assert_array_equal(restored["x"], tree(1000)["x"])


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-7], lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda _: b""]
)
def test_damaged_newest_falls_back_with_a_warning(run, caplog, damage):
    save_checkpoint(run, 1, tree(1))
    newest = save_checkpoint(run, 2, tree(2))
    newest.write_bytes(damage(newest.read_bytes()))
    with caplog.at_level(logging.WARNING):
        step, restored = latest_checkpoint(run, lambda _: LIKE)
    assert step == 1
    np.testing.assert_array_equal(restored["x"], tree(1)["x"])
    assert "checkpoint-2.safetensors is" in caplog.text and "Falling back to the checkpoint before it." in caplog.text


def test_saving_after_a_fallback_keeps_the_sound_ones(run):
    for step in (10, 20):
        save_checkpoint(run, step, tree(step))
    (run.path / "checkpoint-20.safetensors").write_bytes(b"")
    save_checkpoint(run, 15, tree(15))
    assert latest_checkpoint(run, lambda _: LIKE)[0] == 15
    assert "checkpoint-10.safetensors" in checkpoints(run)


def test_no_usable_checkpoint(run):
    with pytest.raises(InputError, match="holds no checkpoint to resume from"):
        latest_checkpoint(run, lambda _: LIKE)
    save_checkpoint(run, 1, tree(1)).write_bytes(b"")
    with pytest.raises(InputError, match=r"Every checkpoint in .* is damaged"):
        latest_checkpoint(run, lambda _: LIKE)


def test_checkpoint_of_another_model_is_refused_rather_than_passed_over(run):
    save_checkpoint(run, 1, tree(1))
    save_checkpoint(run, 2, tree(2))
    with pytest.raises(InputError, match=r"Leaf \['x'\] of .*checkpoint-2.safetensors is F64\[3\] where"):
        latest_checkpoint(run, lambda _: {"x": np.zeros(4)})


def test_full_disk_keeps_the_earlier_checkpoints(run, monkeypatch):
    for step in (1, 2):
        save_checkpoint(run, step, tree(step))

    def fsync(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(InputError, match="No space left on device"):
        save_checkpoint(run, 3, tree(3))
    assert checkpoints(run) == ["checkpoint-1.safetensors", "checkpoint-2.safetensors"]
    assert latest_checkpoint(run, lambda _: LIKE)[0] == 2


def test_a_process_killed_while_writing_leaves_the_last_checkpoint(run):
    """The real thing: SIGKILL between the temporary file and its rename."""
    script = f"""
        import os, signal
        import numpy as np
        from bnn_jax.checkpoint import open_run, save_checkpoint
        run = open_run({str(run.path)!r})
        save_checkpoint(run, 1, {{"x": np.full(3, 1.0)}})
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        save_checkpoint(run, 2, {{"x": np.full(3, 2.0)}})
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], timeout=120, check=False)
    assert killed.returncode == -9
    partial = run.path / ".checkpoint-2.safetensors.partial"
    assert partial.exists()
    step, restored = latest_checkpoint(open_run(run.path), lambda _: LIKE)
    assert step == 1
    np.testing.assert_array_equal(restored["x"], np.ones(3))
    save_checkpoint(run, 3, tree(3))
    assert not partial.exists()


def test_a_run_has_one_writer(run):
    code = (
        "import sys; from bnn_jax.checkpoint import locked, open_run\nwith locked(open_run(sys.argv[1])): print('mine')"
    )
    with locked(run):
        done = subprocess.run([sys.executable, "-c", code, str(run.path)], capture_output=True, text=True)
        assert "is being sampled by another process; wait for it, or choose another --out." in done.stderr
    done = subprocess.run([sys.executable, "-c", code, str(run.path)], capture_output=True, text=True, check=True)
    assert done.stdout == "mine\n"


@pytest.mark.parametrize("name", ["log.jsonl", "plots", "plots/parity.png", "posterior.safetensors"])
def test_links_out_of_the_folder_are_refused(run, tmp_path, name):
    """A run folder from a stranger must not make us write elsewhere."""
    target = tmp_path / "precious"
    target.write_text("precious")
    (run.path / name).parent.mkdir(exist_ok=True)
    (run.path / name).symlink_to(target)
    with pytest.raises(InputError, match=rf"{name} is a link, and what a run writes must stay in its folder"):
        open_run(run.path)
    assert target.read_text() == "precious"


@pytest.mark.parametrize(
    "change",
    [
        {"versions": "all of them"},
        {"seed": "seven"},
        {"data_fingerprint": None},
        {"metadata": None},
        {"environment": 3},
        {"format_version": {}},
        {"config_sha256": [1]},
    ],
)
def test_a_malformed_record_is_one_sentence(run, change):
    record = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps(record | change))
    with pytest.raises(InputError, match=r"run\.json is damaged|has run format|is not as the run wrote it"):
        open_run(run.path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format_version": 1}', "[]", '"', "1" * 20_000_000])
def test_an_absurd_record_is_one_sentence(run, text):
    (run.path / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run\.json is damaged; restore it from a copy"):
        open_run(run.path)


def test_checkpoints_of_a_future_that_was_left_go(run):
    for step in (10, 20, 30, 15):
        save_checkpoint(run, step, tree(step))
    assert checkpoints(run) == ["checkpoint-15.safetensors"]
    assert latest_checkpoint(run, lambda _: LIKE)[0] == 15
