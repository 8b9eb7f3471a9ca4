"""The Bayesian neural network on rMD17, after table 4 of Rensmeyer et al., Digital Discovery 3, 2356 (2024).

From the repository's root::

    python experiments/rmd17/run.py --molecule ethanol

A killed run continues when it is started again; what is finished is not computed twice.
"""

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, get_args

# XLA runs the small arrays of one chain on one core: each core is a device. The choice must precede JAX.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(os.cpu_count()))

import jax
import numpy as np
from tables import read_results, tables

import bnn_jax
from bnn_jax.checkpoint import write_text_atomic
from bnn_jax.config import PresetName
from bnn_jax.report import assess, to_json

SPLIT_SEED = 0
"""The parts are the same for every seed, as the paper's are for both of its models."""
NUM_TRAIN, NUM_VALID, NUM_TEST = 970, 30, 1000
SUFFIXES = ("xyz.gz", "xyz", "extxyz", "npz")


class Parts(NamedTuple):
    """The data of the experiment."""

    train: bnn_jax.Dataset
    valid: bnn_jax.Dataset
    test: bnn_jax.Dataset


def read_parts(
    molecule: str,
    folder: Path | None,
    num_train: int = NUM_TRAIN,
    num_valid: int = NUM_VALID,
    num_test: int = NUM_TEST,
) -> Parts:
    """Training, validation and test set: from a folder's ``train`` and ``test`` files, else drawn from public rMD17.

    Raises:
        InputError: a file is missing or holds too few structures, or the download fails.
    """
    if folder is None:
        return Parts(
            *bnn_jax.load(f"rmd17/{molecule}").split(train=num_train, valid=num_valid, test=num_test, seed=SPLIT_SEED)
        )
    train, valid = _read(folder, "train").split(train=num_train, valid=num_valid, seed=SPLIT_SEED)
    (test,) = _read(folder, "test").split(test=num_test, seed=SPLIT_SEED)
    return Parts(train, valid, test)


def _read(folder: Path, name: str) -> bnn_jax.Dataset:
    for suffix in SUFFIXES:
        if (folder / f"{name}.{suffix}").is_file():
            return bnn_jax.load(folder / f"{name}.{suffix}", require_labels=True)
    raise bnn_jax.InputError(f"{folder} holds no {name}.{{{','.join(SUFFIXES)}}}; check --data.")


def default_folder(molecule: str) -> Path | None:
    """The molecule's folder in the reference data, where ``BNN_JAX_TEST_DATA`` names them."""
    root = os.environ.get("BNN_JAX_TEST_DATA")
    folder = Path(root) / "rmd17" / molecule if root else None
    return folder if folder is not None and folder.is_dir() else None


def first_samples(posterior: bnn_jax.Posterior, count: int) -> bnn_jax.Posterior:
    """The first ``count`` samples, taking turns over the chains: each chain's first, then each one's second."""
    order = np.arange(posterior.num_samples).reshape(posterior.num_chains, -1).T.reshape(-1)[:count]
    chosen = jax.tree.map(lambda leaf: leaf[order], posterior.samples)
    return dataclasses.replace(posterior, samples=chosen, num_chains=1)


def score_all(posterior: bnn_jax.Posterior, test: bnn_jax.Dataset, plots: Path) -> dict[str, dict[str, float]]:
    """Figures with the first 1, 2, 4, ... and with all samples; the plots show all."""
    counts = [2**i for i in range(posterior.num_samples.bit_length()) if 2**i < posterior.num_samples]
    scores = {str(count): bnn_jax.evaluate(first_samples(posterior, count), test) for count in counts}
    return scores | {str(posterior.num_samples): assess(posterior, test, plots)}


def run_seed(
    seed: int, parts: Parts, config: bnn_jax.Config, out: Path, description: dict[str, Any], progress: bool = True
) -> None:
    """Fit, evaluate and write ``results-seed-<seed>.json``; nothing is done where that file is there already.

    Raises:
        InputError: the folder holds results of another molecule, preset or data.
        DivergenceError: the chain's state is no longer finite.
    """
    path = out / f"results-seed-{seed}.json"
    known = {
        **description,
        "seed": seed,
        **{f"num_{name}": len(part) for name, part in parts._asdict().items()},
        "data": {name: part.fingerprint() for name, part in parts._asdict().items()},
        "config": config.to_dict(),
    }
    if path.exists():
        (found,) = (result for result in read_results(out) if result["seed"] == seed)
        if differing := [key for key, value in known.items() if found.get(key) != value]:
            raise bnn_jax.InputError(f"{path} has another {differing[0]}; choose another --out.")
        print(f"seed {seed}: finished before", flush=True)
        return
    posterior, timing = fit_timed(seed, parts, config, out / f"seed-{seed}", progress)
    scores = score_all(posterior, parts.test, out / f"seed-{seed}" / "plots")
    write_text_atomic(path, to_json(known | timing | {"scores": scores}))


def fit_timed(
    seed: int, parts: Parts, config: bnn_jax.Config, folder: Path, progress: bool
) -> tuple[bnn_jax.Posterior, dict[str, Any]]:
    """The posterior, and how long the process that finished it took, which outlives a kill during the evaluation."""
    resumed = (folder / "run.json").exists()
    print(f"seed {seed}: {'continuing' if resumed else 'fitting'}", flush=True)
    start = time.perf_counter()
    posterior = bnn_jax.fit(parts.train, parts.valid, config, seed, folder, resume=True, progress=progress)
    timing = {
        "fit_seconds": time.perf_counter() - start,
        "fit_resumed": resumed,
        "environment": environment(),
    }
    path = folder / "fit.json"
    if not path.exists():
        write_text_atomic(path, to_json(timing))
    return posterior, json.loads(path.read_text())


def run(
    seeds: Iterable[int], parts: Parts, config: bnn_jax.Config, out: Path, description: dict[str, Any], progress: bool
) -> str:
    """Every seed, and the tables after each, so that a long experiment shows what it has."""
    out.mkdir(parents=True, exist_ok=True)
    text = ""
    for seed in seeds:
        run_seed(seed, parts, config, out, description, progress)
        text = write_tables(out)
    return text


def write_tables(out: Path) -> str:
    """Rebuild ``table.md`` from the results in the folder.

    Raises:
        InputError: there are none.
    """
    text = tables(read_results(out))
    write_text_atomic(out / "table.md", text)
    return text


def environment() -> str:
    """Device and versions in one line; a time without them says nothing."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    device = jax.devices()[0]
    where = cpu if device.platform == "cpu" else f"{device.device_kind} beside {cpu}"
    versions = ", ".join(f"{name} {version(name)}" for name in ("bnn_jax", "jax"))
    return f"{where}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--molecule", default="ethanol")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--preset", choices=get_args(PresetName), default="small")
    parser.add_argument("--data", type=Path, help="folder of train.xyz and test.xyz; default: download rMD17")
    parser.add_argument("--train", type=int, default=NUM_TRAIN, help="structures to train on")
    parser.add_argument("--valid", type=int, default=NUM_VALID, help="structures to validate on")
    parser.add_argument("--test", type=int, default=NUM_TEST, help="structures to test on")
    parser.add_argument("--out", type=Path, help="default: runs/rmd17-<molecule>-<preset>")
    parser.add_argument("--table-only", action="store_true", help="rebuild the tables from the results in --out")
    options = parser.parse_args(arguments)
    out = options.out or Path("runs") / f"rmd17-{options.molecule}-{options.preset}"
    if options.table_only:
        print(write_tables(out))
        return
    folder = options.data or default_folder(options.molecule)
    parts = read_parts(options.molecule, folder, options.train, options.valid, options.test)
    description = {"molecule": options.molecule, "preset": options.preset}
    config = bnn_jax.Config.preset(options.preset)
    print(run(options.seeds, parts, config, out, description, progress=True))


if __name__ == "__main__":
    try:
        main()
    except bnn_jax.InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
