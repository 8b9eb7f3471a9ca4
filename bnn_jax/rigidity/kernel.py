r"""The Gauss-Newton Hessian of many weights by its rows: exact, without a matrix of the weights.

With A the weighted derivatives of the training set, fewer rows than weights, Woodbury's identity gives

.. math:: H^{-1} = (A^T A + \zeta^2 I)^{-1} = \frac{1}{\zeta^2} \left[I - A^T (A A^T + \zeta^2 I)^{-1} A\right]

so that only the matrix :math:`A A^T` of the rows (the empirical neural tangent kernel) is factored.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Float
from scipy.linalg import cho_solve, cholesky
from tqdm import tqdm

from bnn_jax.rigidity.gauss_newton import absolute_zeta, blocks
from bnn_jax.types import InputError

RowsFn = Callable[[int], Iterator[Float[np.ndarray, "_row parameter"]]]
"""Gives the weighted rows, structure by structure from the one with the given index on, as often as it is called."""
MAX_BYTES = 2_000_000_000
"""Of the rows that are held at a time."""
COLUMNS_AT_ONCE = 2**15
"""That are converted to float64 at a time."""


class KernelHessian(NamedTuple):
    """A Hessian by its rows."""

    rows_fn: RowsFn
    zeta: float
    kernel: Float[np.ndarray, "row row"]
    """A A^T, in float64."""
    factor: Float[np.ndarray, "row row"]
    """Of the kernel with ``zeta**2`` on its diagonal, lower triangular."""
    num_weights: int
    max_bytes: int

    def matvec(self, vectors: Float[np.ndarray, "target parameter"]) -> Float[np.ndarray, "target parameter"]:
        """H v of several vectors."""
        result = self.zeta**2 * np.asarray(vectors, np.float64)
        for _, block in blocks(self.rows_fn(0), self.max_bytes // 2):
            result += _product(vectors, block) @ block
        return result

    def solve(self, vectors: Float[np.ndarray, "target parameter"]) -> Float[np.ndarray, "target parameter"]:
        """H^-1 v of several vectors; the rows are made twice."""
        vectors = np.asarray(vectors, np.float64)
        inner = cho_solve((self.factor, True), self._against(vectors))
        result, first = vectors.copy(), 0
        for _, block in blocks(self.rows_fn(0), self.max_bytes // 2):
            result -= inner[first : first + len(block)].T @ block
            first += len(block)
        return result / self.zeta**2

    def quadratic(self, vectors: Float[np.ndarray, "target parameter"]) -> Float[np.ndarray, " target"]:
        r"""v^T H^-1 v of several vectors; the rows are made once.

        What of a vector lies in the row space is held by the data, the rest by ``zeta`` alone. Rounding of the
        derivatives, of relative size e, moves some of the first into the second: of a rigidity this form, as any other,
        knows nothing below the variance :math:`e^2 |v|^2 / \zeta^2`. The difference itself is known to the rounding of
        float64, which is the least that is given.
        """
        vectors = np.asarray(vectors, np.float64)
        across = self._against(vectors)
        held = np.einsum("rt,rt->t", across, cho_solve((self.factor, True), across))
        squares = np.einsum("tp,tp->t", vectors, vectors)
        return np.maximum(squares - held, np.finfo(np.float64).eps * squares) / self.zeta**2

    def logdet(self) -> float:
        """Logarithm of the determinant."""
        num_open = self.num_weights - len(self.kernel)
        return float(2 * np.log(np.diag(self.factor)).sum() + 2 * num_open * np.log(self.zeta))

    def update(self, rows: Float[np.ndarray, "row parameter"]) -> Self:
        """The Hessian with further rows, such as those of a structure that joins the training set."""
        across = self._against(rows)
        kernel = np.block([[self.kernel, across], [across.T, _product(rows, rows)]])

        def more(first: int) -> Iterator[np.ndarray]:
            yield from self.rows_fn(first)
            yield rows

        return type(self)(more, self.zeta, kernel, _factor(kernel, self.zeta), self.num_weights, self.max_bytes)

    def _against(self, vectors: np.ndarray) -> Float[np.ndarray, "row target"]:
        return np.concatenate([_product(block, vectors) for _, block in blocks(self.rows_fn(0), self.max_bytes // 2)])


def kernel_hessian(
    rows_fn: RowsFn, zeta: float, max_bytes: int = MAX_BYTES, zeta_is_relative: bool = False
) -> KernelHessian:
    """Make the kernel of the rows, block by block, and factor it.

    Rows that do not fit into the memory given are made again: with b blocks about b / 2 times.

    Args:
        rows_fn: of the weighted rows, kept in the precision they come in.
        zeta: regulariser, in the unit of the rows, above 0.
        max_bytes: of the rows that are held at a time, two blocks of them.
        zeta_is_relative: whether ``zeta`` is in units of the root of the mean diagonal element.

    Raises:
        InputError: zeta is not positive, or there are no rows.
    """
    if not (np.isfinite(zeta) and zeta > 0):
        raise InputError(f"zeta is {zeta}; more weights than rows need one above 0.")
    parts: dict[tuple[int, int], np.ndarray] = {}
    first, num_weights = [0], 0  # structure that each block begins with
    with tqdm(desc="kernel", unit="block", delay=5, disable=None) as bar:
        i = 0
        while i == 0 or i < len(first) - 1:
            held: np.ndarray | None = None
            for j, (size, block) in enumerate(blocks(rows_fn(first[i]), max_bytes // 2), i):
                if i == 0:
                    first.append(first[-1] + size)
                    num_weights = block.shape[1]
                bar.total = (len(first) - 1) * len(first) // 2
                held = block if held is None else held
                parts[j, i] = _product(block, held)
                parts[i, j] = parts[j, i].T
                bar.update()
            i += 1
    if not parts:
        raise InputError("There are no labelled structures to make a Hessian of; give some.")
    num_blocks = len(first) - 1
    kernel = np.block([[parts[i, j] for j in range(num_blocks)] for i in range(num_blocks)])
    if zeta_is_relative:
        zeta = absolute_zeta(zeta, float(np.trace(kernel)), num_weights)
    return KernelHessian(rows_fn, zeta, kernel, _factor(kernel, zeta), num_weights, max_bytes)


def _product(
    left: Float[np.ndarray, "row parameter"], right: Float[np.ndarray, "other parameter"]
) -> Float[np.ndarray, "row other"]:
    """Inner products of rows, summed in float64 without a copy of all of them."""
    total = np.zeros((len(left), len(right)))
    for first in range(0, left.shape[1], COLUMNS_AT_ONCE):
        columns = slice(first, first + COLUMNS_AT_ONCE)
        total += left[:, columns].astype(np.float64) @ right[:, columns].astype(np.float64).T
    return total


def _factor(kernel: np.ndarray, zeta: float) -> np.ndarray:
    return cholesky(kernel + zeta**2 * np.eye(len(kernel)), lower=True)
