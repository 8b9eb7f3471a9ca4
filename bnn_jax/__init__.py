"""Uncertainty for machine-learned interatomic potentials, as composable JAX functions."""

from importlib.metadata import version as _version

from bnn_jax import sampling as sampling
from bnn_jax.api import fit
from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.sources import load
from bnn_jax.config import Config
from bnn_jax.evaluation import evaluate
from bnn_jax.methods import Posterior
from bnn_jax.model import nequip
from bnn_jax.sampling.sghmc import as_top_level_api as sghmc
from bnn_jax.types import InputError, Potential, Prediction, Predictive

__version__ = _version("bnn_jax")

__all__ = [
    "Config",
    "Dataset",
    "InputError",
    "Posterior",
    "Potential",
    "Prediction",
    "Predictive",
    "evaluate",
    "fit",
    "load",
    "nequip",
    "sampling",
    "sghmc",
]
