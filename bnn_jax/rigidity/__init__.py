"""Prediction rigidities: how firmly the training set holds a prediction in place (Chong et al. 2024)."""

from bnn_jax.rigidity.gauss_newton import last_layer_precision
from bnn_jax.rigidity.rigidity import prediction_rigidity

__all__ = ["last_layer_precision", "prediction_rigidity"]
