"""The folder of a run: its configuration, its record and the checkpoints from which it resumes."""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import logging
import platform
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from bnn_jax.checkpoint.files import PARTIAL_SUFFIX, DamagedFileError, file_error, read_bytes, write_text_atomic
from bnn_jax.checkpoint.tree import load_tree, read_metadata, save_tree
from bnn_jax.config import Config
from bnn_jax.types import InputError

FORMAT_VERSION = 3
"""Version of the layout of a run folder; raised when older code could not read what newer code writes."""
NUM_CHECKPOINTS_KEPT = 2
LOCK_FILE = ".lock"
MAX_RECORD_BYTES = 10_000_000
"""No run.json of ours comes near this; a stranger's is not read beyond it."""

_PACKAGES = ("bnn_jax", "jax", "jaxlib", "flax", "e3nn-jax")
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
    refuse_occupied(path, config)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise file_error("written", path, error) from error
    record = {
        "format_version": FORMAT_VERSION,
        "versions": _versions(),
        "environment": environment(),
        "command": shlex.join(sys.argv),
        "seed": seed,
        "data_fingerprint": data_fingerprint,
        "config_sha256": hashlib.sha256(config_text.encode()).hexdigest(),
        "metadata": dict(metadata or {}),
    }
    write_text_atomic(path / "config.yaml", config_text)
    write_text_atomic(path / "run.json", json.dumps(record, indent=2) + "\n")  # last: it makes the folder a run
    return RunFolder(path, config, record)


def refuse_occupied(path: str | Path, config: Config) -> None:
    """Refuse a folder into which no new run can go; nothing is written.

    Raises:
        InputError: it is a file, or holds files, or cannot be read.
    """
    path = Path(path)
    if not path.exists():
        return
    try:
        occupied = {item.name for item in path.iterdir() if not is_leftover(item)}
        if occupied == {"config.yaml"} and read_bytes(path / "config.yaml") == config.to_yaml().encode():
            return  # the same run, killed before it wrote run.json
    except OSError as error:
        raise file_error("written", path, error) from error
    if occupied:
        raise InputError(f"Folder {path} already holds files; continue its run with --resume or choose another --out.")


def open_run(path: str | Path) -> RunFolder:
    """Read the configuration and record of a run folder; changes nothing in it.

    Raises:
        InputError: it is no run folder, was written by another format version, or a file in it was changed or damaged.
    """
    path = Path(path)
    _refuse_links(path)
    if not (path / "run.json").is_file():
        raise InputError(f"{path} is not a run folder (it has no run.json); give the --out folder of an earlier run.")
    try:
        if (path / "run.json").stat().st_size > MAX_RECORD_BYTES:
            raise ValueError("too large")
        record = json.loads(read_bytes(path / "run.json"))
        version, config_sha256 = record["format_version"], record["config_sha256"]
        config_sha256_before = record.get("config_sha256_before")
        versions = record["versions"]
        kinds = {"versions": dict, "environment": dict, "metadata": dict, "seed": int, "data_fingerprint": str}
        if not all(isinstance(record[key], kind) for key, kind in kinds.items()):
            raise TypeError("an entry of another kind")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedFileError(f"{path / 'run.json'} is damaged; restore it from a copy or start a new run.") from error
    if version != FORMAT_VERSION:
        writer = str(versions.get("bnn_jax", "unknown"))[:20]
        raise InputError(
            f"{path} has run format {version!s:.20} (bnn_jax {writer}) and this version reads format {FORMAT_VERSION};"
            " use the version that wrote it, or start a new run."
        )
    if hashlib.sha256(read_bytes(path / "config.yaml")).hexdigest() not in (config_sha256, config_sha256_before):
        raise DamagedFileError(
            f"{path / 'config.yaml'} is not as the run wrote it; undo the change, or start a new run with --config."
        )
    return RunFolder(path, Config.from_yaml(path / "config.yaml"), record)


def extend_run(run: RunFolder, config: Config) -> RunFolder:
    """Write the configuration of a longer run into a run folder, which is the same run from then on.

    Killed in between, the folder is the run that it was.

    Args:
        run: to be extended.
        config: of the longer run.

    Raises:
        InputError: the folder cannot be written.
    """
    config_text = config.to_yaml()
    said = {"command": shlex.join(sys.argv), "versions": _versions(), "environment": environment()}
    record = run.record | {
        "config_sha256": hashlib.sha256(config_text.encode()).hexdigest(),
        "config_sha256_before": hashlib.sha256(read_bytes(run.path / "config.yaml")).hexdigest(),
        "extensions": [*run.record.get("extensions", []), said],
    }
    write_text_atomic(run.path / "run.json", json.dumps(record, indent=2) + "\n")  # first: it knows both
    write_text_atomic(run.path / "config.yaml", config_text)
    return RunFolder(run.path, config, record)


def save_checkpoint(run: RunFolder, step: int, tree: Any, metadata: Mapping[str, str] | None = None) -> Path:
    """Write ``checkpoint-<step>.safetensors`` and keep only it and the one before; the path is returned.

    Args:
        run: that it is of.
        step: of the run.
        tree: to save.
        metadata: short texts that say what shapes it has.

    A run has one writer: temporary files that an earlier, killed one left behind are removed, and so are checkpoints
    of later steps, which belong to what the run has gone back from.

    Raises:
        InputError: the file cannot be written; the earlier checkpoints are intact.
    """
    path = run.path / f"checkpoint-{step}.safetensors"
    for partial in run.path.glob(f".*{PARTIAL_SUFFIX}"):  # first, since they may be what fills the disk
        partial.unlink(missing_ok=True)
    save_tree(path, tree, {"step": str(step)} | dict(metadata or {}))
    steps = _checkpoint_steps(run.path)
    kept = [each for each in steps if each <= step][-NUM_CHECKPOINTS_KEPT:]
    for each in set(steps) - set(kept):
        (run.path / f"checkpoint-{each}.safetensors").unlink(missing_ok=True)
    return path


def has_checkpoint(run: RunFolder) -> bool:
    """Whether the run has got as far as a checkpoint, sound or not."""
    return bool(_checkpoint_steps(run.path))


def latest_checkpoint(run: RunFolder, like_fn: Callable[[Mapping[str, str]], Any]) -> tuple[int, Any]:
    """Step and tree of the newest sound checkpoint; a damaged one is passed over with a warning in the log.

    Args:
        run: the run to continue.
        like_fn: of the metadata of a checkpoint, gives a tree of the structure that was saved, as :func:`load_tree`
            takes it.

    Raises:
        InputError: there is no sound checkpoint, or it does not fit that tree.
    """
    steps = _checkpoint_steps(run.path)
    for step in reversed(steps):
        path = run.path / f"checkpoint-{step}.safetensors"
        try:
            return step, load_tree(path, like_fn(read_metadata(path)))
        except DamagedFileError as error:
            _log.warning("%s Falling back to the checkpoint before it.", error)
    if steps:
        raise InputError(f"Every checkpoint in {run.path} is damaged; start the run again with another --out.")
    raise InputError(f"{run.path} holds no checkpoint to resume from; start the run again with another --out.")


@contextlib.contextmanager
def locked(run: RunFolder) -> Iterator[None]:
    """Hold the run for one writer; the lock goes with the process, however that ends.

    Raises:
        InputError: another process holds it.
    """
    try:
        handle = open(run.path / LOCK_FILE, "a")
    except OSError as error:
        raise file_error("written", run.path / LOCK_FILE, error) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{run.path} is being sampled by another process; wait for it, or choose another --out."
            ) from None
        except OSError as error:  # a file system without locks
            _log.debug("%s cannot be locked (%s)", run.path, error)
        yield


def is_leftover(path: Path) -> bool:
    """Whether a file in a run folder holds nothing: a lock, or what a killed writer left."""
    return path.name == LOCK_FILE or path.name.endswith(PARTIAL_SUFFIX)


def environment() -> dict[str, Any]:
    """What decides whether two processes give the same numbers bit for bit, besides the machine's kind of processor."""
    return {
        "platform": jax.default_backend(),
        "device_kind": jax.devices()[0].device_kind,
        "num_devices": len(jax.devices()),
        "num_processes": jax.process_count(),
        "jax": importlib.metadata.version("jax"),
        "jaxlib": importlib.metadata.version("jaxlib"),
    }


def _refuse_links(path: Path) -> None:
    """A run folder from a stranger must not write outside itself."""
    if path.is_dir():
        for item in path.rglob("*"):
            if item.is_symlink():
                raise InputError(f"{item} is a link, and what a run writes must stay in its folder; remove the link.")


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
