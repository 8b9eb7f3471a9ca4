"""The last layer: weights that the energy, and with it the forces, is linear in."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Float

from bnn_jax.model.leaves import leaf, with_leaf

PATH = ("heads", "energy", "kernel_0")
"""Of the kernel [feature, 1] in the parameters."""


def readout(params: Mapping[str, Any]) -> Float[Array, " feature"]:
    """Weights of the energy readout of a stochastic NequIP, dimensionless."""
    return leaf(params, PATH)[:, 0]


def with_readout(params: Mapping[str, Any], weights: Float[Array, " feature"]) -> dict[str, Any]:
    """A stochastic NequIP with another energy readout.

    Args:
        params: of the network.
        weights: the new ones.
    """
    return with_leaf(params, PATH, weights[:, None])
