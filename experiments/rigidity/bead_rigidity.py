"""Rigidities of networks that were trained on forces alone."""

import numpy as np

from bnn_jax import Dataset
from bnn_jax.rigidity import Network, RigidityModel, gauss_newton_matrix, jacobians, last_layer
from bnn_jax.rigidity.gauss_newton import absolute_zeta, regularised

NAME = "every_force"


def force_rigidity(network: Network, train: Dataset, zeta: float) -> RigidityModel:
    """The last layer's Hessian of the square errors of forces of weight 1/(eV/Angstrom)^2.

    It equals that of :func:`bnn_jax.rigidity.fit_rigidity`, but goes through the weights of the last layer, which are
    a dozen, instead of the coordinates of the beads, which are hundreds.

    Args:
        network: whose energies are judged.
        train: what it was trained on, with every force.
        zeta: regulariser, relative to the root of the mean diagonal element.

    Reference: Chong et al. (2024), eq. 6 and 7.
    """
    weights = last_layer(network)
    num_weights = len(weights.vector)

    def outputs_fn(params, graph):  # under a name of its own, for outputs called forces are differentiated otherwise
        return {NAME: network.apply(params, graph).forces}

    rows = (each.rows[NAME].reshape(-1, num_weights) for each in jacobians(network, weights, train, outputs_fn))
    matrix = gauss_newton_matrix(rows)
    absolute = absolute_zeta(zeta, float(np.trace(matrix)), num_weights)
    return RigidityModel(network, weights, regularised(matrix, absolute), absolute, None)
