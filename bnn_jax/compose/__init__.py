"""Predictions as pure functions of positions and cell, for compiled loops and other JAX code."""

from bnn_jax.compose.batch import graph
from bnn_jax.compose.edges import Edges, Search
from bnn_jax.compose.functions import (
    Estimate,
    SystemFn,
    Which,
    energy_fn,
    forces_fn,
    neighbor_fn,
    predict_fn,
    samples_fn,
)
from bnn_jax.compose.jaxmd import jax_md_energy_fn

__all__ = [
    "Edges",
    "Estimate",
    "Search",
    "SystemFn",
    "Which",
    "energy_fn",
    "forces_fn",
    "graph",
    "jax_md_energy_fn",
    "neighbor_fn",
    "predict_fn",
    "samples_fn",
]
