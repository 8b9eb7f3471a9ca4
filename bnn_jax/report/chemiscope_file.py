"""A file for the chemiscope viewer (https://chemiscope.org): structures, and rigidities as points to click on."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ase
import numpy as np

from bnn_jax.types import InputError

SUFFIXES = (".json", ".json.gz")


def viewer(path: Path) -> Any:
    """The chemiscope package, asked for before any work.

    Args:
        path: of the file that it is to write.

    Raises:
        InputError: it is not installed, or the file has a name that the viewer does not open.
    """
    if not path.name.endswith(SUFFIXES):
        raise InputError(f"{path} is no name for chemiscope; let it end with {' or '.join(SUFFIXES)}.")
    try:
        return importlib.import_module("chemiscope")
    except ImportError as error:
        raise InputError("chemiscope is not installed; pip install 'bnn_jax[chemiscope]'.") from error


def write_chemiscope(
    path: Path, frames: Sequence[ase.Atoms], rigidities: Mapping[str, np.ndarray], per_atom: bool, cutoff: float
) -> None:
    """Write structures and the logarithms of their rigidities, under another name first.

    Args:
        path: ``.json`` or ``.json.gz``.
        frames: the structures.
        rigidities: by name, in 1/eV^2, positive; infinite ones are shown as the largest that is finite.
        per_atom: whether there is one of each atom, not of each structure.
        cutoff: of the network, the radius of the environments that the viewer shows, in Angstrom.

    Raises:
        InputError: as :func:`viewer`.
    """
    chemiscope = viewer(path)
    target = "atom" if per_atom else "structure"
    counts = np.concatenate([frame.numbers for frame in frames]) if per_atom else np.array([len(f) for f in frames])
    properties = {f"log10 {name}, 1/eV²": {"target": target, "values": _log(each)} for name, each in rigidities.items()}
    properties["atomic number" if per_atom else "number of atoms"] = {"target": target, "values": counts}
    structures = [ase.Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc) for frame in frames]
    part = path.with_name(f".part-{path.name}")
    chemiscope.write_input(
        str(part),
        structures,
        properties=properties,
        environments=chemiscope.all_atomic_environments(structures, cutoff) if per_atom else None,
        metadata={"name": "Prediction rigidities"},
    )
    part.replace(path)


def _log(rigidities: np.ndarray) -> np.ndarray:
    finite = rigidities[np.isfinite(rigidities)]
    return np.log10(np.minimum(rigidities, finite.max() if finite.size else 1.0))
