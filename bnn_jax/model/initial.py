"""Initial weights: one draw for all of a network's, since XLA would compile a draw for each weight by itself."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bnn_jax.types import Params, PRNGKey

UNIT = nn.initializers.ones
"""Initialiser of weights that start as draws of a standard normal."""
ZERO = nn.initializers.zeros
"""Initialiser of weights that start at zero."""


def draw(module: nn.Module, rng_key: PRNGKey, *inputs: Any) -> Params:
    """Draw the weights of a module whose initialisers give their standard deviations.

    Args:
        module: with :data:`UNIT` and :data:`ZERO` as initialisers.
        rng_key: PRNG key.
        inputs: of the module, from which weights take their shapes.

    Returns:
        A draw of the standard normal prior (Rensmeyer et al. 2024, section 3.2), zero where the std is.
    """
    stds, treedef = jax.tree.flatten(module.init(rng_key, *inputs)["params"])
    ends = np.cumsum([std.size for std in stds])
    draws = jnp.split(jax.random.normal(rng_key, (ends[-1],), stds[0].dtype), ends[:-1])
    return jax.tree.unflatten(treedef, [std * each.reshape(std.shape) for std, each in zip(stds, draws, strict=True)])
