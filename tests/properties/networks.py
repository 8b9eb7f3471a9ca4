"""Tiny networks with generic weights, and their predictions of a list of structures, one at a time, without padding."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnn_jax.atoms import Dataset, gather_batch, pack
from bnn_jax.atoms.graph import PackedData
from bnn_jax.config import ModelConfig
from bnn_jax.model import nequip
from bnn_jax.types import AtomGraph, Params, Prediction

CUTOFF = 3.5
SPECIES = (1, 6, 7, 8, 9, 11, 13, 14, 17, 35)
NUM_STRUCTURES, NUM_NODES, NUM_EDGES = 8, 64, 1024
"""One padded shape for all tests, so that each network compiles once."""

VARIANTS = {
    "l_max 2": {"l_max": 2},
    "l_max 0": {"l_max": 0},
    # From four blocks on, pseudovectors can matter.
    "parity": {"l_max": 1, "num_blocks": 4, "num_features": 2, "parity": True},
    "no parity": {"l_max": 1, "num_blocks": 4, "num_features": 2, "parity": False},
    "layer norm, shared self-connection": {"l_max": 1, "layer_norm": True, "species_self_connection": False},
}


class Network(NamedTuple):
    config: ModelConfig
    params: Params
    apply: Callable[[Params, AtomGraph], Prediction]


class Result(NamedTuple):
    """A Prediction of one structure, without padding."""

    energy: np.ndarray
    forces: np.ndarray
    stress: np.ndarray | None
    energy_std: np.ndarray
    forces_std: np.ndarray
    atom_energies: np.ndarray
    features: np.ndarray


def config_of(**options) -> ModelConfig:
    base = {"num_blocks": 2, "num_features": 4, "l_max": 2, "num_bessel": 4, "radial_hidden": (8,), "std_hidden": (4,)}
    return ModelConfig(
        **base | {"cutoff": CUTOFF, "species": SPECIES, "avg_num_neighbors": 2.0, "scale": 1.7} | options
    )


def generic(params: Params, seed: int = 1) -> Params:
    """Every weight moved, so that none is zero as the last layers of the standard deviations are at first."""
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)
    return jax.tree.unflatten(structure, [leaf + 0.3 * rng.normal(size=leaf.shape) for leaf in leaves])


@functools.cache
def network(variant: str = "l_max 2") -> Network:
    """A network of ``VARIANTS`` in double precision; call it with x64 on."""
    config = config_of(**VARIANTS[variant])
    potential = nequip(config)
    params = generic(jax.jit(potential.init)(jax.random.key(0), graph_of([ase.Atoms("H")])))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float64)}
    return Network(config, params, jax.jit(lambda params, graph: potential.apply(params, graph)))


def graph_of(
    structures: Sequence[ase.Atoms],
    sizes: tuple[int, int, int] = (NUM_STRUCTURES, NUM_NODES, NUM_EDGES),
    dtype: type = np.float64,
    cutoff: float = CUTOFF,
    species: tuple[int, ...] = SPECIES,
) -> AtomGraph:
    """A padded graph of at most ``sizes`` structures, nodes and edges; a structure without periods has a zero cell."""
    num_structures, num_nodes, num_edges = sizes
    packed = pack(Dataset.from_atoms(structures), cutoff, species, np.zeros(len(species)), dtype)
    if packed.cell is None:
        packed = packed._replace(cell=np.zeros((len(structures), 3, 3), dtype))
    indices = np.full(num_structures, -1)
    indices[: len(structures)] = np.arange(len(structures))
    graph = gather_batch(with_spare_rows(packed, sizes), indices, num_nodes, num_edges).graph
    assert np.isfinite(graph.nodes["positions"]).all(), "the structures do not fit the padded shape"
    return graph


def with_spare_rows(packed: PackedData, sizes: tuple[int, int, int]) -> PackedData:
    """Up to ``sizes`` structures, nodes and edges in all, the surplus owned by none, so that gathers compile once."""
    num_structures, num_nodes, num_edges = sizes
    rows = dict.fromkeys(("species", "positions", "forces", "forces_mask"), num_nodes)
    rows |= dict.fromkeys(("senders", "receivers", "shifts"), num_edges)
    rows |= dict.fromkeys(("node_offset", "edge_offset"), num_structures + 1)

    def padded(name: str, array: np.ndarray) -> np.ndarray:
        surplus = max(0, rows.get(name, num_structures) - len(array))
        mode = "edge" if name.endswith("_offset") else "constant"
        return np.pad(array, [(0, surplus)] + [(0, 0)] * (array.ndim - 1), mode=mode)

    fields = {name: None if array is None else padded(name, array) for name, array in packed._asdict().items()}
    return PackedData(**fields)._replace(shifts=fields["shifts"].astype(np.int32))  # int8 or int32: one shape, not two


def split(prediction: Prediction, num_atoms: Sequence[int]) -> list[Result]:
    """Results of each structure, as host arrays."""
    prediction = jax.device_get(prediction)
    offsets = np.concatenate([[0], np.cumsum(num_atoms)])
    results = []
    for i, (first, last) in enumerate(itertools.pairwise(offsets)):
        per_structure = ("energy", "energy_std", "stress")
        fields = ((name, getattr(prediction, name)) for name in Result._fields)
        results.append(
            Result(**{k: v if v is None else v[i] if k in per_structure else v[first:last] for k, v in fields})
        )
    return results


def evaluate(net: Network, structures: Sequence[ase.Atoms]) -> list[Result]:
    """Predictions of any number of structures, in batches of the one padded shape."""
    results = []
    for start in range(0, len(structures), NUM_STRUCTURES):
        part = structures[start : start + NUM_STRUCTURES]
        results += split(net.apply(net.params, graph_of(part)), [len(atoms) for atoms in part])
    return results


def assert_close(actual: Result, expected: Result, atol: float = 1e-10, rtol: float = 1e-10) -> None:
    """Every field equal to rounding."""
    for name, value in expected._asdict().items():
        if value is not None:
            np.testing.assert_allclose(getattr(actual, name), value, atol=atol, rtol=rtol, err_msg=name)


each_variant = pytest.mark.parametrize("variant", VARIANTS)


def cast(params: Params, dtype: type) -> Params:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
