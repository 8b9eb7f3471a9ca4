"""Disjoint parts of a data set, drawn at random or given."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from bnn_jax.atoms.npz import read_array
from bnn_jax.types import InputError

Part = float | int | str | Path | Sequence[int] | np.ndarray
"""A fraction in (0, 1), a number of structures, the path of a file of indices, or indices."""


def split_indices(size: int, parts: Mapping[str, Part], seed: int) -> list[Int[np.ndarray, " part"]]:
    """Indices of each part, in the order of ``parts``.

    Parts given as indices are taken first; the others are drawn, in order, from what is left.

    Args:
        size: of the data set.
        parts: what to take, by name.
        seed: of the draw.

    Raises:
        InputError: a part is malformed, overlaps another, or asks for more than there is.
    """
    given = {
        name: _read_indices(name, part, size)
        for name, part in parts.items()
        if not isinstance(part, int | float | np.number)
    }
    taken = np.concatenate([np.zeros(0, np.int64), *given.values()])
    values, counts = np.unique(taken, return_counts=True)
    if (counts > 1).any():
        names = " and ".join(given)
        raise InputError(f"Split: structure {values[counts > 1][0]} is taken twice in {names}; give disjoint indices.")
    drawn = np.random.default_rng(seed).permutation(np.setdiff1d(np.arange(size), taken))
    wanted = {
        name: _count(name, part, size) for name, part in parts.items() if isinstance(part, int | float | np.number)
    }
    if sum(wanted.values()) > len(drawn):
        asked = ", ".join(f"{count} for {name}" for name, count in wanted.items())
        raise InputError(f"Split asks for {asked}, but only {len(drawn)} structures are left of {size}; ask for fewer.")
    ends = dict(zip(wanted, np.cumsum(list(wanted.values())), strict=True))
    return [given[name] if name in given else drawn[ends[name] - wanted[name] : ends[name]] for name in parts]


def _count(name: str, part: int | float | np.number, size: int) -> int:
    if not isinstance(part, int | np.integer):
        if not 0 < float(part) < 1:
            raise InputError(
                f"Split: {name}={part} is no fraction between 0 and 1; a number of structures is an integer."
            )
        count = int(float(part) * size + 1e-9)  # rounds down, so that fractions that add up to one always fit
    else:
        count = int(part)
    if count < 1:
        raise InputError(f"Split: {name}={part} of {size} structures takes none; ask for more.")
    return count


def _read_indices(name: str, part: str | Path | Sequence[int] | np.ndarray, size: int) -> Int[np.ndarray, " part"]:
    if isinstance(part, str | Path):
        path = Path(part)
        where = f"Split: {name} file {path}"
        try:
            values = (
                _read_npy(path) if path.suffix == ".npy" else np.array(path.read_text().replace(",", " ").split(), int)
            )
        except OSError as error:
            raise InputError(f"{where} cannot be read ({error.strerror or error}); check the path.") from error
        except Exception as error:  # what is no list of integers, or damaged, fails in many ways
            raise InputError(f"{where} does not hold one index a line; correct it.") from error
    else:
        where, values = f"Split: {name}", np.asarray(part)
    if values.ndim != 1 or values.dtype.kind not in "iu" or len(values) == 0:
        raise InputError(f"{where} must be a non-empty list of integers, not {values.dtype} of shape {values.shape}.")
    if values.min() < 0 or values.max() >= size:
        wrong = values[(values < 0) | (values >= size)][0]
        raise InputError(f"{where} holds index {wrong}, but there are {size} structures (0 to {size - 1}); correct it.")
    return values.astype(np.int64)


def _read_npy(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        return read_array(file, path.stat().st_size)
