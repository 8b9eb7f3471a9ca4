"""A linear model of the energy per atom whose blocks of features are its components, and their rigidities."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bnn_jax.rigidity import DenseHessian, components, dense_hessian, prediction_rigidity

Array = np.ndarray


class ComponentModel(NamedTuple):
    """Weights of a ridge regression and what they are known to."""

    hessian: DenseHessian
    """Of half the square error, with the regulariser (Chong et al. 2024, eq. 6)."""
    weights: Float[Array, " feature"]
    offset: float
    """eV an atom, where all features are zero; not regularised, and no part of the Hessian."""
    slices: Mapping[str, slice]
    """Columns of each component."""

    def energies(self, features: Float[Array, "structure feature"]) -> Float[Array, " structure"]:
        """In eV an atom."""
        return features @ self.weights + self.offset

    def component_energies(self, features: Float[Array, "structure feature"]) -> dict[str, Float[Array, " structure"]]:
        """Parts of the energies beside the offset, in eV an atom."""
        return {name: rows @ self.weights for name, rows in components(features, self.slices).items()}

    def component_rigidities(
        self, features: Float[Array, "structure feature"]
    ) -> dict[str, Float[Array, " structure"]]:
        """CPR of each structure, in 1/eV^2 where the errors in the loss have weight one (eq. 2 and table 1)."""
        return {
            name: prediction_rigidity(rows, self.hessian) for name, rows in components(features, self.slices).items()
        }


def fit(
    features: Float[Array, "structure feature"],
    energy: Float[Array, " structure"],
    alpha: float,
    slices: Mapping[str, slice],
    offset: float,
) -> ComponentModel:
    """Ridge regression by the normal equations.

    Args:
        features: means over the atoms of each training structure.
        energy: in eV an atom.
        alpha: added to the diagonal of the Hessian.
        slices: columns of each component; together all of them.
        offset: subtracted from the energies, in eV an atom.
    """
    hessian = dense_hessian([features], np.sqrt(alpha))
    weights = hessian.solve(((energy - offset) @ features)[None])[0]
    return ComponentModel(hessian, weights, offset, slices)


def rmse(errors: Float[Array, " structure"]) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(errors**2)))
