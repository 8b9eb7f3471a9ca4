"""Files written so that a kill, a crash or a full disk never leaves half of one under its name."""

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bnn_jax.memory import free_disk, in_words
from bnn_jax.types import InputError

PARTIAL_SUFFIX = ".partial"
"""Ending of the temporary file that a killed writer may leave behind; every reader ignores it."""


class DamagedFileError(InputError):
    """A file is not what was written: truncated, altered, or of another kind."""


def file_error(verb: Literal["read", "written"], path: Path, error: OSError) -> InputError:
    """The sentence to raise when the operating system refuses a file."""
    remedy = "free some space or give another folder" if verb == "written" else "check the path and its permissions"
    kept = "; what was written before is intact" if verb == "written" else ""
    return InputError(f"{path} cannot be {verb} ({error.strerror}); {remedy}{kept}.")


def read_bytes(path: Path) -> bytes:
    """Content of a file.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise file_error("read", path, error) from error


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Write a file so that ``path`` holds either the old or the whole new content, never a part.

    Raises:
        InputError: the file cannot be written (full disk, missing folder, no permission); the old one is intact.
    """
    # In the same folder, since a rename is atomic only within one file system.
    partial = path.with_name(f".{path.name}{PARTIAL_SUFFIX}")
    try:
        with open(partial, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise file_error("written", path, error) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    with suppress(OSError):  # makes the rename survive a power cut; not every file system offers it
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file so that ``path`` holds either the old or the whole new text, never a part.

    Raises:
        InputError: the file cannot be written (full disk, missing folder, no permission); the old one is intact.
    """
    write_bytes_atomic(Path(path), text.encode())


def append_jsonl(path: str | Path, row: Mapping[str, Any]) -> None:
    """Append one row to a JSON-lines file, creating it if absent; NumPy and JAX values become plain numbers.

    Raises:
        InputError: the file cannot be written; the rows already there are intact.
    """
    line = json.dumps(dict(row), default=lambda value: np.asarray(value).tolist()) + "\n"
    size = None
    try:
        with open(path, "ab") as handle:
            size = handle.tell()
            handle.write(line.encode())
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        if size is not None:
            with suppress(OSError):  # half a line would spoil the next one
                os.truncate(path, size)
        raise file_error("written", Path(path), error) from error


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file. A last line without its newline is what a kill left half-written: it is dropped.

    Raises:
        InputError: the file cannot be read, or a complete line is not a JSON object.
    """
    rows = []
    for number, line in enumerate(read_bytes(Path(path)).split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise DamagedFileError(f"Line {number} of {path} is not a JSON object; delete that line.")
        rows.append(row)
    return rows


def truncate_jsonl(path: str | Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Drop the rows that ``keep`` refuses, and a half-written last line; an absent file stays absent.

    A resumed run calls this with what its checkpoint knows, so that no step is logged twice.

    Args:
        path: of the file.
        keep: says of a row whether it stays.

    Raises:
        InputError: the file cannot be read or written, or a row lacks what ``keep`` asks for; it is then as it was.
    """
    if not Path(path).exists():
        return
    rows = read_jsonl(path)
    try:
        kept = [row for row in rows if keep(row)]
    except (KeyError, TypeError) as error:
        raise DamagedFileError(f"A row of {path} lacks {error}; restore the file from a copy, or remove it.") from error
    if len(kept) < len(rows) or not read_bytes(Path(path)).endswith(b"\n"):
        write_text_atomic(path, "".join(json.dumps(row) + "\n" for row in kept))


def require_room(folder: Path, num_bytes: int, what: str) -> None:
    """Refuse, before any work, what the disk could not hold at its end.

    Args:
        folder: on the file system in question; it exists.
        num_bytes: that will be written.
        what: names it in the error.

    Raises:
        InputError: there is less room.
    """
    with suppress(OSError):
        free = free_disk(folder)
        if free < num_bytes:
            raise InputError(
                f"{what} need {in_words(num_bytes)} in {folder}, whose disk has {in_words(free)} left; free some space"
                " or give another folder."
            )
