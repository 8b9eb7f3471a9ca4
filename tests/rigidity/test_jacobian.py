"""Derivatives of predictions by weights: finite differences, forward against reverse, labels, padding, devices."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from posteriors import random_posterior
from systems import labelled_series, silicon, water

from bnn_jax import Dataset
from bnn_jax.model import readout, with_readout
from bnn_jax.rigidity import (
    Network,
    SquareLoss,
    all_weights,
    dense_hessian,
    gauss_newton_product,
    jacobians,
    kernel_hessian,
    last_layer,
    matrix_free_hessian,
    outputs,
    prediction_rigidity,
    weighted_rows,
)
from bnn_jax.rigidity.jacobian import _of_many
from bnn_jax.rigidity.loss import names_of
from bnn_jax.rigidity.matrix_free import _product_of_some
from bnn_jax.types import InputError

pytestmark = pytest.mark.usefixtures("x64")
STRUCTURES = [*labelled_series(water(), 3), *labelled_series(silicon(), 2, seed=5)]
NAMES = ("energy", "forces", "atom_energies")


def network(structures=STRUCTURES, seed: int = 0) -> Network:
    posterior = random_posterior(structures, num_samples=1, seed=seed, dtype=jnp.float64)
    params = jax.tree.map(lambda leaf: leaf[0], posterior.samples)
    return Network(posterior.potential.apply, params, posterior.statistics, posterior.config.model.cutoff)


def shift_sums(dataset: Dataset, net: Network) -> np.ndarray:
    shifts = net.statistics.shifts[np.searchsorted(net.statistics.species, dataset.numbers)]
    return np.add.reduceat(shifts, dataset.offsets[:-1])


@pytest.mark.parametrize("choose", [all_weights, last_layer])
def test_rows_equal_finite_differences(choose) -> None:
    """Of every output, along random directions of the weights."""
    net, dataset = network(), Dataset.from_atoms(STRUCTURES)
    weights = choose(net)
    along = np.random.default_rng(0).normal(size=len(weights.vector))
    step = 1e-4
    found = jacobians(net, weights, dataset, outputs(net, (*NAMES, "stress")))

    def values(sign: float) -> list[dict]:
        moved = net._replace(params=weights.put(net.params, weights.vector + sign * step * along))
        zero = choose(moved)
        return [each.values for each in jacobians(moved, zero, dataset, outputs(moved, (*NAMES, "stress")))]

    for each, plus, minus in zip(found, values(1), values(-1), strict=True):
        for name, rows in each.rows.items():
            difference = (plus[name] - minus[name]) / (2 * step)
            np.testing.assert_allclose(rows @ along, difference, rtol=1e-6, atol=1e-7)


def test_shapes_are_those_of_each_structure() -> None:
    net, dataset = network(), Dataset.from_atoms(STRUCTURES)
    found = list(jacobians(net, last_layer(net), dataset, outputs(net, NAMES)))
    assert [each.rows["forces"].shape for each in found] == [(n, 3, 4) for n in dataset.num_atoms]
    assert [each.rows["atom_energies"].shape for each in found] == [(n, 4) for n in dataset.num_atoms]
    for each in found:
        np.testing.assert_allclose(each.rows["atom_energies"].sum(axis=0), each.rows["energy"][0], rtol=1e-10)


def test_last_layer_rows_are_the_features() -> None:
    """The derivative of an atom's energy by the readout is its features, in units of the scale."""
    net, dataset = network(), Dataset.from_atoms(STRUCTURES[:1])
    (found,) = jacobians(net, last_layer(net), dataset, outputs(net, NAMES))
    np.testing.assert_allclose(
        found.rows["atom_energies"] @ np.asarray(readout(net.params)), found.values["atom_energies"], rtol=1e-10
    )
    weights = np.random.default_rng(0).normal(size=4)
    moved = net._replace(params=with_readout(net.params, jnp.asarray(weights)))
    (other,) = jacobians(moved, last_layer(moved), dataset, outputs(moved, NAMES))
    np.testing.assert_allclose(found.rows["forces"] @ weights, other.values["forces"], rtol=1e-9, atol=1e-12)


def test_forward_and_reverse_agree() -> None:
    """The last layer is a part of all weights: forward in the one case, reverse in the other."""
    net, dataset = network(), Dataset.from_atoms(STRUCTURES)
    place = ravel_pytree(with_readout(jax.tree.map(jnp.zeros_like, net.params), jnp.arange(1.0, 5.0)))[0]
    columns = [int(np.flatnonzero(np.asarray(place) == value)[0]) for value in range(1, 5)]
    pairs = zip(
        jacobians(net, all_weights(net), dataset, outputs(net, NAMES)),
        jacobians(net, last_layer(net), dataset, outputs(net, NAMES)),
        strict=True,
    )
    for everything, last in pairs:
        for name in NAMES:
            np.testing.assert_allclose(everything.rows[name][..., columns], last.rows[name], rtol=1e-9, atol=1e-12)


def test_products_are_those_of_the_rows() -> None:
    """Matrix-free against the matrix of all weights, with energies, forces and stresses, some without labels."""
    structures = [*STRUCTURES[:2], *labelled_series(silicon(), 2, seed=5)]
    structures[0].set_array("forces_mask", np.array([True, False, True]))
    net, dataset = network(structures), Dataset.from_atoms(structures)
    dataset.energy[1] = np.nan
    loss, weights = SquareLoss(energy=2.0, forces=0.5, stress=3.0, per_atom=True), all_weights(net)
    rows = np.vstack(
        list(weighted_rows(jacobians(net, weights, dataset, outputs(net, loss.names)), dataset, np.zeros(4), loss))
    )
    assert len(rows) == 3 + 6 + 9 + 2 * (3 * len(silicon()) + (9 if np.isfinite(dataset.stress[2]).all() else 0))
    vectors = np.random.default_rng(1).normal(size=(3, len(weights.vector)))
    product = gauss_newton_product(net, weights, dataset, loss)
    np.testing.assert_allclose(product(vectors), (vectors @ rows.T) @ rows, rtol=1e-8, atol=1e-8)


def test_matrix_free_equals_dense_on_a_nequip() -> None:
    net, dataset = network(), Dataset.from_atoms(STRUCTURES)
    loss, weights, zeta = SquareLoss(energy=1.0, forces=1.0), all_weights(net), 0.1

    def rows(first: int = 0):
        jacobian = jacobians(net, weights, dataset, outputs(net, loss.names), first)
        return weighted_rows(jacobian, dataset, shift_sums(dataset, net), loss, first)

    target = Dataset.from_atoms(labelled_series(water(), 2, seed=80))
    g = np.vstack([each.rows["energy"] for each in jacobians(net, weights, target, outputs(net, NAMES))])
    exact = prediction_rigidity(g, dense_hessian(rows(), zeta))
    for max_bytes in (2_000_000_000, 1):  # all at once; each structure a block of its own
        np.testing.assert_allclose(prediction_rigidity(g, kernel_hessian(rows, zeta, max_bytes)), exact, rtol=1e-8)
    product = gauss_newton_product(net, weights, dataset, loss)
    free = matrix_free_hessian(product, len(weights.vector), zeta, num_directions=20, tolerance=1e-8)
    np.testing.assert_allclose(prediction_rigidity(g, free), exact, rtol=1e-4)


def test_any_convex_loss_has_the_rows_of_its_curvature() -> None:
    """A square loss written as a function, and Huber's, flat in curvature beyond its threshold."""
    net, dataset = network(), Dataset.from_atoms(STRUCTURES)
    weights, shifts = last_layer(net), shift_sums(dataset, net)
    square = SquareLoss(energy=2.0, forces=0.5)

    def hessian(loss):
        jacobian = jacobians(net, weights, dataset, outputs(net, names_of(loss)))
        return dense_hessian(weighted_rows(jacobian, dataset, shifts, loss), 0.1).matrix

    def written(predicted, labels):
        energy, forces = predicted.energy - labels.energy, predicted.forces - labels.forces
        return 0.5 * 2.0 * energy**2 + 0.5 * 0.5 * jnp.sum(forces**2)

    np.testing.assert_allclose(hessian(written), hessian(square), rtol=1e-9)

    def huber(predicted, labels, threshold=0.2):
        errors = jnp.abs(predicted.forces - labels.forces)
        return jnp.sum(jnp.where(errors < threshold, 0.5 * errors**2, threshold * (errors - threshold / 2)))

    expected = 0.01 * np.eye(4)
    for i, each in enumerate(jacobians(net, weights, dataset, outputs(net, NAMES))):
        labels = dataset.forces[dataset.offsets[i] : dataset.offsets[i + 1]]
        small = np.abs(each.values["forces"] - labels) < 0.2
        expected += each.rows["forces"][small].T @ each.rows["forces"][small]
    np.testing.assert_allclose(hessian(huber), expected, rtol=1e-9, atol=1e-12)
    with pytest.raises(InputError, match="loss of structure 0 is not convex in the predictions"):
        hessian(lambda predicted, labels: -((predicted.energy - labels.energy) ** 2))
    with pytest.raises(InputError, match="Every weight of the loss is zero"):
        names_of(SquareLoss(energy=0.0))


def test_outputs_of_ones_own() -> None:
    """Components of the energy by any function: here carbon-free, the oxygen's energy and the hydrogens'."""
    net, dataset = network(), Dataset.from_atoms(STRUCTURES[:2])
    oxygen = net.statistics.species.index(8)

    def parts(params, graph):
        energies = net.apply(params, graph).atom_energies
        is_oxygen = graph.nodes["species"] == oxygen
        return {"components": jnp.stack([energies @ is_oxygen, energies @ ~is_oxygen])}

    found = jacobians(net, all_weights(net), dataset, parts)
    whole = jacobians(net, all_weights(net), dataset, outputs(net, NAMES))
    for part, each in zip(found, whole, strict=True):
        np.testing.assert_allclose(part.rows["components"].sum(axis=0), each.rows["energy"][0], rtol=1e-9, atol=1e-12)


def test_an_unknown_element_is_refused() -> None:
    net = network([*labelled_series(water(), 3)])
    with pytest.raises(InputError, match="holds Si, which the potential does not know"):
        list(jacobians(net, last_layer(net), Dataset.from_atoms([silicon()]), outputs(net, NAMES)))


SPREAD = """
import jax, numpy as np, sys
sys.path[:0] = [{tests!r}, {root!r}]
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
jax.config.update("jax_enable_x64", True)
from tests.rigidity.test_jacobian import *
net, dataset = network(), Dataset.from_atoms(STRUCTURES)
weights = all_weights(net)
rows = np.concatenate([each.rows["forces"].ravel() for each in jacobians(net, weights, dataset, outputs(net, NAMES))])
product = gauss_newton_product(net, weights, dataset, SquareLoss(1.0, 1.0))(np.ones((1, len(weights.vector))))
np.savez(sys.argv[2], rows=rows, product=product)
"""


def test_several_devices_give_what_one_gives(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    script = SPREAD.format(tests=str(root / "tests"), root=str(root))
    results = []
    for number in (1, 4):
        out = tmp_path / f"{number}.npz"
        subprocess.run([sys.executable, "-c", script, str(number), str(out)], check=True, cwd=root, timeout=300)
        results.append(np.load(out))
    np.testing.assert_allclose(results[1]["rows"], results[0]["rows"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(results[1]["product"], results[0]["product"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("choose", [pytest.param(all_weights, marks=pytest.mark.slow), last_layer])
def test_samples_of_a_posterior_share_what_is_compiled(choose) -> None:
    posterior = random_posterior(STRUCTURES, num_samples=3, dtype=jnp.float64)
    dataset = Dataset.from_atoms(STRUCTURES)
    loss = SquareLoss(energy=1.0, forces=1.0)

    def rows_and_product(k: int) -> tuple[np.ndarray, np.ndarray]:
        net = posterior.network(k)
        weights = choose(net)
        rows = np.vstack([each.rows["energy"] for each in jacobians(net, weights, dataset, outputs(net, NAMES))])
        return rows, gauss_newton_product(net, weights, dataset, loss)(np.ones((1, len(weights.vector))))

    first = rows_and_product(0)
    sizes = _of_many._cache_size(), _product_of_some._cache_size()
    for k in (1, 2):
        for one, other in zip(first, rows_and_product(k), strict=True):
            assert not np.allclose(one, other)
    assert (_of_many._cache_size(), _product_of_some._cache_size()) == sizes
