"""Devices and processes: over what a run is spread, and what the processes of one run agree on.

With one process (no ``jax.distributed``) nothing here communicates. With several each runs the same program, and what
one of them alone can know (its clock, its signals) reaches all before it decides anything.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bnn_jax.types import InputError


def chain_mesh(num_chains: int, devices_per_chain: int = 1) -> Mesh:
    """Devices ``("chain", "data")`` for chains: as many groups of ``devices_per_chain`` as divide the chains evenly.

    Raises:
        InputError: there are fewer devices than one chain asks for, or a process would be left without work.
    """
    devices = jax.devices()
    if devices_per_chain > len(devices):
        raise InputError(
            f"{devices_per_chain} devices are asked for each chain and {len(devices)} are there; ask for fewer"
            " (on a CPU JAX_NUM_CPU_DEVICES says how many it shall count as)."
        )
    chosen = np.array(devices[: _most(num_chains, len(devices) // devices_per_chain) * devices_per_chain])
    if len({device.process_index for device in chosen}) < jax.process_count():
        raise InputError(
            f"{num_chains} chains of {devices_per_chain} devices each cannot be spread evenly over {len(devices)}"
            f" devices of {jax.process_count()} processes; choose sampler.num_chains a multiple of the processes."
        )
    return Mesh(chosen.reshape(-1, devices_per_chain), ("chain", "data"))


def sample_mesh(num_samples: int) -> Mesh:
    """Devices ``("sample",)`` of this process for predictions: as many as divide the samples evenly."""
    devices = jax.local_devices()
    return Mesh(np.array(devices[: _most(num_samples, len(devices))]), ("sample",))


def _most(length: int, limit: int) -> int:
    """Largest divisor of ``length`` that is at most ``limit``."""
    return max(n for n in range(1, limit + 1) if length % n == 0)


def is_first() -> bool:
    """Whether this process is the one that writes files and shows progress."""
    return jax.process_index() == 0


def placed(tree: Any, sharding: NamedSharding) -> Any:
    """The tree laid out over devices, those of other processes included, where every process holds the whole of it."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def place(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array):
            if not leaf.is_fully_addressable:  # laid out already
                return leaf
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(place(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(place, tree)


def whole(tree: Any) -> Any:
    """The tree with every leaf complete in this process; those that other processes hold parts of are gathered."""
    leaves, structure = jax.tree.flatten(tree)
    parts = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable]
    if parts:
        everywhere = NamedSharding(leaves[parts[0]].sharding.mesh, PartitionSpec())
        gathered = jax.jit(lambda *arrays: arrays, out_shardings=everywhere)(*(leaves[i] for i in parts))
        for i, leaf in zip(parts, gathered, strict=True):
            leaves[i] = leaf
    return jax.tree.unflatten(structure, leaves)


def agreed(value: float) -> float:
    """What the first process says, in all of them."""
    return value if jax.process_count() == 1 else float(multihost_utils.broadcast_one_to_all(np.float32(value)))


def wait_for_all() -> None:
    """Return when every process of the run has come this far."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("bnn_jax")


def in_any_process(flags: Sequence[bool]) -> list[bool]:
    """For each flag whether some process has raised it; every process waits here for the others."""
    if jax.process_count() == 1:
        return list(flags)
    everywhere = np.asarray(multihost_utils.process_allgather(np.array(flags)))
    return [bool(everywhere[:, i].any()) for i in range(len(flags))]
