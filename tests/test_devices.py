"""How work is laid over devices, with one process; tests/test_processes.py has several."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnn_jax import devices
from bnn_jax.types import InputError


class FakeDevice:
    platform = device_kind = "cpu"

    def __init__(self, number: int) -> None:
        self.id, self.process_index = number, number // 4


@pytest.fixture
def eight(monkeypatch):
    """Eight devices of two processes, in place of the machine's."""
    monkeypatch.setattr(jax, "devices", lambda: [FakeDevice(i) for i in range(8)])
    monkeypatch.setattr(jax, "process_count", lambda: 2)


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize(
    ("num_chains", "devices_per_chain", "shape"),
    [(8, 1, (8, 1)), (16, 1, (8, 1)), (6, 1, (6, 1)), (4, 2, (4, 2)), (2, 4, (2, 4)), (1, 8, (1, 8)), (12, 2, (4, 2))],
)
def test_as_many_devices_as_divide_the_chains(num_chains, devices_per_chain, shape):
    assert devices.chain_mesh(num_chains, devices_per_chain).devices.shape == shape


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize(("num_chains", "devices_per_chain"), [(1, 1), (2, 2), (3, 1), (1, 4)])
def test_no_process_is_left_without_work(num_chains, devices_per_chain):
    with pytest.raises(InputError, match=r"cannot be spread evenly over 8 devices of 2 processes; choose"):
        devices.chain_mesh(num_chains, devices_per_chain)


def test_more_devices_than_there_are():
    with pytest.raises(InputError, match=r"^99 devices are asked for each chain and \d+ are there; ask for fewer"):
        devices.chain_mesh(1, 99)


def test_one_process_agrees_with_itself():
    assert devices.is_first()
    assert devices.agreed(1.5) == 1.5
    assert devices.in_any_process([True, False]) == [True, False]


def test_what_is_whole_stays_as_it_is():
    tree = {"array": jnp.arange(3.0), "key": jax.random.key(0), "host": np.ones(2), "number": 3}
    whole = devices.whole(tree)
    assert all(whole[name] is tree[name] for name in tree)


def test_a_tree_with_keys_is_laid_out():
    sharding = jax.sharding.NamedSharding(devices.chain_mesh(2), jax.sharding.PartitionSpec("chain"))
    tree = {"array": np.arange(4.0).reshape(2, 2), "key": jax.random.split(jax.random.key(0), 2)}
    placed = devices.placed(tree, sharding)
    assert placed["array"].sharding == sharding
    np.testing.assert_array_equal(placed["array"], tree["array"])
    np.testing.assert_array_equal(jax.random.key_data(placed["key"]), jax.random.key_data(tree["key"]))
