"""What a rigidity is of: one network, and those of its weights that the loss is curved in."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple

import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from bnn_jax.atoms.statistics import Statistics
from bnn_jax.model import readout, with_readout
from bnn_jax.types import AtomGraph, Params, Prediction

OutputsFn = Callable[[Params, AtomGraph], Mapping[str, Array]]
"""``outputs_fn(params, graph) -> {name: array}`` of a graph of one structure, whose rows ``jacobians`` takes."""


class Network(NamedTuple):
    """A potential with one set of weights."""

    apply: Callable[..., Prediction]
    """``Potential.apply``."""
    params: Params
    statistics: Statistics
    """Of the training set; its species are those that the potential knows."""
    cutoff: float
    """In Angstrom."""


class Weights(NamedTuple):
    """Those weights of a network that are free; the others stay as they are."""

    vector: Float[Array, " parameter"]
    put: Callable[[Params, Float[Array, " parameter"]], Params]
    """``put(params, vector)``: parameters with other free ones. It knows no network, so that what is compiled with it
    serves all samples of a posterior."""


def all_weights(network: Network) -> Weights:
    """Every weight, as the Hessian of the full network has it (Chong et al. 2024, eq. 3)."""
    return Weights(ravel_pytree(network.params)[0], _put_all)


def last_layer(network: Network) -> Weights:
    """The weights of the energy readout, which energies and forces are linear in (Chong et al. 2024, eq. 7)."""
    return Weights(readout(network.params), with_readout)


def _put_all(params: Params, vector: Float[Array, " parameter"]) -> Params:
    return ravel_pytree(params)[1](vector)


def outputs(network: Network, names: tuple[str, ...]) -> OutputsFn:
    """Named predictions of the graph of one structure.

    Args:
        network: whose potential predicts.
        names: of ``energy`` [1], ``forces`` [atom, 3], ``stress`` [3, 3] and ``atom_energies`` [atom], in eV and
            Angstrom.

    Returns:
        The same function for the same potential and names.
    """
    return _outputs(network.apply, names)


@lru_cache(maxsize=64)
def _outputs(apply: Callable[..., Prediction], names: tuple[str, ...]) -> OutputsFn:
    def outputs_fn(params: Params, graph: AtomGraph) -> dict[str, Array]:
        prediction = apply(params, graph)
        stress = jnp.zeros((2, 3, 3)) if prediction.stress is None else prediction.stress
        found = {
            "energy": prediction.energy[:1],
            "forces": prediction.forces,
            "stress": stress[0],
            "atom_energies": prediction.atom_energies,
        }
        return {name: found[name] for name in names}

    return outputs_fn
