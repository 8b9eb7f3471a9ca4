"""Pytrees of arrays in safetensors files: no pickle, so nothing is executed on reading, and verified by SHA-256."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from bnn_jax.checkpoint.files import DamagedFileError, file_error, write_bytes_atomic
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
    arrays = {}
    for name, leaf in _named_leaves(tree).items():
        array = np.array(jax.random.key_data(leaf) if _is_prng_key(leaf) else leaf, order="C")
        if array.dtype.kind in "OSUMm":
            raise TypeError(f"Leaf {name} of the tree is a {type(leaf).__name__}, which cannot be saved as an array.")
        arrays[name] = array
    texts = dict(metadata or {})
    header = json.dumps({"metadata": texts, "sha256": _digest(arrays, texts)}, sort_keys=True)
    write_bytes_atomic(Path(path), safetensors.numpy.save(arrays, metadata={_HEADER: header}))


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
    arrays, _ = _read_arrays(Path(path))
    expected = _named_leaves(like)
    for name in [*expected, *arrays]:
        if name not in arrays or name not in expected:
            state = "has no leaf" if name not in arrays else "has an unexpected leaf"
            raise InputError(f"{path} {state} {name}; use the configuration and method that it was saved with.")
    leaves = [_restore(Path(path), name, arrays[name], leaf) for name, leaf in expected.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def load_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Arrays of a file of :func:`save_tree` by leaf name; a PRNG key appears as its key data.

    Raises:
        InputError: the file cannot be read or is damaged.
    """
    return _read_arrays(Path(path))[0]


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata given to :func:`save_tree`.

    Raises:
        InputError: the file cannot be read or is damaged.
    """
    return _read_arrays(Path(path))[1]


def _read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        if not path.is_file():
            raise InputError(f"There is no file {path}; check the path.")
        with safetensors.safe_open(path, framework="np") as handle:
            header = (handle.metadata() or {}).get(_HEADER, "")
            arrays = {name: handle.get_tensor(name) for name in handle.keys()}
    except OSError as error:
        raise file_error("read", path, error) from error
    except safetensors.SafetensorError as error:
        raise DamagedFileError(
            f"{path} is truncated or no safetensors file ({error}); restore it from a copy."
        ) from error
    try:
        content = json.loads(header)
        texts, sha256 = content["metadata"], content["sha256"]
    except (ValueError, KeyError, TypeError):
        texts, sha256 = {}, None
    if sha256 != _digest(arrays, texts):
        raise DamagedFileError(f"{path} is damaged (its SHA-256 does not match its content); restore it from a copy.")
    return arrays, texts


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


def _restore(path: Path, name: str, array: np.ndarray, leaf: Any) -> Any:
    expected = jax.eval_shape(jax.random.key_data, leaf) if _is_prng_key(leaf) else leaf
    shape, dtype = np.shape(expected), expected.dtype if hasattr(expected, "dtype") else np.asarray(expected).dtype
    if (array.shape, array.dtype) != (shape, dtype):
        raise InputError(
            f"Leaf {name} of {path} is {array.dtype}{list(array.shape)} where {dtype}{list(shape)} is expected; use "
            "the configuration and method that it was saved with."
        )
    if _is_prng_key(leaf):
        like_key = jnp.empty((), leaf.dtype)  # of an abstract key only the dtype is known
        return jax.random.wrap_key_data(jnp.array(array), impl=jax.random.key_impl(like_key))
    if isinstance(leaf, np.ndarray):
        return array
    if isinstance(leaf, bool | int | float | complex | np.generic):
        return type(leaf)(array.item())
    return jnp.array(array)
