"""Data sets of the committee and learning experiments, how networks are trained on them, and what both record."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import least_squares
import numpy as np

import bnn_jax
from bnn_jax import Config, Dataset, InputError, Posterior

SPLIT_SEED = 0
"""Validation set, folds and subsets are the same for every seed."""
NUM_VALID = 100


class System(NamedTuple):
    """A data set and how a network is trained on it."""

    title: str
    folder: str
    """Below the reference data."""
    tests: dict[str, str]
    """Names of the test sets and of their files."""
    bin_size: int
    """Structures in a bin of figure 1, as in the paper: 50 of a large test set, 25 of a small one."""
    forces: bool
    """Whether there are forces."""
    trainer: dict[str, Any]
    num_features: int

    def file(self, name: str) -> str:
        """Where one of its files lies below the reference data."""
        return f"{self.folder}/{name}.xyz.gz"

    @property
    def files(self) -> list[str]:
        """All of them."""
        return [self.file(name) for name in ("train", *self.tests.values())]


SYSTEMS = {
    "qm9": System(
        "QM9 subset", "qm9_subset", {"test": "test"}, 25, False, {"num_steps": 1500, "forces_weight": 0.0}, 32
    ),
    "ethanol": System("rMD17 ethanol", "rmd17/ethanol", {"test": "test"}, 50, True, {"num_steps": 5000}, 32),
    "silica": System(
        "silica zeolites",
        "silica_zeolite",
        {"test": "test", "unseen": "test_unseen_frameworks"},
        25,
        True,
        {"num_steps": 2000, "batch_size": 4},
        16,
    ),
}
MODEL = {"num_blocks": 2, "l_max": 1, "cutoff": 4.0, "radial_hidden": [16]}
TRAINER = {"learning_rate": 1e-2, "energy_weight": 1.0, "forces_weight": 1.0, "batch_size": 10}


def read_train(system: System, data: Path, num_valid: int, num_structures: int | None) -> tuple[Dataset, Dataset]:
    """Training and validation set of a system.

    Args:
        system: whose file to read.
        data: folder of all data sets.
        num_valid: structures to validate on.
        num_structures: of both together, the first so many after shuffling; None for all.

    Raises:
        InputError: the file holds too few structures.
    """
    whole = bnn_jax.load(data / system.file("train"))
    num = min(len(whole), num_structures or len(whole))
    train, valid = whole.split(train=num - num_valid, valid=num_valid, seed=SPLIT_SEED)
    return train, valid


def configuration(system: System, num_steps: int | None, num_features: int | None) -> Config:
    """Of the network and its training; None for the system's own."""
    trainer = TRAINER | system.trainer
    trainer["num_steps"] = num_steps or trainer["num_steps"]
    trainer["log_every"] = max(1, trainer["num_steps"] // 10)
    model = MODEL | {"num_features": num_features or system.num_features}
    return Config.from_dict({"method": least_squares.NAME, "model": model, "trainer": trainer})


def load_network(file: Path, train: Dataset, config: Config, seed: int) -> Posterior:
    """Read networks that were trained before, and see that they are the ones meant.

    Args:
        file: of :meth:`bnn_jax.Posterior.save`, or its folder.
        train: what they are to have been trained on.
        config: likewise; what the training set fills in is not compared.
        seed: likewise.

    Raises:
        InputError: they are of other data, another configuration or another seed.
    """
    posterior = Posterior.load(file)
    filled = {name: getattr(config.model, name) for name in ("species", "avg_num_neighbors", "scale")}
    same_config = dataclasses.replace(posterior.config.model, **filled) == config.model
    same_config &= posterior.config.trainer == config.trainer and posterior.config.method == config.method
    if not (same_config and posterior.seed == seed and np.array_equal(posterior.train_hashes, train.hashes())):
        raise InputError(f"{file} has another network; choose another --out.")
    return posterior


def trained(
    train: Dataset, valid: Dataset, config: Config, seed: int, folder: Path, progress: bool = True
) -> Posterior:
    """A network, which the folder holds afterwards; it is not trained again where it was.

    Raises:
        InputError: the folder has a network of other data, another configuration or another seed.
    """
    if (folder / "posterior.safetensors").exists():
        return load_network(folder, train, config, seed)
    return bnn_jax.fit(train, valid, config, seed, folder, resume=True, progress=progress)


def rounded(value: Any, digits: int = 6) -> Any:
    """Numbers to so many significant digits, for a file that is read by eye too."""
    if isinstance(value, Mapping):
        return {key: rounded(each, digits) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each, digits) for each in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value
