"""What the experiments have in common: the reference data, finished pieces on disk, and where all was measured."""

import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from statistics import mean
from typing import Any

import ase
import ase.io
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from PIL import Image

from bnn_jax import InputError
from bnn_jax.checkpoint import write_text_atomic
from bnn_jax.report import to_json

PACKAGES = ("bnn_jax", "jax", "numpy", "scipy", "ase", "featomic", "tblite", "openmm")
GRAMS_PER_CM3 = 1.66053906892
"""One atomic mass unit per cubic Angstrom."""


def data_folder(given: Path | None, needed: Sequence[str]) -> Path:
    """The folder of the reference data, checked.

    Args:
        given: by the user; the one that ``BNN_JAX_TEST_DATA`` names if None.
        needed: files below it.

    Raises:
        InputError: no folder is known, or a file is missing.
    """
    root = os.environ.get("BNN_JAX_TEST_DATA")
    folder = given or (Path(root) if root else None)
    if folder is None:
        raise InputError("The reference data are needed; give their folder by --data or BNN_JAX_TEST_DATA.")
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} holds no {missing[0]}; check --data.")
    return folder


def read_frames(path: Path) -> list[ase.Atoms]:
    """All structures of a file."""
    frames = ase.io.read(path, ":")
    assert isinstance(frames, list)
    return frames


def energies_per_atom(frames: Sequence[ase.Atoms]) -> Float[np.ndarray, " structure"]:
    """Labels, in eV/atom."""
    return np.array([frame.get_potential_energy() / len(frame) for frame in frames])


def densities(frames: Sequence[ase.Atoms]) -> Float[np.ndarray, " structure"]:
    """Mass densities, in g/cm^3."""
    return np.array([frame.get_masses().sum() / frame.get_volume() * GRAMS_PER_CM3 for frame in frames])


def finished(path: Path, known: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A piece of the results: read if it is on disk, else made and written.

    Args:
        path: of the piece.
        known: what it follows from; kept with it.
        make: computes the rest.

    Raises:
        InputError: the piece on disk follows from something else.
    """
    if (found := stored(path, known)) is not None:
        return found
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path, to_json(known | make()))
    return json.loads(path.read_text())


def stored(path: Path, known: Mapping[str, Any]) -> dict[str, Any] | None:
    """A piece of the results that is on disk already, None where it is not.

    Args:
        path: of the piece.
        known: what it must follow from.

    Raises:
        InputError: it follows from something else.
    """
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    plain = json.loads(to_json(dict(known)))  # as it was written
    if differing := [key for key, value in plain.items() if found.get(key) != value]:
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


def save_small(figure: Figure, path: Path) -> None:
    """Write a PNG of 128 colours, which is a third of the size and looks the same."""
    drawn = BytesIO()
    figure.savefig(drawn, format="png")
    drawn.seek(0)
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(128).save(path, optimize=True)


def run_command(main: Callable[[], None]) -> None:
    """Run a command line; what its user can mend ends it with a sentence and exit code 2."""
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def environment() -> str:
    """Processor and versions in one line; a time without them says nothing."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    versions = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    return f"{cpu}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def mean_and_range(values: Sequence[float], form: str) -> str:
    """Mean over seeds, with the least and greatest where there are several."""
    text = format(mean(values), form)
    return text if len(values) < 2 else f"{text} ({min(values):{form}} to {max(values):{form}})"
