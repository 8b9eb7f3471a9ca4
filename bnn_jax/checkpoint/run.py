"""The folder of a run: its configuration, its record and the checkpoints from which it resumes."""

import hashlib
import importlib.metadata
import json
import logging
import platform
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bnn_jax.checkpoint.files import PARTIAL_SUFFIX, DamagedFileError, file_error, read_bytes, write_text_atomic
from bnn_jax.checkpoint.tree import load_tree, save_tree
from bnn_jax.config import Config
from bnn_jax.types import InputError

FORMAT_VERSION = 1
"""Version of the layout of a run folder; raised when older code could not read what newer code writes."""
NUM_CHECKPOINTS_KEPT = 2

_PACKAGES = ("bnn_jax", "jax", "flax", "e3nn-jax")
_log = logging.getLogger(__name__)


class RunFolder(NamedTuple):
    """A folder that holds one run: ``config.yaml``, ``run.json``, logs and checkpoints."""

    path: Path
    config: Config
    record: dict[str, Any]
    """What ``run.json`` says: format and package versions, seed, data fingerprint, command line, metadata."""


def create_run(
    path: str | Path,
    config: Config,
    *,
    seed: int,
    data_fingerprint: str,
    metadata: Mapping[str, Any] | None = None,
) -> RunFolder:
    """Make a run folder with its ``config.yaml`` and ``run.json``.

    Args:
        path: folder to make, with its parents; it may exist if it is empty.
        config: configuration of the run.
        seed: seed that every random number of the run follows from.
        data_fingerprint: hash of the training data, by which a resumed run knows that they are the same.
        metadata: further plain values for ``run.json``.

    Raises:
        InputError: the folder holds files already, or cannot be written.
    """
    path, config_text = Path(path), config.to_yaml()
    try:
        path.mkdir(parents=True, exist_ok=True)
        occupied = {item.name for item in path.iterdir() if not item.name.endswith(PARTIAL_SUFFIX)}
        if occupied == {"config.yaml"} and read_bytes(path / "config.yaml") == config_text.encode():
            occupied = set()  # the same run, killed before it wrote run.json
    except OSError as error:
        raise file_error("written", path, error) from error
    if occupied:
        raise InputError(f"Folder {path} already holds files; continue its run with --resume or choose another --out.")
    record = {
        "format_version": FORMAT_VERSION,
        "versions": _versions(),
        "command": shlex.join(sys.argv),
        "seed": seed,
        "data_fingerprint": data_fingerprint,
        "config_sha256": hashlib.sha256(config_text.encode()).hexdigest(),
        "metadata": dict(metadata or {}),
    }
    write_text_atomic(path / "config.yaml", config_text)
    write_text_atomic(path / "run.json", json.dumps(record, indent=2) + "\n")  # last: it makes the folder a run
    return RunFolder(path, config, record)


def open_run(path: str | Path) -> RunFolder:
    """Read the configuration and record of a run folder; changes nothing in it.

    Raises:
        InputError: it is no run folder, was written by another format version, or a file in it was changed or damaged.
    """
    path = Path(path)
    if not (path / "run.json").is_file():
        raise InputError(f"{path} is not a run folder (it has no run.json); give the --out folder of an earlier run.")
    try:
        record = json.loads(read_bytes(path / "run.json"))
        version, config_sha256 = record["format_version"], record["config_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFileError(f"{path / 'run.json'} is damaged; restore it from a copy or start a new run.") from error
    if version != FORMAT_VERSION:
        writer = record.get("versions", {}).get("bnn_jax", "unknown")
        raise InputError(
            f"{path} has run format {version} (bnn_jax {writer}) and this version reads format {FORMAT_VERSION}; "
            "use the version that wrote it, or start a new run."
        )
    if hashlib.sha256(read_bytes(path / "config.yaml")).hexdigest() != config_sha256:
        raise DamagedFileError(
            f"{path / 'config.yaml'} is not as the run wrote it; undo the change, or start a new run with --config."
        )
    return RunFolder(path, Config.from_yaml(path / "config.yaml"), record)


def save_checkpoint(run: RunFolder, step: int, tree: Any) -> Path:
    """Write ``checkpoint-<step>.safetensors`` and keep only the last two up to this step; the path is returned.

    A run has one writer: temporary files that an earlier, killed one left behind are removed.

    Raises:
        InputError: the file cannot be written; the earlier checkpoints are intact.
    """
    path = run.path / f"checkpoint-{step}.safetensors"
    for partial in run.path.glob(f".*{PARTIAL_SUFFIX}"):  # first, since they may be what fills the disk
        partial.unlink(missing_ok=True)
    save_tree(path, tree, {"step": str(step)})
    older = [each for each in _checkpoint_steps(run.path) if each <= step]
    for old in older[:-NUM_CHECKPOINTS_KEPT]:
        (run.path / f"checkpoint-{old}.safetensors").unlink(missing_ok=True)
    return path


def latest_checkpoint(run: RunFolder, like: Any) -> tuple[int, Any]:
    """Step and tree of the newest sound checkpoint; a damaged one is passed over with a warning in the log.

    Args:
        run: the run to continue.
        like: a tree of the structure that was saved, as :func:`load_tree` takes it.

    Raises:
        InputError: there is no sound checkpoint, or it does not fit ``like``.
    """
    steps = _checkpoint_steps(run.path)
    for step in reversed(steps):
        path = run.path / f"checkpoint-{step}.safetensors"
        try:
            return step, load_tree(path, like)
        except DamagedFileError as error:
            _log.warning("%s Falling back to the checkpoint before it.", error)
    if steps:
        raise InputError(f"Every checkpoint in {run.path} is damaged; start the run again with another --out.")
    raise InputError(f"{run.path} holds no checkpoint to resume from; start the run again with another --out.")


def _checkpoint_steps(folder: Path) -> list[int]:
    names = (re.fullmatch(r"checkpoint-(\d+)\.safetensors", item.name) for item in folder.iterdir())
    return sorted(int(match[1]) for match in names if match)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions
