"""Methods that put error bars on a potential, one file each, with one protocol: fit to a posterior that predicts."""

from bnn_jax.methods.base import Posterior, load_predictor
from bnn_jax.methods.registry import Method, get, names, register
from bnn_jax.methods.target import LogPosterior, log_posterior

__all__ = ["LogPosterior", "Method", "Posterior", "get", "load_predictor", "log_posterior", "names", "register"]
