"""Prediction rigidities: how firmly the training set holds a prediction in place (Chong et al. 2024)."""

from bnn_jax.rigidity.conventions import CONVENTIONS, Convention
from bnn_jax.rigidity.embedding import (
    BUFFER_STD,
    CLOSE_CONTACT,
    Embedding,
    carve_cluster,
    displace_buffer,
    embed_in_crystal,
    embed_periodic,
    enhancement,
)
from bnn_jax.rigidity.gauss_newton import DenseHessian, dense_hessian, gauss_newton_matrix, last_layer_precision
from bnn_jax.rigidity.jacobian import Jacobian, jacobians
from bnn_jax.rigidity.kernel import KernelHessian, kernel_hessian
from bnn_jax.rigidity.loss import SquareLoss, weighted_rows
from bnn_jax.rigidity.matrix_free import MatrixFreeHessian, gauss_newton_product, matrix_free_hessian
from bnn_jax.rigidity.model import FormOptions, RigidityModel, fit_rigidity
from bnn_jax.rigidity.network import Network, Weights, all_weights, last_layer, outputs
from bnn_jax.rigidity.rigidity import Hessian, calibration_factor, components, prediction_rigidity
from bnn_jax.rigidity.selection import Selection, random_selection, select_by_rigidity, stratified_selection
from bnn_jax.rigidity.sketch import Sketch, draw_sketch

__all__ = [
    "BUFFER_STD",
    "CLOSE_CONTACT",
    "CONVENTIONS",
    "Convention",
    "DenseHessian",
    "Embedding",
    "FormOptions",
    "Hessian",
    "Jacobian",
    "KernelHessian",
    "MatrixFreeHessian",
    "Network",
    "RigidityModel",
    "Selection",
    "Sketch",
    "SquareLoss",
    "Weights",
    "all_weights",
    "calibration_factor",
    "carve_cluster",
    "components",
    "dense_hessian",
    "displace_buffer",
    "draw_sketch",
    "embed_in_crystal",
    "embed_periodic",
    "enhancement",
    "fit_rigidity",
    "gauss_newton_matrix",
    "gauss_newton_product",
    "jacobians",
    "kernel_hessian",
    "last_layer",
    "last_layer_precision",
    "matrix_free_hessian",
    "outputs",
    "prediction_rigidity",
    "random_selection",
    "select_by_rigidity",
    "stratified_selection",
    "weighted_rows",
]
