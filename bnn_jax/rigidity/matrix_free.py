"""The Gauss-Newton Hessian by its products with vectors alone: forward, weigh, backward through the network.

Its inverse on many vectors at once by block conjugate gradients, its spectrum by stochastic Lanczos.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float
from tqdm import tqdm

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.graph import PackedData, batch_size_needed, gather_batch, pack
from bnn_jax.devices import sample_mesh
from bnn_jax.rigidity.jacobian import Derivative
from bnn_jax.rigidity.loss import SquareLoss
from bnn_jax.rigidity.network import Network, Weights, outputs
from bnn_jax.types import Batch, InputError, Params

MAX_ITERATIONS = 1000
VECTORS_AT_ONCE = 8
"""That go through a batch under one ``vmap``."""


Vectors = Float[np.ndarray, "target parameter"]
Product = Callable[[Vectors], Vectors]
"""H v without the regulariser, for several vectors."""


class MatrixFreeHessian(NamedTuple):
    """A Hessian by its products."""

    product: Product
    zeta: float
    basis: Float[np.ndarray, "direction parameter"]
    """Orthonormal: approximate eigenvectors of the largest eigenvalues, for the preconditioner. May be empty."""
    eigenvalues: Float[np.ndarray, " direction"]
    tolerance: float
    """Of the norm of residuals, relative to the vector's."""

    def matvec(self, vectors: Vectors) -> Vectors:
        """H v of several vectors."""
        return self.product(vectors) + self.zeta**2 * vectors

    def solve(self, vectors: Vectors) -> Vectors:
        """H^-1 v of several vectors, to the tolerance.

        Raises:
            InputError: the tolerance is not reached.
        """
        return self._solved(vectors)[0]

    def quadratic(self, vectors: Vectors) -> Float[np.ndarray, " target"]:
        """v^T H^-1 v of several vectors; see :meth:`quadratic_with_error`."""
        return self.quadratic_with_error(vectors)[0]

    def quadratic_with_error(
        self, vectors: Vectors
    ) -> tuple[Float[np.ndarray, " target"], Float[np.ndarray, " target"]]:
        r"""v^T H^-1 v of several vectors, and bounds of the error that iterating leaves.

        With the residual r of an approximate solution x, :math:`2 v^T x - x^T H x` is too small by
        :math:`r^T H^{-1} r`, which is at most :math:`|r|^2 / \zeta^2`.
        """
        solution, residual = self._solved(vectors)
        value = np.einsum("tp,tp->t", vectors + residual, solution)  # = 2 v^T x - x^T H x
        return value, np.einsum("tp,tp->t", residual, residual) / self.zeta**2

    def logdet(self) -> float:
        """Not known to this form; see :func:`lanczos_spectrum` for an estimate.

        Raises:
            InputError: always.
        """
        raise InputError(
            "The matrix-free form has no determinant; use lanczos_spectrum for an estimate, or another form."
        )

    def update(self, rows: Float[np.ndarray, "row parameter"]) -> Self:
        """The Hessian with further rows, such as those of a structure that joins the training set."""
        rows, before = np.asarray(rows, np.float64), self.product
        return self._replace(product=lambda vectors: before(vectors) + (vectors @ rows.T) @ rows)

    def _solved(self, vectors: Vectors) -> tuple[Vectors, Vectors]:
        vectors = np.asarray(vectors, np.float64)
        roots = _root_preconditioner(self.basis, self.eigenvalues, self.zeta)
        inner = block_conjugate_gradients(lambda each: roots(self.matvec(roots(each))), roots(vectors), self.tolerance)
        solution = roots(inner)
        return solution, vectors - self.matvec(solution)


def matrix_free_hessian(
    product: Product, num_weights: int, zeta: float, num_directions: int = 0, tolerance: float = 1e-6, seed: int = 0
) -> MatrixFreeHessian:
    """A Hessian by its products, with a preconditioner of its largest eigenvalues.

    Args:
        product: from :func:`gauss_newton_product`.
        num_weights: of the network.
        zeta: regulariser, above 0.
        num_directions: of the preconditioner, each of which costs a product and the memory of a vector.
        tolerance: of the norm of residuals, relative.
        seed: of the preconditioner.

    Raises:
        InputError: zeta is not positive.

    Reference: Frangella, Tropp and Udell (2023), arXiv:2110.02820, algorithm 2.1, for the preconditioner.
    """
    if not (np.isfinite(zeta) and zeta > 0):
        raise InputError(f"zeta is {zeta}; more weights than rows need one above 0.")
    basis, eigenvalues = np.zeros((0, num_weights)), np.zeros(0)
    if num_directions:
        drawn = np.random.default_rng(seed).normal(size=(num_weights, num_directions))
        test = np.linalg.qr(drawn)[0].T
        image = product(test)
        shift = np.sqrt(num_weights) * np.finfo(np.float32).eps * np.linalg.norm(image, 2)
        image = image + shift * test
        core = image @ test.T
        lower = np.linalg.cholesky((core + core.T) / 2)
        _, singular, basis = np.linalg.svd(np.linalg.solve(lower, image), full_matrices=False)
        eigenvalues = np.maximum(singular**2 - shift, 0.0)
    return MatrixFreeHessian(product, zeta, basis, eigenvalues, tolerance)


def _root_preconditioner(basis: np.ndarray, eigenvalues: np.ndarray, zeta: float) -> Callable[[Vectors], Vectors]:
    """The symmetric root of the preconditioner's inverse."""
    if not len(basis):
        return lambda vectors: vectors
    scales = np.sqrt((eigenvalues[-1] + zeta**2) / (eigenvalues + zeta**2)) - 1.0
    return lambda vectors: vectors + ((vectors @ basis.T) * scales) @ basis


def block_conjugate_gradients(matvec: Product, vectors: Vectors, tolerance: float) -> Vectors:
    """Solutions of A x = v for several v at once, which share one Krylov space.

    Residuals and directions are kept orthonormal, so that vectors that depend on each other do no harm.

    Args:
        matvec: of a symmetric positive definite matrix.
        vectors: the right-hand sides.
        tolerance: of the norm of each residual, relative to that of its vector.

    Raises:
        InputError: it is not reached in :data:`MAX_ITERATIONS`.

    Reference: Dubrulle (2001), Electron. Trans. Numer. Anal. 12, 216 (BCGrQ).
    """
    wanted = tolerance * np.linalg.norm(vectors, axis=1)
    solution = np.zeros_like(vectors)
    residual, scale = _orthonormal(vectors)
    direction = residual
    for _ in tqdm(range(MAX_ITERATIONS), desc="solve", unit="iteration", delay=5, disable=None, leave=False):
        if (np.linalg.norm(scale, axis=1) <= wanted).all():
            return solution
        image = matvec(direction)
        step = np.linalg.pinv(image @ direction.T, hermitian=True)
        solution = solution + (scale @ step) @ direction
        residual, change = _orthonormal(residual - step @ image)
        scale = scale @ change
        direction = residual + change.T @ direction
    left = float((np.linalg.norm(scale, axis=1) / np.maximum(wanted / tolerance, np.finfo(float).tiny)).max())
    raise InputError(
        f"{MAX_ITERATIONS} iterations left a relative residual of {left:.1e}, not {tolerance:.1e}; raise zeta, the"
        " tolerance or the directions of the preconditioner, or use the kernel form."
    )


def _orthonormal(
    vectors: Vectors,
) -> tuple[Float[np.ndarray, "direction parameter"], Float[np.ndarray, "target direction"]]:
    """Orthonormal rows, no more than there are weights, and the matrix that makes the vectors of them."""
    q, r = np.linalg.qr(vectors.T)
    return q.T, r.T


class Spectrum(NamedTuple):
    """Eigenvalues of a Hessian as points with weights, which add up to the number of weights of the network."""

    eigenvalues: Float[np.ndarray, " point"]
    weights: Float[np.ndarray, " point"]
    logdet: float
    logdet_error: float
    """Standard error over the random vectors; that of a finite number of steps is not in it."""


def lanczos_spectrum(matvec: Product, num_weights: int, num_vectors: int, num_steps: int, seed: int) -> Spectrum:
    """Stochastic Lanczos quadrature of the spectrum and of the logarithm of the determinant.

    Args:
        matvec: of a symmetric positive definite matrix, such as :meth:`MatrixFreeHessian.matvec`.
        num_weights: its size.
        num_vectors: random vectors to start from.
        num_steps: of each.
        seed: of the vectors.

    Reference: Ubaru, Chen and Saad (2017), doi:10.1137/16M1104974.
    """
    rng = np.random.default_rng(seed)
    points, weights, estimates = [], [], []
    for _ in tqdm(range(num_vectors), desc="spectrum", unit="vector", delay=5, disable=None, leave=False):
        start = rng.choice([-1.0, 1.0], size=num_weights) / np.sqrt(num_weights)
        values, vectors = np.linalg.eigh(_tridiagonal(matvec, start, min(num_steps, num_weights)))
        share = num_weights * vectors[0] ** 2
        points.append(values)
        weights.append(share / num_vectors)
        estimates.append(share @ np.log(np.maximum(values, np.finfo(float).tiny)))
    error = float(np.std(estimates, ddof=1) / np.sqrt(num_vectors)) if num_vectors > 1 else float("nan")
    return Spectrum(np.concatenate(points), np.concatenate(weights), float(np.mean(estimates)), error)


def _tridiagonal(matvec: Product, start: Float[np.ndarray, " parameter"], num_steps: int) -> np.ndarray:
    """The matrix in the Krylov space of a vector, which is orthogonalised twice against all before."""
    basis, diagonal, off = [start], [], []
    for step in range(num_steps):
        image = matvec(basis[-1][None])[0]
        diagonal.append(image @ basis[-1])
        for _ in range(2):
            for vector in basis:
                image = image - (image @ vector) * vector
        norm = np.linalg.norm(image)
        if step + 1 == num_steps or norm <= 1e-10 * abs(diagonal[0]):
            break
        off.append(norm)
        basis.append(image / norm)
    return np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1)


def gauss_newton_product(network: Network, weights: Weights, dataset: Dataset, loss: SquareLoss) -> Product:
    """Products with the Gauss-Newton Hessian of a square loss over a data set, without the regulariser.

    Each is a forward derivative of all predictions along the vector, weighed, and a reverse one; structures are spread
    over devices. Contributions of batches are added up in float64.

    Args:
        network: at whose weights.
        weights: that are free.
        dataset: with labels; what has none does not count.
        loss: that the network was trained on.

    Raises:
        InputError: a structure holds an element that the potential does not know.

    Reference: Schraudolph (2002), doi:10.1162/08997660260028683; Chong et al. (2024), eq. 6.
    """
    packed = pack(dataset, network.cutoff, network.statistics.species, network.statistics.shifts, weights.vector.dtype)
    sizes = batch_size_needed(packed, np.arange(len(dataset))[:, None])
    mesh = sample_mesh(min(len(dataset), len(jax.local_devices())))
    plan = np.full((-(-len(dataset) // mesh.size), mesh.size), -1, np.int32)
    plan.reshape(-1)[: len(dataset)] = np.arange(len(dataset))
    of_what = Derivative(network.apply, weights.put, outputs(network, loss.names))
    arrays = jax.device_put((network.params, weights.vector, packed), NamedSharding(mesh, PartitionSpec()))

    def product(vectors: Vectors) -> Vectors:
        along = jnp.asarray(vectors, weights.vector.dtype)
        total = np.zeros(vectors.shape)
        for indices in plan:
            total += np.asarray(_product_of_some(*arrays, indices, along, of_what, loss, sizes, mesh), np.float64)
        return total

    return product


@partial(jax.jit, static_argnames=("of_what", "loss", "sizes", "mesh"))
def _product_of_some(
    params: Params,
    vector: Array,
    packed: PackedData,
    indices: Array,
    along: Array,
    of_what: Derivative,
    loss: SquareLoss,
    sizes: tuple[int, int],
    mesh: Mesh,
) -> Array:
    """Of one structure on each device, added up."""
    each, everywhere = PartitionSpec("sample"), PartitionSpec()

    @partial(jax.shard_map, mesh=mesh, in_specs=(*[everywhere] * 4, each), out_specs=everywhere, check_vma=False)
    def spread(params: Params, vector: Array, packed: PackedData, along: Array, index: Array) -> Array:
        batch = gather_batch(packed, index, *sizes)
        _, push = jax.linearize(lambda vector: of_what.outputs_fn(of_what.put(params, vector), batch.graph), vector)
        pull = jax.linear_transpose(push, vector)

        def product(direction: Array) -> Array:
            return pull(_weighed(push(direction), batch, loss))[0]

        return jax.lax.psum(jax.lax.map(product, along, batch_size=min(VECTORS_AT_ONCE, len(along))), "sample")

    return spread(params, vector, packed, along, indices)


def _weighed(tangents: dict[str, Array], batch: Batch, loss: SquareLoss) -> dict[str, Array]:
    """Times the curvature of the loss; zero where there is no label."""
    labels = batch.labels
    masks = {
        "energy": labels.energy_mask[:1],
        "forces": labels.forces_mask[:, None],
        "stress": labels.stress_mask[0],
    }
    num_atoms = batch.graph.n_node[0]
    found = {}
    for name, tangent in tangents.items():
        scale: Any = 1.0 / jnp.maximum(num_atoms, 1) ** 2 if name == "energy" and loss.per_atom else 1.0
        found[name] = jnp.where(masks[name], getattr(loss, name) * scale * tangent, 0)
    return found
