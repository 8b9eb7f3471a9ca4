"""Whether training, validation and test set go together."""

import warnings
from collections.abc import Mapping

import numpy as np
from ase.data import chemical_symbols

from bnn_jax.atoms.checks import check_complete
from bnn_jax.atoms.dataset import Dataset
from bnn_jax.types import InputError, InputWarning


def check_parts(train: Dataset, others: Mapping[str, Dataset], allow_missing_labels: bool = False) -> None:
    """Refuse sets that cannot be used together, and warn of structures that occur twice.

    Args:
        train: training set.
        others: sets that are to judge it, by name, such as ``valid``.
        allow_missing_labels: consent to structures that lack labels which others of their set have.

    Raises:
        InputError: another set holds an element that the training set lacks, or structures lack labels.
    """
    if not allow_missing_labels:
        for name, part in {"train": train, **others}.items():
            numbers = np.arange(len(part))
            check_complete(part.energy, part.forces, part.stress, part.num_atoms, part.pbc, numbers, f"{name} set")
    check_elements(train, others)
    hashes = train.hashes()
    _, first = np.unique(hashes, return_index=True)
    repeats = np.setdiff1d(np.arange(len(hashes)), first)
    if len(repeats):
        _warn(
            f"{len(repeats)} of {len(hashes)} training structures are there already (first: structure {repeats[0]}) and"
            " count twice; remove them if that is not meant."
        )
    for name, part in others.items():
        shared = np.flatnonzero(np.isin(part.hashes(), hashes))
        if len(shared):
            _warn(
                f"{len(shared)} of {len(part)} structures of the {name} set are training structures too (first:"
                f" structure {shared[0]}), so that its errors come out too small; remove them from one of the sets."
            )


def check_elements(train: Dataset, others: Mapping[str, Dataset]) -> None:
    """Refuse sets with elements that the training set lacks.

    Args:
        train: training set.
        others: by name.

    Raises:
        InputError: with the first structure that has one.
    """
    for name, part in others.items():
        unknown = sorted(set(part.species) - set(train.species))
        if unknown:
            structure = part.structure_index[part.numbers == unknown[0]][0]
            raise InputError(
                f"Structure {structure} of the {name} set holds {chemical_symbols[unknown[0]]}, which no training"
                " structure has; remove it, or train on data with that element."
            )


def _warn(text: str) -> None:
    warnings.warn(InputWarning(text), stacklevel=4)
