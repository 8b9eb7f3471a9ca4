"""The stochastic NequIP behind ``Potential(init, apply)``; the only room that knows flax and e3nn."""

from bnn_jax.model.channels import channel_readers
from bnn_jax.model.initial import draw
from bnn_jax.model.leaves import leaf, with_leaf
from bnn_jax.model.potential import nequip
from bnn_jax.model.radial import MLP
from bnn_jax.model.readout import PATH as READOUT_PATH
from bnn_jax.model.readout import readout, with_readout

__all__ = ["MLP", "READOUT_PATH", "channel_readers", "draw", "leaf", "nequip", "readout", "with_leaf", "with_readout"]
