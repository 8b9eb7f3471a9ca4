"""Derivatives of a network's predictions by its weights, structure by structure."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int
from tqdm import tqdm

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.graph import PackedData, batch_size_needed, gather_batch, pack
from bnn_jax.devices import sample_mesh
from bnn_jax.rigidity.network import Network, OutputsFn, Weights

PER_ATOM = ("forces", "atom_energies")
"""Outputs with an axis of atoms, padding included."""
ELEMENTS_AT_ONCE = 2**24
"""Of the derivatives that one call makes: 64 MB in single precision."""
ROWS_AT_ONCE = 32
"""Reverse passes under one ``vmap``."""


class Jacobian(NamedTuple):
    """Of one structure."""

    values: dict[str, Float[np.ndarray, "..."]]
    """The outputs themselves, by name."""
    rows: dict[str, Float[np.ndarray, "... parameter"]]
    """Their derivatives: the same axes, and one more of the weights."""


def jacobians(network: Network, weights: Weights, dataset: Dataset, outputs_fn: OutputsFn) -> Iterator[Jacobian]:
    """Outputs and their derivatives by the weights for each structure, several at a time spread over devices.

    Where there are fewer weights than outputs they are differentiated forwards, else backwards; both to rounding.

    Args:
        network: at whose weights to differentiate.
        weights: by which.
        dataset: the structures.
        outputs_fn: of one structure, from :func:`bnn_jax.rigidity.network.outputs` or one's own; outputs named in
            :data:`PER_ATOM` have a first axis of atoms.

    Raises:
        InputError: a structure holds an element that the potential does not know.
    """
    packed = pack(dataset, network.cutoff, network.statistics.species, network.statistics.shifts, weights.vector.dtype)
    sizes = batch_size_needed(packed, np.arange(len(dataset))[:, None])
    of_structure = partial(_jacobian, weights=weights, outputs_fn=outputs_fn, sizes=sizes)
    shapes = jax.eval_shape(of_structure, weights.vector, packed, jnp.int32(0))[1]
    num_elements = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    at_once = int(np.clip(ELEMENTS_AT_ONCE // num_elements, 1, 64))
    mesh = sample_mesh(min(at_once, len(jax.local_devices())))
    at_once = -(-at_once // mesh.size) * mesh.size
    each, everywhere = PartitionSpec("sample"), PartitionSpec()

    @jax.jit
    @partial(jax.shard_map, mesh=mesh, in_specs=(everywhere, everywhere, each), out_specs=each, check_vma=False)
    def of_many(vector: Array, packed: PackedData, indices: Array) -> Any:
        return jax.lax.map(lambda index: of_structure(vector, packed, index), indices)

    vector, on_device = jax.device_put((weights.vector, packed), NamedSharding(mesh, everywhere))
    plan = np.full((-(-len(dataset) // at_once), at_once), -1, np.int32)
    plan.reshape(-1)[: len(dataset)] = np.arange(len(dataset))
    for indices in tqdm(plan, desc="derivatives", unit="batch", delay=5, disable=None):
        values, rows = jax.device_get(of_many(vector, on_device, indices))
        for place, index in enumerate(indices[indices >= 0]):
            atoms = int(dataset.num_atoms[index])
            yield Jacobian(_cut(values, place, atoms), _cut(rows, place, atoms))


def _jacobian(
    vector: Float[Array, " parameter"],
    packed: PackedData,
    index: Int[Array, ""],
    weights: Weights,
    outputs_fn: OutputsFn,
    sizes: tuple[int, int],
) -> tuple[dict[str, Array], dict[str, Array]]:
    graph = gather_batch(packed, index[None], *sizes).graph

    def flat(vector: Array) -> tuple[Array, dict[str, Array]]:
        found = dict(outputs_fn(weights.rebuild(vector), graph))
        return jnp.concatenate([found[name].ravel() for name in sorted(found)]), found  # as JAX sorts keys

    values = jax.eval_shape(flat, vector)[1]
    num_rows = sum(value.size for value in values.values())
    if len(vector) < num_rows:
        pushed, found = _forwards(flat, vector)
        rows = pushed.T
    else:
        _, pull, found = jax.vjp(flat, vector, has_aux=True)
        identity = jnp.eye(num_rows, dtype=vector.dtype)
        rows = jax.lax.map(lambda row: pull(row)[0], identity, batch_size=min(ROWS_AT_ONCE, num_rows))
    ends = np.cumsum([found[name].size for name in sorted(found)])[:-1]
    parts = dict(zip(sorted(found), jnp.split(rows, ends), strict=True))
    return found, {name: part.reshape(*found[name].shape, len(vector)) for name, part in parts.items()}


def _forwards(flat: Any, vector: Float[Array, " parameter"]) -> tuple[Array, dict[str, Array]]:
    """Derivatives [parameter, row] and the values beside them."""
    _, push, found = jax.linearize(flat, vector, has_aux=True)
    return jax.vmap(push)(jnp.eye(len(vector), dtype=vector.dtype)), found


def _cut(arrays: dict[str, np.ndarray], place: int, num_atoms: int) -> dict[str, np.ndarray]:
    """Those of one structure, without padded atoms."""
    return {name: array[place, :num_atoms] if name in PER_ATOM else array[place] for name, array in arrays.items()}
