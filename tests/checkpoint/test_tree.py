"""Trees come back bit for bit, and nothing that is damaged or does not fit comes back at all."""

import errno
import json
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnn_jax.checkpoint import DamagedFileError, load_arrays, load_tree, read_metadata, save_tree, tree, tree_bytes
from bnn_jax.types import InputError


class State(NamedTuple):
    position: dict
    momentum: tuple
    rng_key: jax.Array
    step: int


@pytest.fixture
def state(rng_key) -> State:
    weights = jax.random.normal(rng_key, (3, 4))
    return State(
        {"layer": {"kernel": weights, "bias": np.arange(4.0)}, "empty": jnp.zeros((0, 2))},
        (weights.T.astype(jnp.bfloat16), [jnp.int32(7), None, np.float64(0.1)], True),
        jax.random.split(rng_key, 2),
        12,
    )


def assert_identical(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for left, right in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert type(left) is type(right)
        if isinstance(left, jax.Array) and jax.dtypes.issubdtype(left.dtype, jax.dtypes.prng_key):
            assert left.dtype == right.dtype
            left, right = jax.random.key_data(left), jax.random.key_data(right)
        left, right = np.asarray(left), np.asarray(right)
        assert (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())


def test_round_trip_is_bit_for_bit(tmp_path, state):
    save_tree(tmp_path / "state.safetensors", state)
    assert_identical(load_tree(tmp_path / "state.safetensors", state), state)


def test_non_finite_and_negative_zero_survive(tmp_path):
    tree = {"x": np.array([np.nan, -np.inf, -0.0, 5e-324])}
    save_tree(tmp_path / "x.safetensors", tree)
    assert_identical(load_tree(tmp_path / "x.safetensors", tree), tree)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_keys_of_every_kind_restore_from_abstract_leaves(tmp_path, impl):
    keys = jax.random.split(jax.random.key(3, impl=impl), 5)
    save_tree(tmp_path / "keys.safetensors", {"key": keys})
    restored = load_tree(tmp_path / "keys.safetensors", jax.eval_shape(lambda: {"key": keys}))
    assert restored["key"].dtype == keys.dtype
    np.testing.assert_array_equal(jax.random.normal(restored["key"][4]), jax.random.normal(keys[4]))


@pytest.mark.usefixtures("x64")
def test_double_precision_stays_double(tmp_path):
    tree = {"x": jnp.array([0.1], dtype=jnp.float64)}
    save_tree(tmp_path / "x.safetensors", tree)
    assert load_tree(tmp_path / "x.safetensors", tree)["x"].dtype == jnp.float64


def test_arrays_are_named_by_path_and_metadata_comes_back(tmp_path, state):
    path = tmp_path / "state.safetensors"
    save_tree(path, state, {"step": "12", "note": "Å"})
    arrays = load_arrays(path)
    np.testing.assert_array_equal(arrays[".position['layer']['kernel']"], state.position["layer"]["kernel"])
    np.testing.assert_array_equal(arrays[".rng_key"], jax.random.key_data(state.rng_key))
    assert arrays[".step"] == 12
    assert read_metadata(path) == {"step": "12", "note": "Å"}


def test_same_tree_gives_the_same_bytes(tmp_path, state):
    contents = set()
    for _ in range(20):
        save_tree(tmp_path / "state", state, {"x": "1", "y": "2", "z": "3"})
        contents.add((tmp_path / "state").read_bytes())
    assert len(contents) == 1


@pytest.mark.parametrize(
    ("like", "sentence"),
    [
        (
            {"w": np.zeros((2, 3), np.float32)},
            r"Leaf \['w'\] of .* is F32\[3, 2\] where F32\[2, 3\] is expected",
        ),
        ({"w": np.zeros((3, 2))}, r"Leaf \['w'\] of .* is F32\[3, 2\] where F64\[3, 2\] is expected"),
        ({"v": np.zeros((3, 2), np.float32)}, r"has no leaf \['v'\]; use the configuration"),
        ({}, r"has an unexpected leaf \['w'\]; use the configuration"),
    ],
)
def test_a_tree_that_does_not_fit_is_refused(tmp_path, like, sentence):
    save_tree(tmp_path / "w.safetensors", {"w": np.zeros((3, 2), np.float32)})
    with pytest.raises(InputError, match=sentence) as caught:
        load_tree(tmp_path / "w.safetensors", like)
    assert not isinstance(caught.value, DamagedFileError)


def test_every_single_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "x.safetensors"
    tree = {"x": np.arange(3.0), "y": np.arange(2, dtype=np.int32)}
    save_tree(path, tree, {"step": "1"})
    sound = path.read_bytes()
    header_end = 8 + int.from_bytes(sound[:8], "little")
    for index in range(len(sound)):
        if sound[index : index + 1] == b" " and index < header_end:
            continue  # padding of the header carries nothing
        damaged = bytearray(sound)
        damaged[index] ^= 0x01
        path.write_bytes(damaged)
        with pytest.raises(DamagedFileError, match=r"x\.safetensors is (damaged|truncated or no safetensors file)"):
            load_tree(path, tree)
    path.write_bytes(sound)
    assert_identical(load_tree(path, tree), tree)


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.5, 0.99])
def test_truncated_file_is_noticed(tmp_path, state, fraction):
    path = tmp_path / "state.safetensors"
    save_tree(path, state)
    data = path.read_bytes()
    path.write_bytes(data[: int(fraction * len(data))])
    with pytest.raises(DamagedFileError, match="truncated or no safetensors file"):
        load_tree(path, state)


def test_foreign_safetensors_file_is_refused(tmp_path):
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(DamagedFileError, match="SHA-256"):
        load_arrays(tmp_path / "x.safetensors")


@pytest.mark.parametrize("name", ["absent.safetensors", "."])
def test_absent_file_is_named(tmp_path, name):
    with pytest.raises(InputError, match="There is no file"):
        load_arrays(tmp_path / name)


def test_full_disk_keeps_the_old_tree(tmp_path, monkeypatch):
    path, old = tmp_path / "x.safetensors", {"x": np.arange(3.0)}
    save_tree(path, old)

    def replace(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(InputError, match=r"No space left on device.*what was written before is intact"):
        save_tree(path, {"x": np.zeros(3)})
    assert_identical(load_tree(path, old), old)
    assert [item.name for item in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize("leaf", ["text", object(), 10**30])
def test_a_leaf_that_is_no_number_is_a_type_error(tmp_path, leaf):
    with pytest.raises(TypeError, match=r"Leaf \['a'\] of the tree"):
        save_tree(tmp_path / "x.safetensors", {"a": leaf})


def test_shapes_are_refused_before_anything_is_read(tmp_path, monkeypatch):
    """A stranger's file of another shape must not make us allocate."""
    path = tmp_path / "x.safetensors"
    save_tree(path, {"x": np.zeros(1000)})

    def no_reading(*_):
        raise AssertionError("read")

    monkeypatch.setattr(tree, "_read_arrays", no_reading)
    with pytest.raises(InputError, match=r"is F64\[1000\] where F64\[2\] is expected"):
        load_tree(path, {"x": np.zeros(2)})
    monkeypatch.setattr(tree, "available_memory", lambda: 10)
    with pytest.raises(InputError, match="there is memory for 10 bytes"):
        load_arrays(path)


def test_a_header_that_claims_more_than_there_is(tmp_path):
    header = json.dumps({"x": {"dtype": "F64", "shape": [2**40], "data_offsets": [0, 2**43]}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(100))
    with pytest.raises(DamagedFileError, match="truncated or no safetensors file"):
        load_arrays(path)
    path.write_bytes((2**62).to_bytes(8, "little") + header)
    with pytest.raises(DamagedFileError, match="truncated or no safetensors file"):
        load_arrays(path)


def test_size_of_the_file(tmp_path, state):
    save_tree(tmp_path / "x.safetensors", state)
    size = (tmp_path / "x.safetensors").stat().st_size
    assert 0 < size - tree_bytes(state) < 4096
