"""Files to frames: extended XYZ frame by frame, the .npz of rMD17 and sGDML, and whatever else ASE reads."""

import io
import itertools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
from ase.io.formats import open_with_compression

from bnn_jax.atoms.labels import Frame, Keys, frame_from_atoms
from bnn_jax.types import InputError

Index = str | int | slice

_NPZ_NAMES = {
    "numbers": ("nuclear_charges", "z"),
    "positions": ("coords", "R"),
    "energy": ("energies", "E", "energy"),
    "forces": ("forces", "F"),
}
_UNIT_ALIASES = {
    "ev": "eV",
    "mev": "meV",
    "kcal/mol": "kcal/mol",
    "kcalmol-1": "kcal/mol",
    "kcalmol^-1": "kcal/mol",
    "kj/mol": "kJ/mol",
    "kjmol-1": "kJ/mol",
    "hartree": "Hartree",
    "ha": "Hartree",
    "a.u.": "Hartree",
    "ang": "Angstrom",
    "angstrom": "Angstrom",
    "a": "Angstrom",
    "å": "Angstrom",
    "bohr": "Bohr",
    "nm": "nm",
}


def read_frames(path: Path, index: Index, keys: Keys) -> Iterator[tuple[int, Frame]]:
    """Number in the file and content of each frame that ``index`` selects, in the units of the file.

    Raises:
        InputError: the file is absent or cannot be read, with the frame where that happened.
    """
    if path.suffix == ".npz":
        frames = enumerate(_npz_frames(path, keys))
        return _select(frames, index, path)
    atoms = enumerate(_iterate(path))
    return ((i, frame_from_atoms(item, f"{path}, frame {i}", keys)) for i, item in _select(atoms, index, path))


def npz_units(path: Path) -> tuple[str, str]:
    """Energy and length unit of an .npz: ``e_unit`` and ``r_unit`` if stored, else those that the formats define.

    Raises:
        InputError: the file names a unit that is not known.
    """
    with _open_npz(path) as data:
        names = [data[key].item() if key in data else None for key in ("e_unit", "r_unit")]
    units = []
    for name, default in zip(names, ("kcal/mol", "Angstrom"), strict=True):
        text = default if name is None else name.decode() if isinstance(name, bytes) else str(name)
        alias = _UNIT_ALIASES.get("".join(text.split()).lower())
        if alias is None:
            raise InputError(f"{path}: unit {text!r} is not known; name it with energy_unit= or length_unit=.")
        units.append(alias)
    return units[0], units[1]


def _select(items: Iterator[Any], index: Index, path: Path) -> Iterator[Any]:
    selection = _parse_index(index, path)
    bounds = (selection.start, selection.stop, selection.step)
    if any(bound is not None and bound < 0 for bound in bounds):
        return iter(list(items)[selection])  # counted from the end, which must be found first
    return itertools.islice(items, *bounds)


def _parse_index(index: Index, path: Path) -> slice:
    if isinstance(index, slice):
        return index
    try:
        if ":" in str(index):
            return slice(*(int(text) if text.strip() else None for text in str(index).split(":")))
        return slice(int(index), int(index) + 1 or None)
    except (ValueError, TypeError):
        raise InputError(f"Index {index!r} of {path} is not understood; write it as '3', ':100' or '::10'.") from None


def _iterate(path: Path) -> Iterator[ase.Atoms]:
    name = path.name.removesuffix(path.suffix) if path.suffix in (".gz", ".bz2", ".xz") else path.name
    is_xyz = name.endswith((".xyz", ".extxyz"))
    frames = _iterate_extxyz(path) if is_xyz else ase.io.iread(path, ":")
    for i in itertools.count():
        try:
            yield next(frames)
        except StopIteration:
            return
        except InputError:
            raise
        except Exception as error:  # each of ASE's readers fails in its own way
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"{path}, frame {i} cannot be read ({reason}); correct or remove it.") from error


def _iterate_extxyz(path: Path) -> Iterator[ase.Atoms]:
    # ASE's own iterator scans the file before it yields, and then cannot say which frame is wrong.
    with open_with_compression(str(path), "rt") as file:
        while header := file.readline():
            if not header.strip():
                if file.read().strip():
                    raise ValueError("an empty line stands where the number of atoms should")
                return
            try:
                num_atoms = int(header)
            except ValueError:
                raise ValueError(f"{header.strip()[:40]!r} stands where the number of atoms should") from None
            lines = [header, *itertools.islice(file, num_atoms + 1)]
            if len(lines) < num_atoms + 2:
                raise ValueError(f"the file ends after {len(lines)} of {num_atoms + 2} lines")
            yield next(ase.io.iread(io.StringIO("".join(lines)), ":", format="extxyz"))


def _open_npz(path: Path) -> Any:
    try:
        return np.load(path)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a valid .npz file ({error}); fetch it again.") from error


def _npz_frames(path: Path, keys: Keys) -> Iterator[Frame]:
    with _open_npz(path) as data:
        arrays = {role: _npz_array(path, data, role, names, keys) for role, names in _NPZ_NAMES.items()}
        lattice = data["lattice"] if "lattice" in data else None
    numbers, positions, energy, forces = (arrays[role] for role in _NPZ_NAMES)
    if numbers is None or positions is None:
        raise InputError(f"{path} has neither nuclear_charges, coords (rMD17) nor z, R (sGDML); convert it to extxyz.")
    shape = (len(positions), len(numbers), 3)
    energy = None if energy is None else energy.reshape(-1)
    for role, array, wanted in (
        ("coords", positions, shape),
        ("energies", energy, shape[:1]),
        ("forces", forces, shape),
    ):
        if array is None:
            continue
        if array.shape != wanted:
            raise InputError(f"{path}: {role} have shape {array.shape}, not {wanted}; check the file.")
        finite = np.isfinite(array.reshape(len(array), -1)).all(axis=1)
        if not finite.all():
            raise InputError(f"{path}, frame {np.argmin(finite)}: {role} hold NaN or infinity; remove the frame.")
    for i in range(len(positions)):
        yield Frame(
            numbers=numbers.astype(np.int32),
            positions=positions[i].astype(np.float64),
            cell=np.zeros((3, 3)) if lattice is None else lattice.T.astype(np.float64),  # sGDML: vectors as columns
            pbc=np.full(3, lattice is not None),
            energy=np.nan if energy is None else float(energy[i]),
            forces=np.full(shape[1:], np.nan) if forces is None else forces[i].astype(np.float64),
            stress=np.full((3, 3), np.nan),
        )


def _npz_array(path: Path, data: Any, role: str, names: tuple[str, ...], keys: Keys) -> np.ndarray | None:
    chosen = {"energy": keys.energy, "forces": keys.forces}.get(role)
    if chosen and chosen not in data:
        raise InputError(f"{path} has no array {chosen!r}; it holds {', '.join(data.files)}.")
    name = chosen or next((name for name in names if name in data), None)
    return None if name is None else data[name]
