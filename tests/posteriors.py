"""Posteriors that cost no sampling: random weights with the statistics of a small data set."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from ase import Atoms
from systems import labelled_series

from bnn_jax import Config, Dataset, Posterior, nequip
from bnn_jax.methods.base import example_graph, fill_model_config

MODEL = {"num_blocks": 1, "num_features": 4, "radial_hidden": [8], "std_hidden": [8], "cutoff": 4.0}


def random_posterior(
    structures: Sequence[Atoms],
    num_samples: int = 3,
    num_chains: int = 1,
    seed: int = 0,
    dtype=jnp.float32,
    **model,
) -> Posterior:
    """Weights drawn at initialisation, which differ enough for an epistemic spread."""
    config = Config.from_dict({"model": MODEL | model})
    statistics = Dataset.from_atoms(structures).statistics(config.model.cutoff)
    config = dataclasses.replace(config, model=fill_model_config(config.model, statistics))
    keys = jax.random.split(jax.random.key(seed), num_samples * num_chains)
    graph = example_graph(config.model)
    samples = jax.jit(jax.vmap(lambda key: nequip(config.model).init(key, graph)))(keys)
    return Posterior(config, statistics, jax.tree.map(lambda leaf: leaf.astype(dtype), samples), num_chains, seed)


def molecular_posterior(atoms: Atoms, **options) -> Posterior:
    """A posterior that knows the elements of one structure, fitted to nothing."""
    return random_posterior(labelled_series(atoms, 6), **options)
