"""Labels on disk: one file each, named by geometry and level of theory, written whole by whoever computed it."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ase
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress
from jaxtyping import Float

from bnn_jax.checkpoint import DamagedFileError, write_text_atomic

RESOLUTION = 1e-8
"""In Angstrom: structures whose coordinates agree to this are one."""


class Label(NamedTuple):
    """What an oracle says of a structure."""

    energy: float
    """In eV."""
    forces: Float[np.ndarray, "atom 3"]
    """In eV/Angstrom."""
    stress: Float[np.ndarray, "3 3"] | None
    """In eV/Angstrom^3, positive under tension; None where the level has none, or the structure no cell."""
    seconds: float
    """That it took."""


class Failure(NamedTuple):
    """A structure that could not be labelled."""

    reason: str


class LabelStore:
    """A folder of labels, of one level of theory or several.

    Every record is a file of its own, which a rename puts in its place: whoever is killed, driver or worker, leaves all
    records whole, and no two of one structure. Structures that could not be labelled are kept aside, with the reason.

    Args:
        path: of the folder, made if it is not there.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        for folder in (self._done, self._failed, self._partial):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def _done(self) -> Path:
        return self.path / "labels"

    @property
    def _failed(self) -> Path:
        return self.path / "failed"

    @property
    def _partial(self) -> Path:
        return self.path / "partial"

    def get(self, atoms: ase.Atoms, level: str) -> Label | Failure | None:
        """What is known of a structure at a level of theory; None where nothing is.

        Raises:
            DamagedFileError: the record is not what was written.
        """
        name = f"{key(atoms, level)}.json"
        if (self._done / name).exists():
            return _label(_read(self._done / name))
        return Failure(_read(self._failed / name)["reason"]) if (self._failed / name).exists() else None

    def put(self, atoms: ase.Atoms, level: str, found: Label | Failure) -> None:
        """Keep a label, or a structure without one.

        Raises:
            InputError: it cannot be written.
        """
        name, described = f"{key(atoms, level)}.json", _described(atoms, level)
        if isinstance(found, Failure):
            self._write(self._failed / name, described | {"reason": found.reason})
            return
        stress = None if found.stress is None else found.stress.tolist()
        record = {"energy": found.energy, "forces": found.forces.tolist(), "stress": stress, "seconds": found.seconds}
        self._write(self._done / name, described | record)

    def forget_failures(self) -> None:
        """Let structures that were kept aside be tried again."""
        for file in self._failed.glob("*.json"):
            file.unlink(missing_ok=True)

    def labelled(self, level: str | None = None) -> Iterator[ase.Atoms]:
        """Every labelled structure, by its name, with ``level`` in its ``info``.

        Args:
            level: of theory; None for all.

        Raises:
            DamagedFileError: a record is not what was written.
        """
        for file in sorted(self._done.glob("*.json")):
            record = _read(file)
            if level is None or record["level"] == level:
                yield labelled(_atoms(record), _label(record), record["level"])

    def failures(self) -> Iterator[tuple[ase.Atoms, str]]:
        """Structures without a label, and why."""
        for file in sorted(self._failed.glob("*.json")):
            record = _read(file)
            yield _atoms(record), record["reason"]

    def __len__(self) -> int:
        return sum(1 for _ in self._done.glob("*.json"))

    def _write(self, file: Path, record: Mapping[str, Any]) -> None:
        # By a name that no other process has: two that label one structure do not write into one file.
        own = self._partial / f"{os.getpid()}-{file.name}"
        write_text_atomic(own, json.dumps(record))
        os.replace(own, file)


def labelled(atoms: ase.Atoms, label: Label, level: str) -> ase.Atoms:
    """A copy of a structure with its label, as :func:`bnn_jax.load` takes it, and the level of theory in its ``info``.

    Args:
        atoms: the structure.
        label: of it.
        level: of theory.
    """
    copy = ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info={"level": level})
    stress = {} if label.stress is None else {"stress": full_3x3_to_voigt_6_stress(label.stress)}
    copy.calc = SinglePointCalculator(copy, energy=label.energy, forces=label.forces, **stress)
    return copy


def key(atoms: ase.Atoms, level: str) -> str:
    """Name of a structure at a level of theory: of what it is made of, where, in which cell.

    Args:
        atoms: the structure.
        level: of theory.
    """
    digest = hashlib.sha256(f"{level}\n{atoms.numbers.tolist()} {atoms.pbc.tolist()}\n".encode())
    for values in (atoms.positions, np.where(atoms.pbc.any(), atoms.cell.array, 0.0)):
        digest.update(np.rint(values / RESOLUTION).astype("<i8").tobytes())
    return digest.hexdigest()[:32]


def _described(atoms: ase.Atoms, level: str) -> dict[str, Any]:
    return {
        "level": level,
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.array.tolist(),
        "pbc": atoms.pbc.tolist(),
    }


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise DamagedFileError(
            f"{file} is no label that can be read ({error}); delete it, and it is made again."
        ) from error


def _atoms(record: Mapping[str, Any]) -> ase.Atoms:
    return ase.Atoms(**{name: record[name] for name in ("numbers", "positions", "cell", "pbc")})


def _label(record: Mapping[str, Any]) -> Label:
    stress = None if record["stress"] is None else np.asarray(record["stress"])
    return Label(record["energy"], np.asarray(record["forces"]).reshape(-1, 3), stress, record["seconds"])
