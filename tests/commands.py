"""What tests of the command line share: tiny settings, files and folders."""

import os
from pathlib import Path

import ase.io
import jax
from ase import Atoms
from systems import ammonia, labelled_series

MODEL = {"num_blocks": 1, "num_features": 4, "l_max": 0, "radial_hidden": [8], "std_hidden": [8]}
SAMPLER = {
    "convergence_steps": 12,
    "cycle_steps": 4,
    "num_samples": 4,
    "num_chains": 1,
    "batch_size": 5,
    "log_every": 4,
}
SETTINGS = [
    part
    for section, values in (("model", MODEL), ("sampler", SAMPLER))
    for key, value in values.items()
    for part in ("--set", f"{section}.{key}={value}")
]


def write(path: Path, structures: list[Atoms]) -> str:
    ase.io.write(path, structures, format="extxyz")
    return str(path)


def write_ammonia(folder: Path) -> dict[str, str]:
    """A training and a test file with springs between the atoms of ammonia: labels that cost nothing."""
    return {
        "train": write(folder / "train.xyz", labelled_series(ammonia(), 20)),
        "test": write(folder / "test.xyz", labelled_series(ammonia(), 3, seed=50)),
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def environment() -> dict[str, str]:
    """Of a user's shell, but for the compilation cache, which is that of the tests."""
    inherited = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}  # set by JAX here
    seconds = jax.config.jax_persistent_cache_min_compile_time_secs
    return inherited | {
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": str(seconds),
    }
