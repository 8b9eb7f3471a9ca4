"""NumPy's file formats from anybody: header, size and type of an array are checked before it is allocated."""

import io
import math
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np

from bnn_jax.types import InputError

MAX_BYTES = 64 * 2**30
"""Arrays of one file, together and unpacked; the largest public set (MD17 benzene) has 0.5 GiB."""
MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO = 4 * 2**30, 100
"""A file that unpacks to more than both, the second times its own size, is made to fill a memory."""
NUMBERS, TEXT = "biuf", "SU"
"""Kinds of NumPy types; objects, which would be unpickled, are in neither."""


def may_unpack(num_bytes: int, path: Path) -> bool:
    """Whether a compressed file may unpack to that many bytes."""
    return num_bytes <= max(MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO * path.stat().st_size)


def read_array(file: io.BufferedIOBase, num_bytes: int, kinds: str = NUMBERS) -> np.ndarray:
    """Read one array in NumPy's format (``.npy``).

    Args:
        file: at its beginning.
        num_bytes: that the file has.
        kinds: of types that are allowed.

    Raises:
        ValueError: its type is not allowed, or its header and its size disagree. Damaged headers raise whatever NumPy
            makes of them.
    """
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on odd but legible headers
        version = np.lib.format.read_magic(file)
        if version not in readers:
            raise ValueError(f"format version {version} is not known")
        shape, is_fortran, dtype = readers[version](file)
    if dtype.hasobject or dtype.kind not in kinds or dtype.itemsize == 0:
        raise ValueError(f"its type is {dtype}")
    size, promised = math.prod(shape), math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or promised != num_bytes - file.tell():
        raise ValueError(f"its shape is {shape} but {num_bytes - file.tell()} bytes are there")
    content = file.read(promised)
    array = np.frombuffer(content, dtype, size) if size else np.zeros(0, dtype)
    return array.reshape(shape, order="F" if is_fortran else "C")


def names(path: Path) -> list[str]:
    """Names of the arrays of an ``.npz`` file.

    Raises:
        InputError: it is none.
    """
    with _archive(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def read_arrays(path: Path, wanted: Sequence[str], kinds: str = NUMBERS) -> list[np.ndarray]:
    """Arrays of an ``.npz`` file, read without pickle.

    Args:
        path: of the file.
        wanted: names of arrays that it has.
        kinds: of types that are allowed.

    Raises:
        InputError: the file is damaged or would fill the memory, or an array is no plain one.
    """
    with _archive(path) as archive:
        members = [archive.getinfo(f"{name}.npy") for name in wanted]
        num_bytes = sum(member.file_size for member in members)
        if num_bytes > MAX_BYTES or not may_unpack(num_bytes, path):
            raise InputError(
                f"{path} would unpack to {num_bytes / 2**30:.1f} GiB; make a smaller file of what you need."
            )
        arrays = []
        for name, member in zip(wanted, members, strict=True):
            try:
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ValueError("its compression is not NumPy's")
                with archive.open(member) as file:
                    arrays.append(read_array(cast(io.BufferedIOBase, file), member.file_size, kinds))
            except Exception as error:  # damaged bytes fail in many ways in zipfile, zlib and NumPy
                raise InputError(f"{path}: array {name!r} cannot be read ({reason(error)}); check the file.") from error
        return arrays


def reason(error: Exception) -> str:
    """What an error says, in one line of bounded length."""
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:
        raise InputError(f"{path} is not a valid .npz file ({reason(error)}); fetch it again.") from error
    with archive:
        yield archive
