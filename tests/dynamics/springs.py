"""Predictors whose energy is known: springs between neighbours, stiffer in some samples than in others."""

import functools
from collections.abc import Sequence

import ase
import jax
import jax.numpy as jnp

from bnn_jax import Dataset
from bnn_jax.atoms import node_mask, pair_mask, pair_vectors
from bnn_jax.predict import Predictor
from bnn_jax.types import AtomGraph, Params, Prediction

CUTOFF = 3.0


def apply_springs(samples: Params, graph: AtomGraph, at_once: int | None = None, cutoff: float = CUTOFF) -> Prediction:
    """``energy = sum of k / 2 (r - 1)^2 (1 - r / cutoff)^2`` over pairs of neighbours, of every sample."""
    del at_once

    def energies(positions, cell, stiffness):
        moved = graph._replace(nodes=graph.nodes | {"positions": positions})
        if cell is not None:
            moved = moved._replace(globals={"cell": cell})
        vectors = jnp.where(pair_mask(graph)[:, None], pair_vectors(moved), 1.0)
        lengths = jnp.linalg.norm(vectors, axis=1)
        inside = pair_mask(graph) & (lengths < cutoff)
        pairs = jnp.where(inside, stiffness / 2 * (lengths - 1) ** 2 * (1 - lengths / cutoff) ** 2, 0)
        return jnp.zeros(len(positions)).at[graph.receivers[::2]].add(pairs)

    def one(stiffness):
        positions, cell = graph.nodes["positions"], graph.globals.get("cell")
        total = lambda positions: energies(positions, cell, stiffness).sum()  # noqa: E731
        atom_energies = jnp.where(node_mask(graph), energies(positions, cell, stiffness), 0)
        zeros = jnp.zeros(len(graph.n_node)).at[0].set(atom_energies.sum())
        return Prediction(
            energy=zeros,
            forces=-jax.grad(total)(positions),
            stress=None,
            energy_std=0.1 * jnp.ones_like(zeros),
            forces_std=0.2 * jnp.ones(len(positions)),
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
