"""Random projections of the derivatives: a small Hessian in place of one of all weights.

Each weight is added, with a random sign, to one of a few buckets (a count sketch). Inner products of rows keep their
mean, with a relative error of the order of one over the root of the number of buckets.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix

from bnn_jax.types import InputError


class Sketch(NamedTuple):
    """A projection of the weights."""

    bucket: Int[np.ndarray, " parameter"]
    sign: Float[np.ndarray, " parameter"]
    num_buckets: int

    def __call__(self, rows: Float[np.ndarray, "row parameter"]) -> Float[np.ndarray, "row bucket"]:
        """The projected rows, in float64; apply it to training rows and targets alike."""
        size = len(self.bucket)
        projection = csr_matrix((self.sign, (np.arange(size), self.bucket)), shape=(size, self.num_buckets))
        return np.asarray((projection.T @ np.asarray(rows, np.float64).T).T)

    def of_each(self, rows: Iterable[Float[np.ndarray, "_row parameter"]]) -> Iterator[np.ndarray]:
        """The projected rows of each structure."""
        return (self(each) for each in rows)


def draw_sketch(num_weights: int, num_buckets: int, seed: int) -> Sketch:
    """A random projection.

    Args:
        num_weights: of the network.
        num_buckets: of the projection, well above the number of directions that the data determine.
        seed: of buckets and signs.

    Raises:
        InputError: there are fewer weights than buckets, or no bucket.

    Reference: Charikar, Chen and Farach-Colton (2004), doi:10.1016/S0304-3975(03)00400-6.
    """
    if not 1 <= num_buckets <= num_weights:
        raise InputError(f"{num_buckets} buckets for {num_weights} weights; choose between 1 and their number.")
    rng = np.random.default_rng(seed)
    sign = rng.choice([-1.0, 1.0], size=num_weights)
    return Sketch(rng.integers(num_buckets, size=num_weights), sign, num_buckets)
