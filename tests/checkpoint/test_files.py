"""Files appear whole or not at all."""

import errno
import os

import jax.numpy as jnp
import numpy as np
import pytest

from bnn_jax.checkpoint import append_jsonl, files, read_jsonl, require_room, truncate_jsonl, write_text_atomic
from bnn_jax.types import InputError


@pytest.fixture
def full_disk(monkeypatch):
    def fsync(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)


def test_text_is_replaced_and_no_temporary_file_stays(tmp_path):
    for text in ("first\n", "naïve Å\n"):
        write_text_atomic(tmp_path / "note.txt", text)
        assert (tmp_path / "note.txt").read_text(encoding="utf-8") == text
    assert [item.name for item in tmp_path.iterdir()] == ["note.txt"]


def test_full_disk_is_one_sentence_and_the_old_file_stays(tmp_path, request):
    path = tmp_path / "note.txt"
    write_text_atomic(path, "old")
    request.getfixturevalue("full_disk")
    with pytest.raises(InputError, match=r"note\.txt cannot be written \(No space left on device\); free some space"):
        write_text_atomic(path, "new")
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["note.txt"]


def test_missing_folder_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"cannot be written \(No such file or directory\)"):
        write_text_atomic(tmp_path / "absent" / "note.txt", "text")


def test_kill_before_the_rename_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "note.txt"
    write_text_atomic(path, "old")

    def killed(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_text_atomic(path, "new")
    assert path.read_text() == "old"


def test_rows_come_back_as_plain_numbers(tmp_path):
    path = tmp_path / "log.jsonl"
    append_jsonl(path, {"step": np.int64(1), "loss": jnp.float32(0.5), "parts": np.arange(2)})
    append_jsonl(path, {"step": 2, "loss": None})
    assert read_jsonl(path) == [{"step": 1, "loss": 0.5, "parts": [0, 1]}, {"step": 2, "loss": None}]


def test_half_written_last_line_is_dropped(tmp_path):
    path = tmp_path / "log.jsonl"
    append_jsonl(path, {"step": 1})
    with path.open("a") as handle:
        handle.write('{"step": 2')
    assert read_jsonl(path) == [{"step": 1}]
    truncate_jsonl(path, lambda _: True)
    append_jsonl(path, {"step": 3})
    assert read_jsonl(path) == [{"step": 1}, {"step": 3}]


def up_to_three(row):
    return row.get("step", 0) <= 3


def test_truncate_names_what_a_row_lacks(tmp_path):
    append_jsonl(tmp_path / "log.jsonl", {"note": "no step"})
    with pytest.raises(InputError, match=r"A row of .*log\.jsonl lacks 'step'"):
        truncate_jsonl(tmp_path / "log.jsonl", lambda row: row["step"] < 3)
    assert read_jsonl(tmp_path / "log.jsonl") == [{"note": "no step"}]


def test_room_that_is_not_there_is_named(tmp_path, monkeypatch):
    require_room(tmp_path, 1, "The plots")
    monkeypatch.setattr(files, "free_disk", lambda _: 2**20)
    with pytest.raises(InputError, match=r"The plots need 2 MiB in .*, whose disk has 1 MiB left; free some space"):
        require_room(tmp_path, 2**21, "The plots")


def test_truncate_drops_what_the_checkpoint_has_not_seen(tmp_path):
    path = tmp_path / "log.jsonl"
    truncate_jsonl(path, up_to_three)
    assert not path.exists()
    append_jsonl(path, {"note": "no step"})
    for step in range(6):
        append_jsonl(path, {"step": step})
    truncate_jsonl(path, up_to_three)
    assert [row.get("step") for row in read_jsonl(path)] == [None, 0, 1, 2, 3]


def test_append_on_a_full_disk_leaves_no_half_line(tmp_path, request):
    path = tmp_path / "log.jsonl"
    append_jsonl(path, {"step": 1})
    before = path.read_bytes()
    request.getfixturevalue("full_disk")
    with pytest.raises(InputError, match=r"log\.jsonl cannot be written"):
        append_jsonl(path, {"step": 2})
    assert path.read_bytes() == before


@pytest.mark.parametrize("line", ["not json", "[1]", '{"a": '])
def test_bad_row_is_named_by_its_line(tmp_path, line):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n' + line + "\n")
    with pytest.raises(InputError, match=r"Line 2 of .*log\.jsonl is not a JSON object"):
        read_jsonl(path)


def test_absent_log_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"log\.jsonl cannot be read \(No such file or directory\)"):
        read_jsonl(tmp_path / "log.jsonl")
