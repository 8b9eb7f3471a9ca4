r"""Where the learning of a likelihood starts, and is held: at energies without an offset, with a std like their errors.

Weights drawn from the prior give energies that are off by several eV, with a std as large. The force labels, of which
there are many more, then move the weights, energies drift as they please, and their std grows to fit: once it is as
large as the error, the gradient of the energies, error over variance, is so small that the state lasts for thousands of
steps. (Two chains on 80 benzenes after 1,500 steps: energies 12 eV off and a std of 11 eV, forces as good as any.) In
large cells it comes about from any start, for the drift goes with the number of atoms. (192 atoms of water, one chain:
0.3 eV off at the start, 33 eV after 200 steps, with a std of 34 eV; 0.1 eV and 0.2 eV after 500 steps where the offset
is taken out at every twentieth.)
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bnn_jax.model.leaves import leaf, with_leaf
from bnn_jax.model.readout import readout, with_readout

MIN_ENERGY_STD = 1e-2
"""Of an energy per root of an atom, in units of ``scale``: where all training energies are alike, they say nothing of
their errors."""


class Energies(NamedTuple):
    """Labels of structures, and what a readout makes of their features."""

    sums: Float[Array, "structure feature"]
    """Of the features of each structure's atoms."""
    labels: Float[Array, " structure"]
    """Above the shifts, in units of ``scale``."""
    num_atoms: Int[Array, " structure"]
    known: Bool[Array, " structure"]
    """Which of the energies are labels."""

    def of(self, weights: Float[Array, " feature"]) -> Float[Array, " structure"]:
        """Energies by a readout, in units of ``scale``."""
        return self.sums @ weights / _root(weights)


def without_offset(params: Mapping[str, Any], energies: Energies) -> dict[str, Any]:
    """Weights whose readout has lost what makes the mean energy wrong.

    The readout changes along one direction, the mean features of an atom; all else, and with it what the network is far
    from the data, stays. Without energies nothing changes.

    Args:
        params: of the network.
        energies: that are to be right on average.
    """
    weights, known = readout(params), energies.known
    count = jnp.maximum(jnp.sum(jnp.where(known, energies.num_atoms, 0)), 1)
    direction = jnp.sum(jnp.where(known[:, None], energies.sums, 0), axis=0) / (count * _root(weights))
    square = jnp.sum(direction**2)
    error = jnp.sum(jnp.where(known, energies.of(weights) - energies.labels, 0)) / count
    return with_readout(
        params, weights - direction * jnp.where(square > 0, error / jnp.where(square > 0, square, 1), 0)
    )


def with_std_of_errors(params: Mapping[str, Any], energies: Energies) -> dict[str, Any]:
    """Drawn weights whose energy std is the root mean square of the errors.

    Args:
        params: as drawn, but for the readout: their networks of stds give zero before the last bias.
        energies: whose errors they are.
    """
    known = energies.known
    square = (energies.labels - energies.of(readout(params))) ** 2 / jnp.maximum(energies.num_atoms, 1)
    variance = jnp.sum(jnp.where(known, square, 0)) / jnp.maximum(jnp.sum(known), 1)
    log_std = jnp.where(known.any(), jnp.log(jnp.maximum(jnp.sqrt(variance), MIN_ENERGY_STD)), 0)
    head = "heads", "energy_std"
    path = *head, f"bias_{sum(name.startswith('bias') for name in leaf(params, head)) - 1}"
    return with_leaf(params, path, jnp.full_like(leaf(params, path), log_std))


def _root(weights: Float[Array, " feature"]) -> Float[Array, ""]:
    """Of the fan-in, which the readout is divided by."""
    return jnp.sqrt(jnp.asarray(len(weights), weights.dtype))
