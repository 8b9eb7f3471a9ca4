"""Methods that put error bars on a potential, one file each, with one protocol: fit to a posterior that predicts."""

from bnn_jax.methods.base import Posterior

__all__ = ["Posterior"]
