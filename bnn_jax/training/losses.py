"""Losses of a padded batch that networks are trained on, in the unit of the papers: kcal/mol and Angstrom."""

from typing import NamedTuple

import jax.numpy as jnp
from jax.scipy.special import gammaln
from jaxtyping import Array, Float

from bnn_jax.atoms.graph import structure_mask
from bnn_jax.config import Variant
from bnn_jax.posterior.likelihood import LOG_2PI, log_likelihood
from bnn_jax.types import Batch, Prediction
from bnn_jax.units import EV_PER_KCAL_PER_MOL

MIN_VARIANCE = 1e-8
"""Of a force, in (kcal/mol/Angstrom)^2: what Tan's code clamps variances to."""
MIN_EVIDENCE = 1e-4
"""Added to nu, to alpha - 1 and to beta, which otherwise collapse to zero (Tan et al. 2023, section 3.1, and code)."""


class Evidence(NamedTuple):
    """Parameters of the normal-inverse-gamma distribution of an atom's force (Tan et al. 2023, eq. 7)."""

    nu: Float[Array, " atom"]
    alpha: Float[Array, " atom"]
    """Above one."""
    beta: Float[Array, " atom"]
    """In (eV/Angstrom)^2."""


def negative_log_likelihood(prediction: Prediction, batch: Batch, stress_std: float) -> Float[Array, ""]:
    """Minus the mean log likelihood of a structure; every label counts.

    Args:
        prediction: of the batch, with positive stds.
        batch: whose last structure is padding, as empty ones are.
        stress_std: see :func:`bnn_jax.posterior.likelihood.log_likelihood`.

    Reference: Rensmeyer et al. (2024), section 3.2.
    """
    num_structures = jnp.sum(structure_mask(batch.graph))
    return -jnp.sum(log_likelihood(prediction, batch, stress_std)) / num_structures


def absolute_energy_error(prediction: Prediction, batch: Batch) -> Float[Array, ""]:
    r"""Mean over structures of :math:`|E - \hat E|`, in kcal/mol; zero where no structure has an energy.

    Reference: Tan et al. (2023), SI eq. 2.
    """
    mask = batch.labels.energy_mask
    return _mean(jnp.abs(prediction.energy - batch.labels.energy), mask) / EV_PER_KCAL_PER_MOL


def absolute_error(
    prediction: Prediction, batch: Batch, energy_weight: float, forces_weight: float
) -> Float[Array, ""]:
    r""":math:`w_E |E - \hat E| + w_F |F - \hat F|`: means over structures and over components.

    Args:
        prediction: of the batch.
        batch: with its labels; stresses are not used.
        energy_weight: of kcal/mol.
        forces_weight: of kcal/mol/Angstrom.

    Reference: Tan et al. (2023), SI eq. 1.
    """
    mask = jnp.broadcast_to(batch.labels.forces_mask[:, None], prediction.forces.shape)
    forces = _mean(jnp.abs(prediction.forces - batch.labels.forces), mask) / EV_PER_KCAL_PER_MOL
    return energy_weight * absolute_energy_error(prediction, batch) + forces_weight * forces


def mean_variance(
    prediction: Prediction, batch: Batch, energy_weight: float, forces_weight: float, variant: Variant = "paper"
) -> Float[Array, ""]:
    r"""Absolute error of energies, negative log likelihood of forces under ``forces_std``.

    .. math:: w_E |E - \hat E| + w_F \tfrac12 \left[\log 2 \pi \sigma^2 + \frac{(F - \mu)^2}{\sigma^2}\right]

    Args:
        prediction: of the batch.
        batch: with its labels; stresses are not used.
        energy_weight: of kcal/mol.
        forces_weight: of the likelihood, in kcal/mol/Angstrom.
        variant: ``paper``: mean over force components; ``code``: mean over atoms, an error being its norm.

    Reference: Tan et al. (2023), SI eq. 2 to 4.
    """
    variance = jnp.maximum((prediction.forces_std / EV_PER_KCAL_PER_MOL) ** 2, MIN_VARIANCE)
    square = _square_errors(prediction, batch, variant)
    likelihood = 0.5 * (LOG_2PI + jnp.log(variance)[:, None] + square / variance[:, None])
    forces = _mean(likelihood, _as_mask(batch, square))
    return energy_weight * absolute_energy_error(prediction, batch) + forces_weight * forces


def evidential(
    prediction: Prediction,
    evidence: Evidence,
    batch: Batch,
    energy_weight: float,
    forces_weight: float,
    regulariser: float,
    variant: Variant = "paper",
) -> Float[Array, ""]:
    r"""Absolute error of energies, evidential loss of forces: a Student t likelihood, and errors times evidence.

    .. math:: \tfrac12 \log\frac{\pi}{\nu} - \alpha \log\Omega + (\alpha + \tfrac12) \log[(F - \gamma)^2 \nu + \Omega]
              + \log\frac{\Gamma(\alpha)}{\Gamma(\alpha + \frac12)} + \lambda |F - \gamma| (2 \nu + \alpha),
              \qquad \Omega = 2 \beta (1 + \nu)

    Args:
        prediction: of the batch.
        evidence: of its atoms.
        batch: with its labels; stresses are not used.
        energy_weight: of kcal/mol.
        forces_weight: of the loss of forces, in kcal/mol/Angstrom.
        regulariser: lambda.
        variant: as for :func:`mean_variance`.

    Reference: Tan et al. (2023), SI eq. 5 to 9; Amini et al. (2020), arXiv:1910.02600, eq. 8 to 10.
    """
    square = _square_errors(prediction, batch, variant)
    nu, alpha = evidence.nu[:, None], evidence.alpha[:, None]
    omega = 2 * evidence.beta[:, None] / EV_PER_KCAL_PER_MOL**2 * (1 + nu)
    likelihood = (
        0.5 * jnp.log(jnp.pi / nu)
        - alpha * jnp.log(omega)
        + (alpha + 0.5) * jnp.log(square * nu + omega)
        + gammaln(alpha)
        - gammaln(alpha + 0.5)
    )
    # The root has no derivative at zero, where padded atoms are.
    error = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    forces = _mean(likelihood + regulariser * error * (2 * nu + alpha), _as_mask(batch, square))
    return energy_weight * absolute_energy_error(prediction, batch) + forces_weight * forces


def _square_errors(prediction: Prediction, batch: Batch, variant: Variant) -> Float[Array, "atom component"]:
    """In (kcal/mol/Angstrom)^2, zero where there is no label."""
    difference = jnp.where(batch.labels.forces_mask[:, None], prediction.forces - batch.labels.forces, 0)
    square = (difference / EV_PER_KCAL_PER_MOL) ** 2
    return square if variant == "paper" else jnp.sum(square, axis=1, keepdims=True)


def _as_mask(batch: Batch, values: Float[Array, "atom component"]) -> Array:
    return jnp.broadcast_to(batch.labels.forces_mask[:, None], values.shape)


def _mean(values: Array, mask: Array) -> Float[Array, ""]:
    return jnp.sum(jnp.where(mask, values, 0)) / jnp.maximum(jnp.sum(mask), 1)
