"""The stochastic NequIP behind ``Potential(init, apply)``; the only room that knows flax and e3nn."""

from bnn_jax.model.potential import nequip

__all__ = ["nequip"]
