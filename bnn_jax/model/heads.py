"""What is read off the invariant features: atomic energies and standard deviations."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from bnn_jax.config import ModelConfig
from bnn_jax.model.radial import MLP

LARGEST_STD = 10.0
"""In units of ``scale``, that :func:`bounded` approaches."""


def bounded(log_std: Float[Array, " atom"]) -> Float[Array, " atom"]:
    r"""A logarithm that is itself below zero, where the std is below ``scale``, and grows no further than log 10.

    .. math:: x \mapsto x \;(x \le 0), \quad c \tanh(x / c) \;(x > 0), \quad c = \log 10

    The network that gives the logarithm is linear far from its training data, so that its exponential explodes there
    where nothing bounds it. The root mean square of the training forces, which ``scale`` is, is about as wrong as a
    force can be by ignorance alone. Two derivatives are continuous.

    Args:
        log_std: of stds in units of ``scale``.
    """
    largest = math.log(LARGEST_STD)
    return jnp.where(log_std > 0, largest * jnp.tanh(jnp.maximum(log_std, 0) / largest), log_std)


class Heads(nn.Module):
    """Linear energy readout and two networks for standard deviations (Rensmeyer 2024, Fig. 2)."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self, features: Float[Array, "atom channel"]
    ) -> tuple[Float[Array, " atom"], Float[Array, " atom"], Float[Array, " atom"]]:
        """Energies in units of ``scale``, and logarithms of the energy's and the forces' std in that unit, per atom."""
        widths = (*self.config.std_hidden, 1)
        energies = MLP((1,), name="energy")(features)[:, 0]
        energy_log_std = MLP(widths, use_bias=True, zero_last=True, name="energy_std")(features)[:, 0]
        forces_log_std = MLP(widths, use_bias=True, zero_last=True, name="forces_std")(features)[:, 0]
        if self.config.std_growth == "bounded":
            energy_log_std, forces_log_std = bounded(energy_log_std), bounded(forces_log_std)
        return energies, energy_log_std, forces_log_std
