"""The likelihood of labelled structures under a stochastic potential."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from bnn_jax.atoms.graph import node_structure
from bnn_jax.types import Batch, Prediction

LOG_2PI = 1.8378770664093453


def _normal(error: Float[Array, "*shape"], std: Float[Array, "*#shape"], mask: Bool[Array, "*#shape"]) -> Array:
    """Log density of a normal at ``error`` from its mean; zero where masked, in value and in gradient."""
    standard = jnp.where(mask, error, 0) / jnp.where(mask, std, 1)
    return jnp.where(mask, -0.5 * (standard**2 + LOG_2PI) - jnp.log(jnp.where(mask, std, 1)), 0)


def _total(std: Float[Array, "*#shape"], epistemic: Float[Array, "*shape"] | None) -> Array:
    return std if epistemic is None else jnp.hypot(std, epistemic)


def log_likelihood(prediction: Prediction, batch: Batch, stress_std: float) -> Float[Array, " structure"]:
    r"""Log likelihood of each structure of a padded batch; zero for padding.

    .. math:: \ln N(E; \mu_E, \sigma_E^2) + \sum_i \ln N(F_i; \mu_{F_i}, \sigma_{F_i}^2 I)
              [+ \sum_{a \le b} \ln N(S_{ab}; \mu_{S_{ab}}, \sigma_S^2 (1 + \delta_{ab}) / 2)]

    Where the prediction has epistemic stds, the variances are those of the noise and theirs together, which may differ
    between the components of a force. A label whose mask is False drops its term. The stress term counts the six
    independent components of a symmetric tensor; with half the variance off the diagonal it depends on the Frobenius
    norm of the error alone. So the density does not change when everything is rotated, epistemic stds of components
    apart.

    Args:
        prediction: output of ``Potential.apply`` on ``batch.graph``.
        batch: the padded graph and its labels.
        stress_std: standard deviation of a diagonal stress component, in eV/Angstrom^3.

    Reference: Rensmeyer et al. (2024), section 3.2.
    """
    labels, graph = batch.labels, batch.graph
    energy_std = _total(prediction.energy_std, prediction.energy_std_epistemic)
    forces_std = _total(prediction.forces_std[:, None], prediction.forces_std_epistemic)
    total = _normal(prediction.energy - labels.energy, energy_std, labels.energy_mask)
    forces = _normal(prediction.forces - labels.forces, forces_std, labels.forces_mask[:, None])
    total = total.at[node_structure(graph)].add(jnp.sum(forces, axis=1), indices_are_sorted=True)
    if prediction.stress is not None:
        rows, columns = jnp.triu_indices(3)
        error = (prediction.stress - labels.stress)[:, rows, columns]
        std = jnp.where(rows == columns, 1, jnp.sqrt(0.5)).astype(error.dtype) * stress_std
        total = total + jnp.sum(_normal(error, std, labels.stress_mask[:, None]), axis=1)
    return total
