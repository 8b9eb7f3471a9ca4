"""The Gauss-Newton Hessian as one matrix: of a last layer, or of all weights where they are few."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Float
from scipy.linalg import cho_solve, cholesky, eigh, solve_triangular

from bnn_jax.types import InputError

BLOCK_BYTES = 2**26
"""Of rows whose products are added up together: to make the product then costs more than to add it."""


def last_layer_precision(
    features: Float[np.ndarray, "row feature"],
    zeta: float,
    weights: Float[np.ndarray, " row"] | None = None,
) -> Float[np.ndarray, "feature feature"]:
    r"""Precision of the weights of a linear last layer, in float64.

    .. math:: H = \sum_i w_i f_i f_i^T + \zeta^2 I

    Args:
        features: derivatives of the training predictions by those weights, one row each: an energy's, or a force
            component's.
        zeta: regulariser, in the unit of the features times the root of the weights.
        weights: of the square errors in the loss; one if None.

    Raises:
        ValueError: a value is not finite, a weight is negative, or the shapes differ.

    Reference: Chong et al. (2024), eq. 6 and 7; Bigi et al. (2024), doi:10.1088/2632-2153/ad805f.
    """
    features = np.asarray(features, np.float64)
    weights = np.ones(len(features)) if weights is None else np.asarray(weights, np.float64)
    if weights.shape != features.shape[:1]:
        raise ValueError(f"There are {len(features)} rows of features and {len(weights)} weights; give one each.")
    if not (np.isfinite(features).all() and np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError("A feature or a weight is not finite, or a weight is negative; remove its row.")
    return gauss_newton_matrix([np.sqrt(weights)[:, None] * features]) + zeta**2 * np.eye(features.shape[1])


def gauss_newton_matrix(
    rows: Iterable[Float[np.ndarray, "_row parameter"]],
) -> Float[np.ndarray, "parameter parameter"]:
    r"""Sum of :math:`A^T A` over batches of rows, in float64.

    Args:
        rows: weighted derivatives, from :func:`bnn_jax.rigidity.loss.weighted_rows`.

    Raises:
        InputError: there are no rows.

    Reference: Chong et al. (2024), eq. 6.
    """
    total: np.ndarray | None = None
    for _, block in blocks(rows, BLOCK_BYTES):
        block = block.astype(np.float64)
        total = block.T @ block if total is None else total + block.T @ block
    if total is None:
        raise InputError("There are no labelled structures to make a Hessian of; give some.")
    return total


def blocks(
    rows: Iterable[Float[np.ndarray, "_row parameter"]], block_bytes: int
) -> Iterator[tuple[int, Float[np.ndarray, "_row parameter"]]]:
    """Rows of several structures together, and the number of these structures.

    Args:
        rows: of each structure.
        block_bytes: that a block may have, if it is of more than one structure.
    """
    held: list[np.ndarray] = []
    size = 0
    for each in rows:
        if held and size + each.nbytes > block_bytes:
            yield len(held), np.concatenate(held)
            held, size = [], 0
        held.append(each)
        size += each.nbytes
    if held:
        yield len(held), np.concatenate(held)


class DenseHessian(NamedTuple):
    """A Hessian and its Cholesky factor, both in float64."""

    matrix: Float[np.ndarray, "parameter parameter"]
    """With ``zeta**2`` and the jitter on its diagonal."""
    factor: Float[np.ndarray, "parameter parameter"]
    """Lower triangular."""
    jitter: float
    """What was added to the diagonal beside ``zeta**2`` so that rounding leaves the matrix positive; often zero."""

    def matvec(self, vectors: Float[np.ndarray, "target parameter"]) -> Float[np.ndarray, "target parameter"]:
        """H v of several vectors."""
        return vectors @ self.matrix

    def solve(self, vectors: Float[np.ndarray, "target parameter"]) -> Float[np.ndarray, "target parameter"]:
        """H^-1 v of several vectors."""
        return cho_solve((self.factor, True), np.asarray(vectors, np.float64).T).T

    def quadratic(self, vectors: Float[np.ndarray, "target parameter"]) -> Float[np.ndarray, " target"]:
        """v^T H^-1 v of several vectors."""
        return np.sum(solve_triangular(self.factor, np.asarray(vectors, np.float64).T, lower=True) ** 2, axis=0)

    def logdet(self) -> float:
        """Logarithm of the determinant."""
        return float(2 * np.log(np.diag(self.factor)).sum())

    def update(self, rows: Float[np.ndarray, "row parameter"]) -> Self:
        """The Hessian with further rows, such as those of a structure that joins the training set."""
        matrix = self.matrix + np.asarray(rows, np.float64).T @ rows
        return type(self)(matrix, cholesky(matrix, lower=True), self.jitter)


def dense_hessian(rows: Iterable[Float[np.ndarray, "_row parameter"]], zeta: float) -> DenseHessian:
    r"""Add up :math:`H = \sum A^T A + \zeta^2 I` batch by batch, and factor it.

    Args:
        rows: weighted derivatives, from :func:`bnn_jax.rigidity.loss.weighted_rows`.
        zeta: regulariser, in the unit of the rows.

    Raises:
        InputError: there are no rows, or zeta is zero and some directions of the weights are left open.

    Reference: Chong et al. (2024), eq. 6 and 7.
    """
    check_zeta(zeta)
    return regularised(gauss_newton_matrix(rows), zeta)


def regularised(matrix: Float[np.ndarray, "parameter parameter"], zeta: float) -> DenseHessian:
    """The factored Hessian of a matrix from :func:`gauss_newton_matrix`.

    Args:
        matrix: without a regulariser.
        zeta: whose square is added to the diagonal.

    Raises:
        InputError: zeta is zero and some directions of the weights are left open.
    """
    return _factored(matrix + zeta**2 * np.eye(len(matrix)), zeta)


def absolute_zeta(zeta: float, trace: float, num_weights: int) -> float:
    """A regulariser in units of the root of the mean diagonal element, in the unit of the rows.

    Args:
        zeta: relative.
        trace: of the Hessian, the sum of the squares of all rows.
        num_weights: of the network.
    """
    return float(zeta * np.sqrt(trace / num_weights))


def check_zeta(zeta: float) -> None:
    """Refuse a regulariser that is none, before any work.

    Raises:
        InputError: it is negative or not finite.
    """
    if not (np.isfinite(zeta) and zeta >= 0):
        raise InputError(f"zeta is {zeta}; it must be finite and not negative.")


def _factored(matrix: np.ndarray, zeta: float) -> DenseHessian:
    """With the least jitter, of powers of ten of the rounding of the largest eigenvalue, that leaves it positive.

    Without a regulariser nothing is added: directions that no structure determines are the user's to decide on.
    """
    size = len(matrix)
    rounding = np.finfo(np.float64).eps * np.trace(matrix)
    if zeta == 0:
        _refuse_open_directions(matrix, size * rounding)
    for jitter in (0.0, *(rounding * 10.0 ** np.arange(12))):
        shifted = matrix + jitter * np.eye(size)
        try:
            return DenseHessian(shifted, cholesky(shifted, lower=True), float(jitter))
        except np.linalg.LinAlgError:
            continue
    raise InputError("The Hessian is not positive even with jitter; are its rows finite?")


def _refuse_open_directions(matrix: np.ndarray, threshold: float) -> None:
    values, vectors = eigh(matrix)
    is_open = values <= threshold
    if is_open.any():
        largest = np.abs(vectors[:, is_open]).max(axis=1)
        named = ", ".join(str(i) for i in np.argsort(-largest)[:5])
        raise InputError(
            f"{int(is_open.sum())} of {len(values)} directions of the weights are not determined by the training set"
            f" (most of them along the weights {named}); give a zeta above 0."
        )
