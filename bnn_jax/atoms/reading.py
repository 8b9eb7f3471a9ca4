"""Files to frames: extended XYZ frame by frame, the .npz of rMD17 and sGDML, and whatever else ASE reads."""

import io
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
from ase.io.extxyz import key_val_str_to_dict
from ase.io.formats import open_with_compression

from bnn_jax.atoms import npz
from bnn_jax.atoms.labels import Frame, Keys, atomic_numbers, frame_from_atoms
from bnn_jax.types import InputError

Index = str | int | slice

MAX_ATOMS, MAX_LINE, MAX_COLUMNS = 10**7, 2**24, 10**4
"""Of a frame, in characters, and of a property: more is damage, and is refused before it is allocated."""

_COMPRESSED = (".gz", ".bz2", ".xz")
_NPZ_NAMES = {
    "numbers": ("nuclear_charges", "z"),
    "positions": ("coords", "R"),
    "energy": ("energies", "E", "energy"),
    "forces": ("forces", "F"),
    "lattice": ("lattice",),
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


def read_frames(path: Path, index: Index, keys: Keys, use_labels: bool = True) -> Iterator[tuple[int, Frame]]:
    """Number in the file and content of each frame that ``index`` selects, in the units of the file.

    Raises:
        InputError: the file is absent or cannot be read, with the frame where that happened.
    """
    if path.suffix == ".npz":
        frames = enumerate(_npz_frames(path, keys, use_labels))
        return _select(frames, index, path)
    atoms = enumerate(_iterate(path))
    return (
        (i, frame_from_atoms(item, f"{path}, frame {i}", keys, use_labels)) for i, item in _select(atoms, index, path)
    )


def read_entries(path: Path, index: Index = ":") -> Iterator[dict[str, Any]]:
    """What else the file says of each frame that ``index`` selects: its ``info``, as ASE has it; none in an .npz.

    Raises:
        InputError: as :func:`read_frames`.
    """
    if path.suffix == ".npz":
        return ({} for _ in read_frames(path, index, Keys(None, None, None), use_labels=False))
    return (atoms.info for atoms in _select(_iterate(path), index, path))


def npz_units(path: Path) -> tuple[str, str]:
    """Energy and length unit of an .npz: ``e_unit`` and ``r_unit`` if stored, else those that the formats define.

    Raises:
        InputError: the file names a unit that is not known.
    """
    stored = npz.names(path)
    units = []
    for key, default in (("e_unit", "kcal/mol"), ("r_unit", "Angstrom")):
        text = default
        if key in stored:
            value = npz.read_arrays(path, [key], npz.TEXT)[0]
            encoding = {"|": "utf-8", "<": "utf-32-le", ">": "utf-32-be"}[value.dtype.str[0]]
            text = value.tobytes().decode(encoding, errors="replace").strip("\0")  # any bytes, unlike value.item()
        alias = _UNIT_ALIASES.get("".join(text.split()).lower())
        if alias is None:
            raise InputError(f"{path}: unit {text[:40]!r} is not known; name it with energy_unit= or length_unit=.")
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
            selection = slice(*(int(text) if text.strip() else None for text in str(index).split(":")))
        else:
            selection = slice(int(index), int(index) + 1 or None)
        bounds = (selection.start, selection.stop, selection.step)
        if selection.step == 0 or any(abs(bound) > sys.maxsize for bound in bounds if bound is not None):
            raise ValueError("out of bounds")
    except (ValueError, TypeError):
        raise InputError(f"Index {index!r} of {path} is not understood; write it as '3', ':100' or '::10'.") from None
    return selection


def _iterate(path: Path) -> Iterator[ase.Atoms]:
    name = path.name.removesuffix(path.suffix) if path.suffix in _COMPRESSED else path.name
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
            raise InputError(
                f"{path}, frame {i} cannot be read ({npz.reason(error)}); correct or remove it."
            ) from error


def _iterate_extxyz(path: Path) -> Iterator[ase.Atoms]:
    # ASE's own iterator scans the file before it yields, and then cannot say which frame is wrong.
    with open_with_compression(str(path), "rt") as file:
        lines = _lines(file, path)
        for header in lines:
            if not header.strip():
                if any(line.strip() for line in lines):
                    raise ValueError("an empty line stands where the number of atoms should")
                return
            try:
                num_atoms = int(header)
            except ValueError:
                raise ValueError(f"{header.strip()[:40]!r} stands where the number of atoms should") from None
            if not 0 <= num_atoms <= MAX_ATOMS:
                raise ValueError(f"{num_atoms} is no number of atoms from 0 to {MAX_ATOMS}")
            frame = [header, *itertools.islice(lines, num_atoms + 1)]
            if len(frame) < num_atoms + 2:
                raise ValueError(f"the file ends after {len(frame)} of {num_atoms + 2} lines")
            text = io.StringIO("".join(frame))
            yield next(ase.io.iread(text, ":", format="extxyz", properties_parser=_parse_comment))


def _lines(file: Any, path: Path) -> Iterator[str]:
    """Lines of a file that may be compressed, none of which, nor all together, can fill the memory."""
    num_characters = 0
    while line := file.readline(MAX_LINE):
        num_characters += len(line)
        if len(line) == MAX_LINE:
            raise ValueError(f"a line is longer than {MAX_LINE} characters")
        if path.suffix in _COMPRESSED and not npz.may_unpack(num_characters, path):
            raise ValueError(f"it unpacks to more than {num_characters / 2**30:.1f} GiB")
        yield line


def _parse_comment(line: str) -> dict[str, Any]:
    info = key_val_str_to_dict(line)
    for count in str(info.get("Properties", "")).split(":")[2::3]:
        if not 0 < int(count) <= MAX_COLUMNS:  # ASE would make a list of as many columns
            raise ValueError(f"a property has {count[:40]} columns")
    return info


def _npz_frames(path: Path, keys: Keys, use_labels: bool) -> Iterator[Frame]:
    numbers, positions, energy, forces, lattice = _npz_arrays(path, keys)
    if not use_labels:
        energy = forces = None
    if numbers is None or positions is None:
        raise InputError(f"{path} has neither nuclear_charges, coords (rMD17) nor z, R (sGDML); convert it to extxyz.")
    numbers = atomic_numbers(numbers, str(path), least=1)
    shape = (positions.shape[0] if positions.ndim else 0, len(numbers), 3)
    energy = None if energy is None else energy.reshape(-1)
    for role, array, wanted in (
        ("coords", positions, shape),
        ("energies", energy, shape[:1]),
        ("forces", forces, shape),
        ("lattice", lattice, (3, 3)),
    ):
        if array is None:
            continue
        if array.shape != wanted:
            raise InputError(f"{path}: {role} have shape {array.shape}, not {wanted}; check the file.")
        finite = np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
        if not finite.all():
            where = f"{path}:" if role == "lattice" else f"{path}, frame {np.argmin(finite)}:"
            raise InputError(f"{where} {role} hold NaN or infinity; remove the frame.")
    for i in range(len(positions)):
        yield Frame(
            numbers=numbers,
            positions=positions[i].astype(np.float64),
            cell=np.zeros((3, 3)) if lattice is None else lattice.T.astype(np.float64),  # sGDML: vectors as columns
            pbc=np.full(3, lattice is not None),
            energy=np.nan if energy is None else float(energy[i]),
            forces=np.full(shape[1:], np.nan) if forces is None else forces[i].astype(np.float64),
            stress=np.full((3, 3), np.nan),
        )


def _npz_arrays(path: Path, keys: Keys) -> list[np.ndarray | None]:
    """Numbers, positions, energy, forces and lattice, None where the file lacks them."""
    stored, chosen = npz.names(path), {"energy": keys.energy, "forces": keys.forces}
    found = {}
    for role, names in _NPZ_NAMES.items():
        name = chosen.get(role)
        if name is not None and name not in stored:
            raise InputError(f"{path} has no array {name!r}; it holds {', '.join(stored)[:300]}.")
        found[role] = name or next((known for known in names if known in stored), None)
    arrays = iter(npz.read_arrays(path, [name for name in found.values() if name is not None]))
    return [None if name is None else next(arrays) for name in found.values()]
