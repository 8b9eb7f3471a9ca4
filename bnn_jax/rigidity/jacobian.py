"""Derivatives of a network's predictions by its weights, structure by structure."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float
from tqdm import tqdm

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.graph import PackedData, batch_size_needed, gather_batch, pack
from bnn_jax.devices import sample_mesh
from bnn_jax.rigidity.network import Network, OutputsFn, Weights
from bnn_jax.types import AtomGraph, Params, Prediction

PER_ATOM = ("forces", "atom_energies")
"""Outputs with an axis of atoms, padding included."""
ELEMENTS_AT_ONCE = 2**24
"""Of the derivatives that one call makes: 64 MB in single precision."""
MOST_AT_ONCE = 16
"""Structures of one call, the last of which may be filled up with empty ones."""
ROWS_AT_ONCE = 32
"""Reverse passes under one ``vmap``."""
TANGENTS_AT_ONCE = 4
"""Forward passes under one ``vmap``; on a CPU more are no faster."""


class Jacobian(NamedTuple):
    """Of one structure."""

    values: dict[str, Float[np.ndarray, "..."]]
    """The outputs themselves, by name."""
    rows: dict[str, Float[np.ndarray, "... parameter"]]
    """Their derivatives: the same axes, and one more of the weights."""


class Derivative(NamedTuple):
    """Functions whose derivatives are taken; hashable, so that what is compiled for them is kept."""

    apply: Callable[..., Prediction]
    """``Potential.apply``."""
    put: Callable[[Params, Float[Array, " parameter"]], Params]
    """See :class:`bnn_jax.rigidity.network.Weights`."""
    outputs_fn: OutputsFn
    """See :func:`jacobians`."""


def jacobians(
    network: Network, weights: Weights, dataset: Dataset, outputs_fn: OutputsFn, first: int = 0
) -> Iterator[Jacobian]:
    """Outputs and their derivatives by the weights for each structure, several at a time spread over devices.

    What is compiled serves all networks of one potential, such as the samples of a posterior.

    Args:
        network: at whose weights to differentiate.
        weights: by which.
        dataset: the structures.
        outputs_fn: of one structure, from :func:`bnn_jax.rigidity.network.outputs` or one's own; outputs named in
            :data:`PER_ATOM` have a first axis of atoms. What it calls ``energy``, ``forces`` and ``stress`` is taken
            for the network's.
        first: structure to begin with.

    Raises:
        InputError: a structure holds an element that the potential does not know.
    """
    packed = pack(dataset, network.cutoff, network.statistics.species, network.statistics.shifts, weights.vector.dtype)
    sizes = batch_size_needed(packed, np.arange(len(dataset))[:, None])
    of_what = Derivative(network.apply, weights.put, outputs_fn)
    graph = jax.eval_shape(lambda: gather_batch(packed, jnp.zeros(1, int), *sizes).graph)
    of_one = partial(jacobian_of_structure, of_what=of_what)
    shapes = jax.eval_shape(of_one, network.params, weights.vector, graph)[1]
    num_elements = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    at_once = int(np.clip(ELEMENTS_AT_ONCE // num_elements, 1, MOST_AT_ONCE))
    mesh = sample_mesh(min(at_once, len(jax.local_devices())))
    at_once = -(-at_once // mesh.size) * mesh.size
    params, vector, packed = jax.device_put(
        (network.params, weights.vector, packed), NamedSharding(mesh, PartitionSpec())
    )
    length = len(dataset) - first
    plan = np.full((-(-length // at_once), at_once), -1, np.int32)
    plan.reshape(-1)[:length] = np.arange(first, len(dataset))
    for indices in tqdm(plan, desc="derivatives", unit="batch", delay=5, disable=None):
        values, rows = jax.device_get(_of_many(params, vector, _gathered(packed, indices, sizes), of_what, mesh))
        for place, index in enumerate(indices[indices >= 0]):
            atoms = int(dataset.num_atoms[index])
            yield Jacobian(_cut(values, place, atoms), _cut(rows, place, atoms))


@partial(jax.jit, static_argnames="sizes")
def _gathered(packed: PackedData, indices: Array, sizes: tuple[int, int]) -> AtomGraph:
    """Graphs of one structure each; apart from what they are for, which takes long to compile for each data set."""
    return jax.vmap(lambda index: gather_batch(packed, index[None], *sizes).graph)(indices)


@partial(jax.jit, static_argnames=("of_what", "mesh"))
def _of_many(params: Params, vector: Array, graphs: AtomGraph, of_what: Derivative, mesh: Mesh) -> Any:
    """Outputs and derivatives of several structures, one after another on each device."""
    each, everywhere = PartitionSpec("sample"), PartitionSpec()

    @partial(jax.shard_map, mesh=mesh, in_specs=(everywhere, everywhere, each), out_specs=each, check_vma=False)
    def spread(params: Params, vector: Array, graphs: AtomGraph) -> Any:
        return jax.lax.map(lambda graph: jacobian_of_structure(params, vector, graph, of_what), graphs)

    return spread(params, vector, graphs)


def jacobian_of_structure(
    params: Params,
    vector: Float[Array, " parameter"],
    graph: AtomGraph,
    of_what: Derivative,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Outputs of one structure and their derivatives, padded; pure, for use in other compiled functions.

    Args:
        params: of the network.
        vector: the free weights.
        graph: of one structure and padding.
        of_what: what to differentiate.
    """

    def predict(vector: Array) -> dict[str, Array]:
        return dict(of_what.outputs_fn(of_what.put(params, vector), graph))

    values = predict(vector)
    energy_gradient = _energy_gradient(of_what, params)
    rows: dict[str, Array] = {}
    if "energy" in values:
        rows["energy"] = energy_gradient(vector, graph)[None]
    positions = graph.nodes["positions"]
    if "forces" in values and len(vector) >= positions.size:  # else the weights are fewer directions
        along = jnp.eye(positions.size, dtype=positions.dtype).reshape(-1, *positions.shape)
        pushed = _pushed(lambda moved: energy_gradient(vector, _moved(graph, moved)), positions, along)
        rows["forces"] = -pushed.reshape(*positions.shape, -1)
    if "stress" in values:
        along = _strains(vector.dtype)
        pushed = _pushed(lambda strain: energy_gradient(vector, _strained(graph, strain)), jnp.zeros((3, 3)), along)
        rows["stress"] = _over_volume(graph, pushed.reshape(3, 3, -1))
    others = {name: value for name, value in values.items() if name not in rows}
    if others:
        rows |= _rows_of(lambda vector: _only(predict(vector), others), vector)
    return values, rows


def _energy_gradient(of_what: Derivative, params: Params) -> Callable[[Array, AtomGraph], Array]:
    """Of the total energy by the free weights."""

    def energy(vector: Array, graph: AtomGraph) -> Array:
        return of_what.apply(of_what.put(params, vector), graph).energy[0]

    return jax.grad(energy)


def _pushed(function: Callable[[Array], Array], at: Array, along: Array) -> Array:
    """Derivatives [direction, parameter] of a gradient by what moves the atoms.

    Forces and weights change places: the derivative of a force by the weights is minus that of the energy's gradient by
    the position. Where there are fewer coordinates than weights, these are the fewer forward derivatives.
    """
    _, push = jax.linearize(function, at)
    return jax.lax.map(push, along, batch_size=min(TANGENTS_AT_ONCE, len(along)))


def _moved(graph: AtomGraph, positions: Array) -> AtomGraph:
    return graph._replace(nodes={**graph.nodes, "positions": positions})


def _strains(dtype: Any) -> Array:
    """Symmetric strains [9, 3, 3], so that a stress component is the derivative along its own."""
    unit = jnp.eye(9, dtype=dtype).reshape(9, 3, 3)
    return (unit + unit.swapaxes(1, 2)) / 2


def _strained(graph: AtomGraph, strain: Array) -> AtomGraph:
    """Positions and cells of a homogeneously strained structure."""
    positions = graph.nodes["positions"]
    deformation = jnp.eye(3, dtype=positions.dtype) + strain.astype(positions.dtype)
    moved = _moved(graph, positions @ deformation)
    cells = {name: cell @ deformation for name, cell in graph.globals.items() if name == "cell"}
    return moved._replace(globals={**graph.globals, **cells})


def _over_volume(graph: AtomGraph, virial: Array) -> Array:
    if "cell" not in graph.globals:
        return jnp.zeros_like(virial)
    volume = jnp.abs(jnp.linalg.det(graph.globals["cell"][0]))
    return jnp.where(volume > 0, virial / jnp.where(volume > 0, volume, 1), 0)


def _only(values: Mapping[str, Array], wanted: Mapping[str, Array]) -> dict[str, Array]:
    return {name: values[name] for name in wanted}


def _rows_of(function: Callable[[Array], dict[str, Array]], vector: Array) -> dict[str, Array]:
    """Derivatives of named outputs: forwards where there are fewer weights than outputs, else backwards."""
    found = jax.eval_shape(function, vector)
    names = sorted(found)  # as JAX sorts keys

    def flat(vector: Array) -> Array:
        values = function(vector)
        return jnp.concatenate([values[name].ravel() for name in names])

    num_rows = sum(found[name].size for name in names)
    if len(vector) < num_rows:
        rows = jax.jacfwd(flat)(vector)
    else:
        _, pull = jax.vjp(flat, vector)
        identity = jnp.eye(num_rows, dtype=vector.dtype)
        rows = jax.lax.map(lambda row: pull(row)[0], identity, batch_size=min(ROWS_AT_ONCE, num_rows))
    ends = np.cumsum([found[name].size for name in names])[:-1]
    parts = zip(names, jnp.split(rows, ends), strict=True)
    return {name: part.reshape(*found[name].shape, len(vector)) for name, part in parts}


def _cut(arrays: dict[str, np.ndarray], place: int, num_atoms: int) -> dict[str, np.ndarray]:
    """Those of one structure, without padded atoms."""
    return {name: array[place, :num_atoms] if name in PER_ATOM else array[place] for name, array in arrays.items()}
