"""Finished pieces of an experiment on disk, and where all was measured."""

import json
import os
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import mean
from typing import Any

from bnn_jax import InputError
from bnn_jax.checkpoint import write_text_atomic
from bnn_jax.report import to_json

PACKAGES = ("bnn_jax", "numpy", "scipy", "e3nn-jax", "featomic", "tblite")


def finished(path: Path, known: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A piece of the results: read where it is on disk, else made and written.

    Args:
        path: of the piece.
        known: the settings that it follows from; kept with it.
        make: computes the rest.

    Raises:
        InputError: the piece on disk follows from other settings.
    """
    known = json.loads(to_json(known))  # as it will be read
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(path, to_json(known | make()))
    found = json.loads(path.read_text())
    if differing := [key for key, value in known.items() if found.get(key) != value]:
        raise InputError(f"{path} has another {differing[0]}; choose another --out.")
    return found


def read_results(out: Path) -> dict[str, Any]:
    """The numbers behind the figures.

    Raises:
        InputError: there are none.
    """
    path = out / "results.json"
    if not path.is_file():
        raise InputError(f"{path} does not exist; run the experiment without --table-only first.")
    return json.loads(path.read_text())


def environment() -> str:
    """Processor and versions in one line."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    versions = [f"{name} {_version(name)}" for name in PACKAGES]
    return f"{cpu}, {os.cpu_count()} cores; Python {platform.python_version()}, {', '.join(versions)}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def mean_and_range(values: Sequence[float], form: str) -> str:
    """Mean over seeds, with the least and greatest where there are several."""
    text = format(mean(values), form)
    return text if len(values) < 2 else f"{text} ({min(values):{form}} to {max(values):{form}})"
