"""The last layer: weights that the energy, and with it the forces, is linear in."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Float


def readout(params: Mapping[str, Any]) -> Float[Array, " feature"]:
    """Weights of the energy readout of a stochastic NequIP."""
    return params["heads"]["energy"]["kernel_0"][:, 0]


def with_readout(params: Mapping[str, Any], weights: Float[Array, " feature"]) -> dict[str, Any]:
    """A stochastic NequIP with another energy readout.

    Args:
        params: of the network.
        weights: the new ones.
    """
    heads = {**params["heads"], "energy": {"kernel_0": weights[:, None]}}
    return {**params, "heads": heads}
