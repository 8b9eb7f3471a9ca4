"""Whatever the bytes, a reader reads or says in one sentence why not: nothing else, soon, and without pickle."""

import io
import pickle
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import ase.io
import jax
import numpy as np
import pytest
from posteriors import molecular_posterior
from systems import ammonia, labelled_series, rattled, triclinic_crystal

from bnn_jax import Config, Posterior
from bnn_jax.atoms import read_file
from bnn_jax.checkpoint import load_arrays, load_tree, read_metadata, save_tree
from bnn_jax.checkpoint.tree import _serialised
from bnn_jax.types import InputError
from tests.fuzz.mutations import mutate

SECONDS = 20
"""A case that takes longer hangs; most take milliseconds."""

SEPARATOR = b"\x00--\x00"
"""Between parts of a file that are mutated as one."""


class Target(NamedTuple):
    name: str
    """Of the file."""
    content: bytes
    read: Callable[[Path], object]
    num_cases: int
    seal: Callable[[bytes], bytes] = bytes
    """Makes the mutated bytes a file, for formats whose checksum would refuse every change."""


def read_labelled(path: Path) -> object:
    return read_file(path, require_labels=True, allow_missing_labels=True)


def extxyz() -> Target:
    crystals = [rattled(triclinic_crystal(), seed=seed) for seed in range(2)]
    for atoms in crystals:
        atoms.info |= {"energy": -3.5, "virial": np.diag([1.0, 2.0, 3.0]), "note": "a b", "steps": [1, 2, 3]}
    molecules = labelled_series(ammonia(), 3)
    molecules[1].set_array("forces_mask", np.arange(4) < 2)
    text = io.StringIO()
    for part in (molecules[:1], molecules[1:2], molecules[2:], crystals):
        ase.io.write(text, part, format="extxyz")
    return Target("a.xyz", text.getvalue().encode(), read_labelled, 4000)


def npz_members() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    arrays = {
        "nuclear_charges": np.array([7, 1, 1, 1], np.uint8),
        "coords": ammonia().positions + rng.normal(scale=0.05, size=(5, 4, 3)),
        "energies": rng.normal(size=(5, 1)),
        "forces": np.asfortranarray(rng.normal(size=(5, 4, 3))),
        "lattice": 9.0 * np.eye(3),
        "e_unit": np.array("kcal/mol"),
        "r_unit": np.array(b"Ang"),
    }
    members = {}
    for name, array in arrays.items():
        buffer = io.BytesIO()
        np.save(buffer, array)
        members[f"{name}.npy"] = buffer.getvalue()
    return members


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        for name, member in members.items():
            archive.writestr(zipfile.ZipInfo(name), member, compression)
    return content.getvalue()


def npz() -> Target:
    return Target("a.npz", zipped(npz_members(), zipfile.ZIP_DEFLATED), read_file, 1500)


def npz_arrays() -> Target:
    """Damage inside of the arrays, behind a sound checksum."""
    members = npz_members()

    def seal(content: bytes) -> bytes:
        return zipped(dict(zip(members, [*content.split(SEPARATOR), *len(members) * [b""]], strict=False)))

    return Target("a.npz", SEPARATOR.join(members.values()), read_file, 2500, seal)


def yaml_config() -> Target:
    text = Config.preset("paper").to_yaml()
    return Target("config.yaml", text.encode(), Config.from_yaml, 3000)


def tree() -> dict:
    return {
        "weights": np.arange(6, dtype=np.float32).reshape(2, 3),
        "key": jax.random.key(3),
        "step": np.int32(7),
    }


def read_checkpoint(path: Path) -> list:
    found, errors = [], []
    for read in (load_arrays, read_metadata, lambda each: load_tree(each, tree())):
        try:
            found.append(read(path))
        except InputError as error:
            errors.append(error)
    if errors:
        raise errors[-1]
    return found


def checkpoint(folder: Path) -> Target:
    save_tree(folder / "sound", tree(), {"step": "7"})
    return Target("checkpoint-7.safetensors", (folder / "sound").read_bytes(), read_checkpoint, 2000)


def posterior(folder: Path) -> Target:
    path = molecular_posterior(ammonia()).save(folder / "sound")
    return Target("posterior.safetensors", path.read_bytes(), Posterior.load, 1000)


def posterior_metadata(folder: Path) -> Target:
    """Damage inside of the description of the samples, signed as a stranger can sign it."""
    path = molecular_posterior(ammonia()).save(folder / "sound")
    arrays, texts = load_arrays(path), read_metadata(path)

    def seal(content: bytes) -> bytes:
        values = content.decode(errors="replace").split(SEPARATOR.decode())
        return _serialised(arrays, dict(zip(texts, values, strict=False)))

    return Target("posterior.safetensors", SEPARATOR.join(map(str.encode, texts.values())), Posterior.load, 300, seal)


TARGETS = {
    "extxyz": lambda _: extxyz(),
    "npz": lambda _: npz(),
    "arrays of an npz": lambda _: npz_arrays(),
    "YAML": lambda _: yaml_config(),
    "checkpoint": checkpoint,
    "posterior": posterior,
    "metadata of a posterior": posterior_metadata,
}


class HangError(BaseException):  # no reader may take it for damage
    pass


def on_alarm(*_arguments):
    raise HangError(f"no answer within {SECONDS} seconds")


@pytest.fixture
def unpickled(monkeypatch) -> list[str]:
    """Names of the pickle functions that were called."""
    calls: list[str] = []
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, lambda *_, name=name, **__: calls.append(name))
    return calls


def fuzz(target: Target, cases: range, folder: Path, seed: int) -> dict[str, int]:
    """How many cases were read and how many refused; anything else fails with the number of the case."""
    outcomes = {"read": 0, "refused": 0}
    path = folder / target.name
    before = signal.signal(signal.SIGALRM, on_alarm)
    try:
        for i in cases:
            content = mutate(np.random.default_rng([seed, i]), target.content, [target.content])
            path.write_bytes(target.seal(content))
            signal.alarm(SECONDS)
            try:
                target.read(path)
                outcomes["read"] += 1
            except InputError as error:
                outcomes["refused"] += 1
                sentence = str(error)
                assert "\n" not in sentence and sentence.endswith(".") and len(sentence) < 2000, (i, sentence)
            except BaseException as error:
                raise AssertionError(f"case {i} of {target.name} (seed {seed}) raised {error!r}") from error
            finally:
                signal.alarm(0)
    finally:
        signal.signal(signal.SIGALRM, before)
    return outcomes


@pytest.mark.parametrize("name", TARGETS)
def test_the_sound_file_is_read(name, tmp_path):
    target = TARGETS[name](tmp_path)
    (tmp_path / target.name).write_bytes(target.seal(target.content))
    assert target.read(tmp_path / target.name)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_in_brief(name, tmp_path, unpickled):
    outcomes = fuzz(TARGETS[name](tmp_path), range(30), tmp_path, seed=1)
    assert sum(outcomes.values()) == 30 and outcomes["refused"] > 5
    assert not unpickled


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files(name, tmp_path, unpickled):
    target = TARGETS[name](tmp_path)
    outcomes = fuzz(target, range(target.num_cases), tmp_path, seed=0)
    assert sum(outcomes.values()) == target.num_cases
    assert outcomes["refused"] > target.num_cases / 10
    assert not unpickled


def test_there_are_enough_cases(tmp_path):
    assert sum(make(tmp_path).num_cases for make in TARGETS.values()) >= 10_000
