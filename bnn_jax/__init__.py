"""Uncertainty for machine-learned interatomic potentials, as composable JAX functions."""

# Names are imported when they are first asked for: `bnn-jax --help` need not wait seconds for JAX.
import importlib
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnn_jax import compose as compose
    from bnn_jax import dynamics as dynamics
    from bnn_jax import properties as properties
    from bnn_jax import rigidity as rigidity
    from bnn_jax import sampling as sampling
    from bnn_jax.api import fit as fit
    from bnn_jax.atoms.dataset import Dataset as Dataset
    from bnn_jax.atoms.sources import load as load
    from bnn_jax.calculator import BNNCalculator as BNNCalculator
    from bnn_jax.compose import graph as graph
    from bnn_jax.config import Config as Config
    from bnn_jax.evaluation import evaluate as evaluate
    from bnn_jax.export import load_exported as load_exported
    from bnn_jax.methods import Posterior as Posterior
    from bnn_jax.methods import log_posterior as log_posterior
    from bnn_jax.model import nequip as nequip
    from bnn_jax.predict import Predictor as Predictor
    from bnn_jax.properties import propagate as propagate
    from bnn_jax.sampling.sghmc import as_top_level_api as sghmc
    from bnn_jax.types import InputError as InputError
    from bnn_jax.types import Potential as Potential
    from bnn_jax.types import Prediction as Prediction
    from bnn_jax.types import Predictive as Predictive

__version__ = _version("bnn_jax")

_HOMES = {
    "BNNCalculator": "calculator",
    "Config": "config",
    "Dataset": "atoms.dataset",
    "InputError": "types",
    "Posterior": "methods",
    "Potential": "types",
    "Prediction": "types",
    "Predictive": "types",
    "Predictor": "predict",
    "evaluate": "evaluation",
    "fit": "api",
    "graph": "compose",
    "load": "atoms.sources",
    "load_exported": "export",
    "log_posterior": "methods",
    "nequip": "model",
    "propagate": "properties",
    "sghmc": "sampling.sghmc:as_top_level_api",
}

_ROOMS = ("compose", "dynamics", "properties", "rigidity", "sampling")

__all__ = [
    "BNNCalculator",
    "Config",
    "Dataset",
    "InputError",
    "Posterior",
    "Potential",
    "Prediction",
    "Predictive",
    "Predictor",
    "compose",
    "dynamics",
    "evaluate",
    "fit",
    "graph",
    "load",
    "load_exported",
    "log_posterior",
    "nequip",
    "propagate",
    "properties",
    "rigidity",
    "sampling",
    "sghmc",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        value = importlib.import_module(f"bnn_jax.{name}")
    elif name in _HOMES:
        module, _, attribute = _HOMES[name].partition(":")
        value = getattr(importlib.import_module(f"bnn_jax.{module}"), attribute or name)
    else:
        raise AttributeError(f"module 'bnn_jax' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
