"""Molecular dynamics of replicas in compiled loops, with the error bars of what they go through."""

from bnn_jax.dynamics.run import simulate
from bnn_jax.dynamics.settings import Bounds, Settings
from bnn_jax.dynamics.trajectory import Trajectory

__all__ = ["Bounds", "Settings", "Trajectory", "simulate"]
