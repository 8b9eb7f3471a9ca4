"""The curvature of a loss in the predictions: what each row of derivatives weighs in the Hessian."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.rigidity.jacobian import Jacobian
from bnn_jax.types import InputError


class SquareLoss(NamedTuple):
    r"""Half the weighted square errors of energies, forces and stresses.

    .. math:: \ell = \tfrac12 \lambda_E (E - \tilde E)^2 + \tfrac12 \lambda_f \sum_\alpha (f_\alpha - \tilde f_\alpha)^2
              + \tfrac12 \lambda_s \sum_\beta (s_\beta - \tilde s_\beta)^2

    The paper's eq. 5 has no halves and its eq. 6 leaves the factor of two out; with them the two agree, and a structure
    that is added raises the rigidity of its own energy by its weight (Appendix B).

    Reference: Chong et al. (2024), eq. 5 and 6.
    """

    energy: float = 1.0
    """Weight of energies, in 1/eV^2."""
    forces: float = 0.0
    """Weight of force components, in 1/(eV/Angstrom)^2."""
    stress: float = 0.0
    """Weight of the nine stress components, in 1/(eV/Angstrom^3)^2."""
    per_atom: bool = False
    """Whether energies are divided by the number of atoms."""

    @property
    def names(self) -> tuple[str, ...]:
        """Outputs that have a weight."""
        return tuple(name for name in ("energy", "forces", "stress") if getattr(self, name) > 0)


class Outputs(NamedTuple):
    """Predictions, or labels, of one structure."""

    energy: Float[Array, ""]
    """Above the atomic shifts, in eV."""
    forces: Float[Array, "atom 3"]
    """In eV/Angstrom."""


Loss = SquareLoss | Callable[[Outputs, Outputs], Float[Array, ""]]
"""A square loss, or ``loss(predicted, labels)`` of one structure, twice differentiable in what is predicted."""


def names_of(loss: Loss) -> tuple[str, ...]:
    """Outputs that a loss looks at.

    Raises:
        InputError: it looks at none.
    """
    names = loss.names if isinstance(loss, SquareLoss) else ("energy", "forces")
    if not names:
        raise InputError("Every weight of the loss is zero; give one of energy, forces and stress.")
    return names


def weighted_rows(
    jacobians: Iterable[Jacobian],
    dataset: Dataset,
    shifts: Float[np.ndarray, " structure"],
    loss: Loss,
    first: int = 0,
) -> Iterator[Float[np.ndarray, "_row parameter"]]:
    r"""Rows of each structure whose squares add up to the Gauss-Newton Hessian, :math:`H = \sum A^T A`.

    :math:`A = \Lambda^{1/2} J`, where :math:`\Lambda` is the Hessian of the loss in the predictions. What has no label
    does not count.

    Args:
        jacobians: of the structures from ``first`` on, in order, with the outputs of :func:`names_of`.
        dataset: with labels.
        shifts: sums of the atomic shifts, in eV; only a loss that is not square looks at them.
        loss: that the network was trained on.
        first: structure that the derivatives begin with.

    Raises:
        InputError: the loss is not convex in the predictions, or a derivative is not finite.

    Reference: Chong et al. (2024), eq. 6 and 9.
    """
    curvature = None if isinstance(loss, SquareLoss) else _curvature(loss)
    for i, jacobian in enumerate(jacobians, first):
        atoms = slice(dataset.offsets[i], dataset.offsets[i + 1])
        if isinstance(loss, SquareLoss):
            rows = _square_rows(jacobian, dataset, i, atoms, loss)
        else:
            assert curvature is not None
            labels = Outputs(jnp.asarray(dataset.energy[i] - shifts[i]), jnp.asarray(dataset.forces[atoms]))
            rows = _general_rows(jacobian, labels, curvature, i)
        if not np.isfinite(rows).all():
            raise InputError(f"The derivatives of structure {i} are not finite; leave it out, or look at the network.")
        yield rows


def _square_rows(jacobian: Jacobian, dataset: Dataset, i: int, atoms: slice, loss: SquareLoss) -> np.ndarray:
    labels = {"energy": dataset.energy[i : i + 1], "forces": dataset.forces[atoms], "stress": dataset.stress[i]}
    parts = []
    for name in loss.names:
        rows = jacobian.rows[name][np.isfinite(labels[name])]
        scale = 1.0 / dataset.num_atoms[i] if name == "energy" and loss.per_atom else 1.0
        parts.append(float(np.sqrt(getattr(loss, name))) * scale * rows)
    return np.concatenate(parts)


def _curvature(loss: Callable[[Outputs, Outputs], Array]) -> Callable[[Outputs, Outputs], Array]:
    """Hessian of a loss in the predictions, as one matrix; compiled once for each number of atoms."""

    @jax.jit
    def curvature(predicted: Outputs, labels: Outputs) -> Array:
        flat, rebuild = ravel_pytree(predicted)
        known = ravel_pytree(jax.tree.map(jnp.isfinite, labels))[0]
        # What has no label is set to what was predicted, and its row and column are left out.
        filled = jax.tree.map(lambda label, value: jnp.where(jnp.isfinite(label), label, value), labels, predicted)
        matrix = jax.hessian(lambda values: loss(rebuild(values), filled))(flat)
        return jnp.where(known[:, None] & known[None, :], matrix, 0)

    return curvature


def _general_rows(
    jacobian: Jacobian, labels: Outputs, curvature: Callable[[Outputs, Outputs], Array], i: int
) -> np.ndarray:
    predicted = Outputs(jnp.asarray(jacobian.values["energy"][0]), jnp.asarray(jacobian.values["forces"]))
    labels = jax.tree.map(lambda label, value: label.astype(value.dtype), labels, predicted)
    matrix = np.asarray(curvature(predicted, labels), np.float64)
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    if values[0] < -1e-6 * max(values[-1], 0.0):
        raise InputError(
            f"The loss of structure {i} is not convex in the predictions (curvature {values[0]:.3g}), so that its"
            " Gauss-Newton Hessian need not be positive; choose another loss."
        )
    num_weights = jacobian.rows["energy"].shape[-1]
    rows = np.concatenate([jacobian.rows[name].reshape(-1, num_weights) for name in ("energy", "forces")])
    kept = values > 0
    return np.sqrt(values[kept])[:, None] * (vectors[:, kept].T @ rows.astype(np.float64))
