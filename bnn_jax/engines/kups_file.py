"""A posterior as a file for kUPS, whose commands move atoms with it: ``potential: {backend: tojax, model_path: FILE}``.

The file holds a compiled program and the samples. It gives energies, of which kUPS takes the derivatives, and has no
channel for error bars: write one file for each sample, or take kUPS's frames to ``bnn-jax predict``.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
from jaxtyping import Array

from bnn_jax.checkpoint import write_bytes_atomic
from bnn_jax.compose.edges import both_ways
from bnn_jax.methods import Posterior
from bnn_jax.types import AtomGraph


def write_file(posterior: Posterior, path: str | Path, sample: int | None = None) -> Path:
    """Write the program, for any numbers of atoms, systems and pairs, on CPU, CUDA and TPU.

    Energies are in eV above the atomic shifts (``Statistics.shifts``), and NaN of a system with an element that was not
    in training: a program cannot refuse.

    Args:
        posterior: samples and their network.
        path: of the file to write, ``.zip``.
        sample: number of the one whose energy it is; the mean of all if not given.

    Returns:
        The path.

    Raises:
        InputError: there is no such sample, or the file cannot be written.
    """
    predictor = posterior.predictor if sample is None else posterior.predictor.of_sample(sample)
    leaves, structure = jax.tree.flatten(predictor.samples)
    known = jnp.array(predictor.statistics.species)

    def energies(params: list[Array], data: Mapping[str, Array]) -> Array:
        samples = jax.tree.unflatten(structure, params)
        found = predictor.apply_samples(samples, _graph(data, known), 1).energy.mean(axis=0)
        is_unknown = jnp.all(data["atomic_numbers"][:-1, None] != known, axis=1)
        num_unknown = jax.ops.segment_sum(is_unknown.astype(jnp.int32), data["batch"][:-1], found.shape[0])
        return jnp.where(num_unknown > 0, jnp.nan, found)

    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    exported = jax.export.export(jax.jit(energies), platforms=("cpu", "cuda", "tpu"))(shapes, _shapes(leaves[0].dtype))
    parts = {
        "model.jax": bytes(exported.serialize(vjp_order=1)),
        "metadata.json": json.dumps({"cutoff": predictor.cutoff}).encode(),
        "params.msgpack": msgpack.packb([_packed(leaf) for leaf in leaves], use_bin_type=True),
    }
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    write_bytes_atomic(Path(path), whole.getvalue())
    return Path(path)


def _graph(data: Mapping[str, Array], known: Array) -> AtomGraph:
    """From kUPS's arrays, whose last atom and system are padding, as are edges at that atom; both ways of each pair."""
    (receivers, senders), shifts, numbers = data["edge_index"], data["cell_offsets"], data["atomic_numbers"]
    num_places, last = senders.shape[0] // 2, numbers.shape[0] - 1  # lengths may be symbols
    # One of each two edges: towards the later atom, or between images of one by the sign of what parts them.
    x, y, z = shifts.T
    is_later = jnp.where(x != 0, x, jnp.where(y != 0, y, z)) > 0
    is_first = (receivers < senders) | ((receivers == senders) & is_later)
    is_pair = is_first & (senders < last) & (receivers < last)
    order = jnp.argsort(~is_pair, stable=True)[:num_places]
    num_edges = 2 * jnp.sum(is_pair, dtype=jnp.int32)

    ends = [jnp.where(is_pair, end, last)[order].astype(jnp.int32) for end in (senders, receivers)]
    counts = jax.ops.segment_sum(jnp.ones_like(data["batch"]), data["batch"], data["cell"].shape[0])
    return AtomGraph(
        nodes={"positions": data["pos"], "species": jnp.searchsorted(known, numbers).astype(jnp.int32)},
        edges={"shifts": both_ways(shifts[order], -shifts[order])},
        globals={"cell": data["cell"]},
        senders=both_ways(*ends),
        receivers=both_ways(*ends[::-1]),
        n_node=counts.astype(jnp.int32),
        n_edge=jnp.zeros_like(counts).at[0].set(num_edges).at[-1].set(2 * num_places - num_edges),
    )


def _shapes(dtype: np.dtype) -> dict[str, Any]:
    """Abstract arguments of the program, with a symbol for every number that it does not fix."""
    atom, edge, system = jax.export.symbolic_shape(
        "atom, edge, system", constraints=["atom >= 2", "edge >= 2", "system >= 2"]
    )
    whole = {
        "atomic_numbers": (atom,), "batch": (atom,), "edge_index": (2, edge), "pbc": (system, 3),
    }  # fmt: skip
    real = {
        "pos": (atom, 3), "cell": (system, 3, 3), "cell_offsets": (edge, 3), "charge": (system,), "spin": (system,),
    }  # fmt: skip
    kinds = {"pbc": np.bool_}
    return {
        **{name: jax.ShapeDtypeStruct(shape, kinds.get(name, np.int32)) for name, shape in whole.items()},
        **{name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in real.items()},
    }


def _packed(array: Array) -> dict[str, Any]:
    """As ``kups.core.utils.msgpack`` has it."""
    host = np.asarray(array)
    return {"__np__": True, "shape": list(host.shape), "dtype": host.dtype.str, "data": host.tobytes()}
