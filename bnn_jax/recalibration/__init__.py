"""Recalibration of predicted uncertainties on a validation set, by named methods. Units follow the arguments."""

from bnn_jax.recalibration.affine import Affine
from bnn_jax.recalibration.conformal import ConformalScaling
from bnn_jax.recalibration.isotonic import Isotonic
from bnn_jax.recalibration.recalibration import Recalibration, fit_recalibration
from bnn_jax.recalibration.registry import METHODS, find_method
from bnn_jax.recalibration.validation import ScoreKind
from bnn_jax.recalibration.variance import VarianceScaling

__all__ = [
    "METHODS",
    "Affine",
    "ConformalScaling",
    "Isotonic",
    "Recalibration",
    "ScoreKind",
    "VarianceScaling",
    "find_method",
    "fit_recalibration",
]
