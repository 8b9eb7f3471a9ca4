"""Damage as files meet it, and as an adversary makes it: a few seeded changes of valid bytes."""

import re
from collections.abc import Callable, Sequence

import numpy as np

NUMBERS = [
    *[b"0", b"-1", b"1e999", b"-1e300", b"nan", b"inf", b"1e-320", b"99999999999", b"9" * 400, b"0x7fffffff", b"1_0"],
    *[b"9223372036854775808", b"-9223372036854775809", b"4294967297", b"2147483648", b"119", b"0.05", b"1.5.2", b""],
]
TOKENS = [
    *[
        b"\x00",
        b"\xff\xfe",
        b"\n",
        b"\n\n",
        b" ",
        b'"',
        b"'",
        b"=",
        b"[" * 50,
        b"{" * 50,
        b"&a ",
        b"*a ",
        b"!!python/x ",
    ],
    *[
        b"Lattice=",
        b"pbc=",
        b"Properties=",
        b"energy=",
        b"forces:R:3:",
        b"- ",
        b": ",
        b"<<: ",
        b"_JSON [1, 2",
        b"\xc3\xa9",
    ],
    *[
        b"2024-13-45 ",
        b"1:1:1:1.5 ",
        b"{}",
        b"()",
        b"|O",
        b"<f8",
        b"<U4",
        b"True",
        b"T T T",
        b"PK\x03\x04",
        b"\x93NUMPY",
    ],
]


def mutate(rng: np.random.Generator, content: bytes, others: Sequence[bytes]) -> bytes:
    """One to four changes of ``content``, which may take parts of ``others``."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        CHANGES[rng.integers(len(CHANGES))](rng, data, others)
    return bytes(data)


def _place(rng: np.random.Generator, data: bytearray) -> int:
    return int(rng.integers(len(data) + 1))


def _flip(rng: np.random.Generator, data: bytearray, _others: Sequence[bytes]) -> None:
    for _ in range(rng.integers(1, 9) if data else 0):
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))


def _truncate(rng: np.random.Generator, data: bytearray, _others: Sequence[bytes]) -> None:
    del data[_place(rng, data) :]


def _delete(rng: np.random.Generator, data: bytearray, _others: Sequence[bytes]) -> None:
    start = _place(rng, data)
    del data[start : start + int(rng.integers(1, 64))]


def _splice(rng: np.random.Generator, data: bytearray, others: Sequence[bytes]) -> None:
    other = others[rng.integers(len(others))]
    start, at = int(rng.integers(len(other) + 1)), _place(rng, data)
    data[at : at + int(rng.integers(64))] = other[start : start + int(rng.integers(256))]


def _duplicate(rng: np.random.Generator, data: bytearray, _others: Sequence[bytes]) -> None:
    start = _place(rng, data)
    block = bytes(data[start : start + int(rng.integers(1, 256))])
    data[start:start] = block * int(rng.integers(1, 4))


def _replace_number(rng: np.random.Generator, data: bytearray, _others: Sequence[bytes]) -> None:
    found = list(re.finditer(rb"-?\d+(\.\d+)?(e-?\d+)?", bytes(data)))
    if found:
        start, end = found[rng.integers(len(found))].span()
        data[start:end] = NUMBERS[rng.integers(len(NUMBERS))]


def _insert(rng: np.random.Generator, data: bytearray, _others: Sequence[bytes]) -> None:
    at = _place(rng, data)
    data[at:at] = TOKENS[rng.integers(len(TOKENS))]


CHANGES: list[Callable[[np.random.Generator, bytearray, Sequence[bytes]], None]] = [
    _flip,
    _truncate,
    _delete,
    _splice,
    _duplicate,
    _replace_number,
    _replace_number,
    _insert,
]
