"""Cross-validated least squares of labels that are linear in the same coefficients, by their normal equations."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int

NUM_FOLDS = 4
RIDGE = 1e-6
"""Of coefficients that are scaled to one unit each."""
NEGLIGIBLE = 1e-6
"""In eV and Angstrom: labels that differ by no more, root mean square, tell nothing."""


class Rows(NamedTuple):
    """A label as a linear function of the coefficients."""

    rows: Float[np.ndarray, "value coefficient"]
    values: Float[np.ndarray, " value"]
    folds: Int[np.ndarray, " value"]

    def without(self, nuisance: Float[np.ndarray, "value column"]) -> "Rows":
        """What linear combinations of the nuisance do not explain: sums of atomic energies, a constant pressure."""
        if not len(self.values):
            return self
        basis = scipy.linalg.orth(nuisance)
        return self._replace(
            rows=self.rows - basis @ (basis.T @ self.rows), values=self.values - basis @ (basis.T @ self.values)
        )


class Gram(NamedTuple):
    """Normal equations of a label in each fold; the squares of the values of all folds add up to one."""

    matrix: Float[np.ndarray, "fold coefficient coefficient"]
    vector: Float[np.ndarray, "fold coefficient"]
    square: Float[np.ndarray, " fold"]

    @classmethod
    def mean(cls, grams: Sequence["Gram"]) -> Self:
        """Of several labels, each with the same weight."""
        return cls(*(np.mean(parts, axis=0) for parts in zip(*grams, strict=True)))

    def error(
        self, fold: int, coefficients: Float[np.ndarray, "factor coefficient"], factors: np.ndarray | float
    ) -> Float[np.ndarray, " factor"]:
        """Squared error in a fold of what the coefficients predict, times a factor."""
        quadratic = np.einsum("fc,fc->f", coefficients @ self.matrix[fold], coefficients)
        return self.square[fold] - 2 * factors * (coefficients @ self.vector[fold]) + factors**2 * quadratic


def gram_of(label: Rows) -> Gram | None:
    """Normal equations of a label; None if a fold lacks it or its values are all but zero."""
    total = np.sum(label.values**2)
    if len(np.unique(label.folds)) < NUM_FOLDS or total <= NEGLIGIBLE**2 * len(label.values):
        return None
    parts = [(label.rows[label.folds == fold], label.values[label.folds == fold]) for fold in range(NUM_FOLDS)]
    return Gram(
        np.stack([rows.T @ rows for rows, _ in parts]) / total,
        np.stack([rows.T @ values for rows, values in parts]) / total,
        np.stack([values @ values for _, values in parts]) / total,
    )


def errors(
    believed: Gram, asked: Gram, factors: Float[np.ndarray, " factor"]
) -> tuple[Float[np.ndarray, " factor"], Float[np.ndarray, " factor"]]:
    """Cross-validated squared errors of labels that are believed, and of others that are divided by each factor.

    Both are relative to the squares of the labels.
    """
    wrong_believed, wrong_asked = np.zeros((2, len(factors)))
    for fold in range(NUM_FOLDS):
        # With both matrices diagonal, a factor costs no more than a product.
        values, vectors = scipy.linalg.eigh(
            others_of(asked.matrix, fold), _with_ridge(others_of(believed.matrix, fold))
        )
        projected = [vectors.T @ others_of(gram.vector, fold) for gram in (believed, asked)]
        shrunk = (projected[0] + factors[:, None] * projected[1]) / (1 + factors[:, None] ** 2 * np.maximum(values, 0))
        coefficients = shrunk @ vectors.T
        wrong_believed += believed.error(fold, coefficients, 1.0)
        wrong_asked += asked.error(fold, coefficients, factors)
    return wrong_believed, wrong_asked


def fit(matrix: Float[np.ndarray, "coefficient coefficient"], vector: Float[np.ndarray, " coefficient"]) -> np.ndarray:
    """Coefficients that solve normal equations, with a small ridge."""
    return scipy.linalg.solve(_with_ridge(matrix), vector, assume_a="pos")


def _with_ridge(matrix: Float[np.ndarray, "coefficient coefficient"]) -> np.ndarray:
    scales = np.diag(matrix) + 1e-6 * np.diag(matrix).max()
    return matrix + np.diag(RIDGE * len(matrix) * scales)


def others_of(parts: Float[np.ndarray, "fold ..."], fold: int) -> np.ndarray:
    """The sum over all folds but one."""
    return np.delete(parts, fold, axis=0).sum(axis=0)
