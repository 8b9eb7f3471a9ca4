r"""Where the learning of a likelihood starts: at the network that knows no more than the statistics of its data.

Weights drawn from the prior give energies that are off by several eV, with a std as large. The force labels, of which
there are many more, then move the weights, energies drift as they please, and their std grows to fit: once it is as
large as the error, the gradient of the energies, error over variance, is so small that the state lasts for thousands of
steps. (Two chains on 80 benzenes after 1,500 steps: energies 12 eV off and a std of 11 eV, forces as good as any.)
From errors and stds of the size of the labels themselves, energies are held from the first step on.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from bnn_jax.model.leaves import leaf, with_leaf
from bnn_jax.model.readout import readout, with_readout

MIN_ENERGY_STD = 1e-2
"""Of an energy per root of an atom, in units of ``scale``: where all training energies are alike, they say nothing of
their errors."""


def null_model(params: Mapping[str, Any], energy_log_std: Float[Array, ""]) -> dict[str, Any]:
    """A stochastic NequIP whose energies are the shifts, whose forces are zero, and whose stds are those of the labels.

    The std heads start at zero, which for forces is a std of ``scale``, their root mean square. All else is left as it
    was drawn, so that networks differ from the first step on.

    Args:
        params: as drawn.
        energy_log_std: logarithm of the std of energies per root of an atom, in units of ``scale``.
    """
    head = "heads", "energy_std"
    path = *head, f"bias_{sum(name.startswith('bias') for name in leaf(params, head)) - 1}"
    silent = with_readout(params, jnp.zeros_like(readout(params)))
    return with_leaf(silent, path, jnp.full_like(leaf(params, path), energy_log_std))
