"""Rigidities of structures, atoms, components and forces, from a network and the data that it was trained on."""

import warnings
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.rigidity.gauss_newton import DenseHessian, absolute_zeta, check_zeta, gauss_newton_matrix, regularised
from bnn_jax.rigidity.jacobian import Jacobian, jacobians
from bnn_jax.rigidity.kernel import KernelHessian, RowsFn, kernel_hessian
from bnn_jax.rigidity.loss import Loss, SquareLoss, names_of, weighted_rows
from bnn_jax.rigidity.matrix_free import MatrixFreeHessian, gauss_newton_product, matrix_free_hessian
from bnn_jax.rigidity.network import Network, Weights, all_weights, last_layer, outputs
from bnn_jax.rigidity.rigidity import components, prediction_rigidity
from bnn_jax.rigidity.sketch import Sketch, draw_sketch
from bnn_jax.types import InputError, InputWarning

FORMS = ("last-layer", "dense", "kernel", "matrix-free", "sketched")
MAX_DENSE = 20_000
"""Weights whose matrix, 3.2 GB, is still made."""


class FormOptions(NamedTuple):
    """What some forms ask for beside the data."""

    num_directions: int = 0
    """Of the preconditioner of ``matrix-free``."""
    tolerance: float = 1e-6
    """Of ``matrix-free``."""
    num_buckets: int = 2_000
    """Of ``sketched``; several times the number of labels, unless there are fewer weights."""
    seed: int = 0
    """Of what ``matrix-free`` and ``sketched`` draw."""


class RigidityModel(NamedTuple):
    """A Hessian and the network whose predictions it judges."""

    network: Network
    weights: Weights
    hessian: DenseHessian | KernelHessian | MatrixFreeHessian
    zeta: float
    """Absolute, in the unit of the weighted derivatives."""
    sketch: Sketch | None

    def energies(self, structures: Dataset, per_atom: bool = False) -> Float[np.ndarray, " structure"]:
        """Rigidities of total energies (PR), in 1/eV^2 for a loss of weights in the same.

        Args:
            structures: what to predict; labels are ignored.
            per_atom: of the energy over the number of atoms instead.

        Raises:
            InputError: an element was not in training.
        """
        scale = structures.num_atoms if per_atom else np.ones(len(structures))
        return self._of(structures, "energy") * scale**2

    def atoms(self, structures: Dataset) -> Float[np.ndarray, " atom"]:
        """Rigidities of atoms' energies (LPR).

        Args:
            structures: what to predict.
        """
        return self._of(structures, "atom_energies")

    def forces(self, structures: Dataset) -> Float[np.ndarray, "atom 3"]:
        """Rigidities of force components.

        Args:
            structures: what to predict.
        """
        return self._of(structures, "forces").reshape(-1, 3)

    def stress(self, structures: Dataset) -> Float[np.ndarray, "structure 3 3"]:
        """Rigidities of stress components.

        Args:
            structures: what to predict, each with a cell.

        Raises:
            InputError: a structure has no cell, and so no stress.
        """
        has_none = np.linalg.det(structures.cell) == 0
        if has_none.any():
            raise InputError(f"Structure {int(np.argmax(has_none))} has no cell, and so no stress; leave it out.")
        return self._of(structures, "stress").reshape(-1, 3, 3)

    def of_components(
        self, structures: Dataset, slices: Mapping[str, slice], per_atom: bool = False
    ) -> dict[str, Float[np.ndarray, " structure"]]:
        """Rigidities of the parts of total energies that slices of the weights give (CPR).

        Args:
            structures: what to predict.
            slices: of the free weights, which cover each of them once.
            per_atom: of the energy over the number of atoms instead.

        Raises:
            InputError: the slices overlap or leave a gap, or the form is a sketch, which has no slices.
        """
        if self.sketch is not None:
            raise InputError("A sketch mixes the weights and has no components; choose another form.")
        rows = np.vstack([each.rows["energy"] for each in self._jacobians(structures, ("energy",))])
        scale = structures.num_atoms[:, None] if per_atom else 1.0
        return {
            name: prediction_rigidity(part / scale, self.hessian) for name, part in components(rows, slices).items()
        }

    def of_elements(self, structures: Dataset) -> dict[int, Float[np.ndarray, " structure"]]:
        """Rigidities of the sums of the energies of each element's atoms, by atomic number.

        Args:
            structures: what to predict; a structure without an element has an infinite rigidity of it.
        """
        found: dict[int, np.ndarray] = {}
        for number in map(int, structures.species):
            sums = []
            for i, each in enumerate(self._jacobians(structures, ("atom_energies",))):
                atoms = slice(structures.offsets[i], structures.offsets[i + 1])
                row = each.rows["atom_energies"][structures.numbers[atoms] == number].sum(axis=0)[None]
                sums.append(row if self.sketch is None else self.sketch(row))
            found[number] = prediction_rigidity(np.vstack(sums), self.hessian)
        return found

    def _jacobians(self, structures: Dataset, names: tuple[str, ...]) -> Iterator[Jacobian]:
        return jacobians(self.network, self.weights, structures, outputs(self.network, names))

    def _of(self, structures: Dataset, name: str) -> np.ndarray:
        """Rigidities of all rows of one output, a gigabyte of derivatives at a time."""
        found, held, size = [], [], 0
        for each in self._jacobians(structures, (name,)):
            rows = each.rows[name].reshape(-1, len(self.weights.vector))
            held.append(rows if self.sketch is None else self.sketch(rows))
            size += held[-1].nbytes
            if size > 1e9:
                found.append(prediction_rigidity(np.vstack(held), self.hessian))
                held, size = [], 0
        return np.concatenate([*found, prediction_rigidity(np.vstack(held), self.hessian)] if held else found)


def fit_rigidity(
    network: Network,
    train: Dataset,
    loss: Loss,
    zeta: float,
    form: str = "last-layer",
    zeta_is_relative: bool = False,
    options: FormOptions | None = None,
) -> RigidityModel:
    r"""The Hessian of a loss over the training set, in one of several forms.

    - ``last-layer``: of the weights of the energy readout alone (eq. 7);
    - ``dense``: of all weights, where they are few;
    - ``kernel``: of all weights, exact, by the matrix of all labelled outputs;
    - ``matrix-free``: of all weights, by products, iterating to a tolerance;
    - ``sketched``: of all weights, randomly projected.

    Args:
        network: from :meth:`bnn_jax.Posterior.network`.
        train: what it was trained on; labels say which outputs count.
        loss: that it was trained on.
        zeta: regulariser; ``zeta**2`` is added to the diagonal.
        form: which Hessian.
        zeta_is_relative: whether ``zeta`` is in units of the root of the mean diagonal element.
        options: of the form.

    Warns:
        InputWarning: a sketch is too small for its labels.

    Raises:
        InputError: the form is unknown or does not fit the number of weights or the loss, zeta does not fit the form,
            or an element was not in training.

    Reference: Chong et al. (2024), eq. 2, 6, 7 and 9.
    """
    options = options or FormOptions()
    if form not in FORMS:
        raise InputError(f"There is no form {form!r} of the Hessian; choose among {', '.join(FORMS)}.")
    check_zeta(zeta)
    weights = last_layer(network) if form == "last-layer" else all_weights(network)
    num_weights, names = len(weights.vector), names_of(loss)
    if form == "dense" and num_weights > MAX_DENSE:
        raise InputError(
            f"The network has {num_weights} weights, whose matrix does not fit; choose kernel, matrix-free or sketched."
        )
    rows_fn = _rows_of_training(network, weights, train, loss)
    if form == "kernel":
        hessian = kernel_hessian(rows_fn, zeta, zeta_is_relative=zeta_is_relative)
        return RigidityModel(network, weights, hessian, hessian.zeta, sketch=None)
    if form == "matrix-free":
        if not isinstance(loss, SquareLoss):
            raise InputError("The matrix-free form is for square losses; choose kernel for others.")
        if zeta_is_relative:
            trace = sum(float(np.sum(np.square(each, dtype=np.float64))) for each in rows_fn(0))
            zeta = absolute_zeta(zeta, trace, num_weights)
        product = gauss_newton_product(network, weights, train, loss)
        hessian = matrix_free_hessian(
            product, num_weights, zeta, options.num_directions, options.tolerance, options.seed
        )
        return RigidityModel(network, weights, hessian, zeta, sketch=None)
    sketch = None
    if form == "sketched":
        sketch = draw_sketch(num_weights, min(options.num_buckets, num_weights), options.seed)
        _warn_of_few_buckets(sketch, train, names)
    matrix = gauss_newton_matrix(rows_fn(0) if sketch is None else sketch.of_each(rows_fn(0)))
    zeta = absolute_zeta(zeta, float(np.trace(matrix)), num_weights) if zeta_is_relative else zeta
    return RigidityModel(network, weights, regularised(matrix, zeta), zeta, sketch)


def _rows_of_training(network: Network, weights: Weights, train: Dataset, loss: Loss) -> RowsFn:
    """Weighted derivatives of the labelled outputs, made anew at each call."""
    shifts = network.statistics.shifts[np.searchsorted(network.statistics.species, train.numbers)]
    sums = np.add.reduceat(shifts, train.offsets[:-1])
    outputs_fn = outputs(network, names_of(loss))
    return lambda first: weighted_rows(jacobians(network, weights, train, outputs_fn, first), train, sums, loss, first)


def _warn_of_few_buckets(sketch: Sketch, train: Dataset, names: tuple[str, ...]) -> None:
    """With fewer directions than labels nothing of a sketch is left open, whatever is of the weights."""
    num_labels = sum(int(np.isfinite(getattr(train, name)).sum()) for name in names)
    if sketch.num_buckets < min(num_labels, len(sketch.bucket)):
        message = (
            f"The sketch has {sketch.num_buckets} buckets for {num_labels} labels, so that its rigidities are too high;"
            " give FormOptions several times as many, or choose the kernel form, which is exact."
        )
        warnings.warn(InputWarning(message), stacklevel=3)
