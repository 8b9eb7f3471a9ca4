"""Predictors whose energy is known: springs between neighbours, stiffer in some samples than in others."""

import functools
from collections.abc import Sequence

import ase
import jax
import jax.numpy as jnp

from bnn_jax import Dataset
from bnn_jax.atoms import node_mask, node_structure, pair_mask, pair_vectors
from bnn_jax.predict import Predictor
from bnn_jax.types import AtomGraph, Params, Prediction

CUTOFF = 3.0


def apply_springs(samples: Params, graph: AtomGraph, at_once: int | None = None, cutoff: float = CUTOFF) -> Prediction:
    """``energy = sum of k / 2 (r - 1)^2 (1 - r / cutoff)^2`` over pairs of neighbours, of every sample."""
    del at_once
    structure, num_structures = node_structure(graph), len(graph.n_node)

    def energies(positions, strain, stiffness):
        deform = jnp.eye(3) + strain
        moved = graph._replace(
            nodes=graph.nodes | {"positions": jnp.einsum("ai,aij->aj", positions, deform[structure])}
        )
        if "cell" in graph.globals:
            moved = moved._replace(globals={"cell": graph.globals["cell"] @ deform})
        vectors = jnp.where(pair_mask(graph)[:, None], pair_vectors(moved), 1.0)
        lengths = jnp.linalg.norm(vectors, axis=1)
        inside = pair_mask(graph) & (lengths < cutoff)
        pairs = jnp.where(inside, stiffness / 2 * (lengths - 1) ** 2 * (1 - lengths / cutoff) ** 2, 0)
        return jnp.zeros(len(positions), positions.dtype).at[graph.receivers[::2]].add(pairs)

    def one(stiffness):
        positions = graph.nodes["positions"]
        still = jnp.zeros((num_structures, 3, 3), positions.dtype)
        total = lambda positions, strain: energies(positions, strain, stiffness).sum()  # noqa: E731
        by_positions, by_strain = jax.grad(total, (0, 1))(positions, still)
        atom_energies = jnp.where(node_mask(graph), energies(positions, still, stiffness), 0)
        energy = jax.ops.segment_sum(atom_energies, structure, num_structures)
        stress = None
        if "cell" in graph.globals:
            volumes = jnp.abs(jnp.linalg.det(graph.globals["cell"]))[:, None, None]
            stress = jnp.where(volumes > 0, by_strain / jnp.where(volumes > 0, volumes, 1), 0)
        return Prediction(
            energy=energy,
            forces=-by_positions,
            stress=stress,
            energy_std=0.1 * jnp.ones_like(energy),
            forces_std=0.2 * jnp.ones(len(positions), positions.dtype),
            atom_energies=atom_energies,
            features=None,
        )

    return jax.lax.map(one, samples["stiffness"])


def springs(atoms: ase.Atoms, stiffness: Sequence[float] = (20.0, 30.0), cutoff: float = CUTOFF) -> Predictor:
    """One sample for each stiffness, in eV/Angstrom^2."""
    statistics = Dataset.from_atoms([atoms]).statistics(cutoff)
    statistics = statistics._replace(labels=("energy", "forces"))
    apply = functools.partial(apply_springs, cutoff=cutoff)
    return Predictor(apply, {"stiffness": jnp.array(stiffness)}, statistics, cutoff)
