"""Pytrees of arrays in safetensors files: no pickle, so nothing is executed on reading, and verified by SHA-256."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from bnn_jax.checkpoint.files import DamagedFileError, file_error, write_bytes_atomic
from bnn_jax.memory import available_memory, in_words
from bnn_jax.types import InputError

_HEADER = "bnn_jax"  # one entry, since safetensors writes several in no fixed order


def save_tree(path: str | Path, tree: Any, metadata: Mapping[str, str] | None = None) -> None:
    """Write a pytree of arrays, scalars and typed PRNG keys to one safetensors file, atomically.

    Leaves are named by their path (``.position['kernel']``). A typed PRNG key is stored as its key data. A SHA-256 of
    all leaves and metadata is stored with them and verified by every reader.

    Args:
        path: file to write; its folder must exist.
        tree: nested dictionaries, tuples, lists and NamedTuples of numeric leaves.
        metadata: short texts to store beside the arrays.

    Raises:
        InputError: the file cannot be written; what was there before is intact.
        TypeError: a leaf is not numeric.
    """
    write_bytes_atomic(Path(path), _serialised(_arrays(tree), dict(metadata or {})))


def tree_digest(tree: Any) -> str:
    """SHA-256 of all leaves of a tree with their names, shapes and dtypes, to tell it from others.

    Args:
        tree: as :func:`save_tree` takes it.

    Raises:
        TypeError: a leaf is not numeric.
    """
    return _digest(_arrays(tree), {})


def _arrays(tree: Any) -> dict[str, np.ndarray]:
    """Leaves by their names, as they are saved."""
    arrays = {}
    for name, leaf in _named_leaves(tree).items():
        array = np.array(jax.random.key_data(leaf) if _is_prng_key(leaf) else leaf, order="C")
        if array.dtype.kind in "OSUMm":
            raise TypeError(f"Leaf {name} of the tree is a {type(leaf).__name__}, which cannot be saved as an array.")
        arrays[name] = array
    return arrays


def tree_bytes(tree: Any) -> int:
    """Size of the file that :func:`save_tree` would write, less its header of some kilobytes."""
    leaves = (jax.random.key_data(leaf) if _is_prng_key(leaf) else leaf for leaf in jax.tree.leaves(tree))
    return sum(np.size(leaf) * np.dtype(jnp.result_type(leaf)).itemsize for leaf in leaves)


def load_tree(path: str | Path, like: Any) -> Any:
    """Read a file of :func:`save_tree` into the structure of ``like``.

    Args:
        path: file to read.
        like: a tree of the same structure, shapes and dtypes; :class:`jax.ShapeDtypeStruct` leaves will do. A NumPy
            or Python leaf is restored as such, any other as a JAX array, and a typed PRNG key as one of its kind.

    Returns:
        The saved tree, bit for bit.

    Raises:
        InputError: the file cannot be read or is damaged, or a leaf is missing, extra, or of another shape or dtype.
    """
    path, expected = Path(path), _named_leaves(like)
    with _opened(path) as handle:
        # Shapes before content: a stranger's file must not make us allocate what no run of ours would hold.
        header, forms = _header(path, handle)
        _check_names(path, set(forms), expected)
        for name, leaf in expected.items():
            _check_leaf(path, name, forms[name], leaf)
        arrays = _read_arrays(path, handle, header)
    leaves = [_restore(arrays[name], leaf) for name, leaf in expected.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def load_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Arrays of a file of :func:`save_tree` by leaf name; a PRNG key appears as its key data.

    Raises:
        InputError: the file cannot be read, is damaged, or is larger than the memory.
    """
    path = Path(path)
    with _opened(path) as handle:
        size, available = path.stat().st_size, available_memory()
        if size > available:
            raise InputError(
                f"{path} has {in_words(size)} and there is memory for {in_words(available)}; use a sound one."
            )
        return _read_arrays(path, handle, _header(path, handle)[0])


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata given to :func:`save_tree`; the arrays are not read.

    Raises:
        InputError: the file cannot be read or is damaged.
    """
    path = Path(path)
    with _opened(path) as handle:
        return _header(path, handle)[0]["metadata"]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file's handle; what goes wrong while it is open becomes one sentence."""
    if not path.is_file():
        raise InputError(f"There is no file {path}; check the path.")
    try:
        with safetensors.safe_open(path, framework="np") as handle:
            yield handle
    except OSError as error:
        raise file_error("read", path, error) from error
    except safetensors.SafetensorError as error:
        raise DamagedFileError(
            f"{path} is truncated or no safetensors file ({error}); restore it from a copy."
        ) from error


def _header(path: Path, handle: Any) -> tuple[dict[str, Any], dict[str, list]]:
    """Our part of the header, and dtype and shape of each array; both are verified."""
    slices = {name: handle.get_slice(name) for name in handle.keys()}
    forms = {name: [each.get_dtype(), list(each.get_shape())] for name, each in slices.items()}
    try:
        content = json.loads((handle.metadata() or {}).get(_HEADER, ""))
        texts = content["metadata"]
        sound = all(isinstance(text, str) for text in [*texts.values(), content["sha256"]])
        sound &= content["header_sha256"] == _header_digest(forms, texts)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sound, content = False, {}
    if not sound:
        raise DamagedFileError(f"{path} is damaged (the SHA-256 of its header does not match); restore it from a copy.")
    return content, forms


def _read_arrays(path: Path, handle: Any, header: Mapping[str, Any]) -> dict[str, np.ndarray]:
    try:
        arrays = {name: handle.get_tensor(name) for name in handle.keys()}
    except (TypeError, AttributeError, ValueError) as error:  # a number format that NumPy lacks
        raise DamagedFileError(f"{path} holds an array that is not ours ({error}); restore it from a copy.") from error
    if header["sha256"] != _digest(arrays, header["metadata"]):
        raise DamagedFileError(f"{path} is damaged (its SHA-256 does not match its content); restore it from a copy.")
    return arrays


def _serialised(arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> bytes:
    forms = {name: [_dtype_name(array.dtype), list(array.shape)] for name, array in arrays.items()}
    hashes = {"header_sha256": _header_digest(forms, texts), "sha256": _digest(arrays, texts)}
    header = json.dumps({"metadata": dict(texts), **hashes}, sort_keys=True)
    return safetensors.numpy.save(dict(arrays), metadata={_HEADER: header})


def _check_names(path: Path, found: set[str], expected: Mapping[str, Any]) -> None:
    for name in [*expected, *sorted(found)]:
        if name not in found or name not in expected:
            state = "has no leaf" if name not in found else "has an unexpected leaf"
            raise InputError(f"{path} {state} {name:.100}; use the configuration and method that it was saved with.")


def _check_leaf(path: Path, name: str, stored: list, leaf: Any) -> None:
    expected = jax.eval_shape(jax.random.key_data, leaf) if _is_prng_key(leaf) else leaf
    dtype = expected.dtype if hasattr(expected, "dtype") else np.asarray(expected).dtype
    wanted = [_dtype_name(dtype), list(np.shape(expected))]
    if stored != wanted:
        raise InputError(
            f"Leaf {name} of {path} is {stored[0]}{stored[1]} where {wanted[0]}{wanted[1]} is expected; use the"
            " configuration and method that it was saved with."
        )


def _dtype_name(dtype: Any) -> str:
    """As safetensors writes it: F32, I64, BOOL, BF16."""
    dtype = np.dtype(dtype)
    kind = {"b": "BOOL", "V": "BF"}.get(dtype.kind, dtype.kind.upper())  # NumPy knows no bfloat16 of its own
    return kind if kind == "BOOL" else f"{kind}{8 * dtype.itemsize}"


def _header_digest(forms: Mapping[str, list], texts: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps([forms, texts], sort_keys=True).encode()).hexdigest()


def _digest(arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        digest.update(json.dumps([name, str(array.dtype), array.shape]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _named_leaves(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _is_prng_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _restore(array: np.ndarray, leaf: Any) -> Any:
    if _is_prng_key(leaf):
        like_key = jnp.empty((), leaf.dtype)  # of an abstract key only the dtype is known
        return jax.random.wrap_key_data(jnp.array(array), impl=jax.random.key_impl(like_key))
    if isinstance(leaf, np.ndarray):
        return array
    if isinstance(leaf, bool | int | float | complex | np.generic):
        return type(leaf)(array.item())
    return jnp.array(array)
