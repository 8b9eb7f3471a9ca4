"""What every method does with the data before it begins: checks, statistics, packed arrays."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.graph import PackedData, batch_size_needed, gather_batch, pack
from bnn_jax.atoms.isolation import warn_of_isolated_atoms
from bnn_jax.atoms.parts import check_elements
from bnn_jax.atoms.statistics import Statistics
from bnn_jax.config import Config
from bnn_jax.methods.base import fill_model_config
from bnn_jax.types import Batch, InputError, Params, Potential

BATCHES_AT_START = 4
"""Minibatches that weights are adapted to, together: their features, of one network at a time, take less memory
than the step's derivatives of one."""


class Prepared(NamedTuple):
    """A training set, ready."""

    config: Config
    """With the model's data-dependent fields filled in."""
    statistics: Statistics
    packed: PackedData


def prepare(train: Dataset, valid: Dataset | None, config: Config) -> Prepared:
    """Check the data of a run and pack the training set.

    Args:
        train: training set.
        valid: validation set, if there is one.
        config: of the run.

    Raises:
        InputError: the training set has no label, or the validation set an element that it lacks.
    """
    if not np.isfinite(train.energy).any() and not np.isfinite(train.forces).any():
        raise InputError("The training set has no energy and no forces; give labelled structures or name their keys.")
    check_elements(train, {} if valid is None else {"valid": valid})
    statistics = train.statistics(config.model.cutoff)
    config = dataclasses.replace(config, model=fill_model_config(config.model, statistics))
    packed = pack(train, config.model.cutoff, statistics.species, statistics.shifts)
    warn_of_isolated_atoms(packed, config.model.cutoff)
    return Prepared(config, statistics, packed)


class Anchors(NamedTuple):
    """Training structures from all parts of the set, that weights are adapted to by ``Potential.start``, ``centre``."""

    indices: tuple[int, ...]
    sizes: tuple[int, int]
    """Of a batch of them."""

    def batch(self, packed: PackedData) -> Batch:
        """Their batch.

        Args:
            packed: training set, on the host or on a device.
        """
        return gather_batch(packed, np.asarray(self.indices, np.int32), *self.sizes)

    def centre_fn(self, potential: Potential) -> Callable[[Params, PackedData], Params]:
        """``(params, packed) -> params`` whose mean energy of these structures is right.

        Args:
            potential: whose parameters they are.
        """
        return lambda params, packed: potential.centre(params, self.batch(packed))


def choose_anchors(packed: PackedData, batch_size: int) -> Anchors:
    """Structures evenly from the first to the last.

    Args:
        packed: training set.
        batch_size: structures of a minibatch.
    """
    count = min(len(packed.energy), BATCHES_AT_START * batch_size)
    indices = np.linspace(0, len(packed.energy) - 1, count).round().astype(np.int32)
    return Anchors(tuple(indices.tolist()), batch_size_needed(packed, indices))


def check_batch_size(batch_size: int, train: Dataset, key: str) -> None:
    """Refuse minibatches larger than the training set.

    Args:
        batch_size: structures of a minibatch.
        train: training set.
        key: that the configuration has it under.

    Raises:
        InputError: they are.
    """
    if batch_size > len(train):
        raise InputError(f"{key} is {batch_size} and the training set has {len(train)} structures; lower it.")
