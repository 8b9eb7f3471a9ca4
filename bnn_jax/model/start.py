r"""Where the learning of a likelihood starts: at energies without an offset, and a std that is that of their errors.

Weights drawn from the prior give energies that are off by several eV, with a std as large. The force labels, of which
there are many more, then move the weights, energies drift as they please, and their std grows to fit: once it is as
large as the error, the gradient of the energies, error over variance, is so small that the state lasts for thousands of
steps. (Two chains on 80 benzenes after 1,500 steps: energies 12 eV off and a std of 11 eV, forces as good as any.)
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bnn_jax.model.leaves import leaf, with_leaf
from bnn_jax.model.readout import readout, with_readout

MIN_ENERGY_STD = 1e-2
"""Of an energy per root of an atom, in units of ``scale``: where all training energies are alike, they say nothing of
their errors."""


def without_offset(
    params: Mapping[str, Any],
    sums: Float[Array, "structure feature"],
    energies: Float[Array, " structure"],
    num_atoms: Int[Array, " structure"],
    known: Bool[Array, " structure"],
) -> dict[str, Any]:
    """Drawn weights whose readout has lost what makes the mean energy wrong, and whose energy std is that of the rest.

    The readout changes along one direction, the mean features of an atom; all else, and with it what the network is far
    from the data, stays a draw of the prior. Without energies nothing changes.

    Args:
        params: as drawn.
        sums: of the features of each structure's atoms.
        energies: above the shifts, in units of ``scale``.
        num_atoms: of each structure.
        known: which of the energies are labels.
    """
    weights, count = readout(params), jnp.maximum(jnp.sum(jnp.where(known, num_atoms, 0)), 1)
    root = jnp.sqrt(jnp.asarray(len(weights), sums.dtype))

    def mean(values: Array) -> Array:
        return jnp.sum(jnp.where(known.reshape(-1, *[1] * (values.ndim - 1)), values, 0), axis=0) / count

    direction = mean(sums) / root
    square = jnp.sum(direction**2)
    error = direction @ weights - mean(energies)
    weights = weights - direction * jnp.where(square > 0, error / jnp.where(square > 0, square, 1), 0)
    rest = energies - sums @ weights / root
    variance = jnp.sum(jnp.where(known, rest**2 / jnp.maximum(num_atoms, 1), 0)) / jnp.maximum(jnp.sum(known), 1)
    log_std = jnp.where(known.any(), jnp.log(jnp.maximum(jnp.sqrt(variance), MIN_ENERGY_STD)), 0)
    head = "heads", "energy_std"
    path = *head, f"bias_{sum(name.startswith('bias') for name in leaf(params, head)) - 1}"
    return with_leaf(with_readout(params, weights), path, jnp.full_like(leaf(params, path), log_std))
