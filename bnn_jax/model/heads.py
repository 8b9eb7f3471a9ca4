"""What is read off the invariant features: atomic energies and standard deviations."""

import flax.linen as nn
from jaxtyping import Array, Float

from bnn_jax.config import ModelConfig
from bnn_jax.model.radial import MLP


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
        return energies, energy_log_std, forces_log_std
