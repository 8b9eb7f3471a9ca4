"""From a posterior's network and its training set to rigidities, by every form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from posteriors import random_posterior
from systems import labelled_series, silicon, water

import bnn_jax
from bnn_jax import Dataset
from bnn_jax.rigidity import (
    CONVENTIONS,
    FormOptions,
    SquareLoss,
    fit_rigidity,
    jacobians,
    last_layer,
    last_layer_precision,
    outputs,
    prediction_rigidity,
)
from bnn_jax.types import InputError, InputWarning

pytestmark = pytest.mark.usefixtures("x64")
TRAIN = Dataset.from_atoms(labelled_series(water(), 4))
TEST = Dataset.from_atoms(labelled_series(water(), 2, seed=70))
LOSS = SquareLoss(energy=1.0, forces=2.0)
NAMES = ("energy", "forces", "atom_energies")


@pytest.fixture(scope="module")
def network():
    with jax.enable_x64(True):
        return random_posterior(labelled_series(water(), 4), num_samples=2, dtype=jnp.float64).network(1)


def test_last_layer_by_hand(network) -> None:
    """Rows are derivatives of energies and forces; a mean over atoms is their sum over their number."""
    model = fit_rigidity(network, TRAIN, LOSS, 0.3)
    derivatives = list(jacobians(network, last_layer(network), TRAIN, outputs(network, ("energy", "forces"))))
    rows = np.vstack(
        [part for each in derivatives for part in (each.rows["energy"], each.rows["forces"].reshape(-1, 4))]
    )
    precision = last_layer_precision(rows, 0.3, np.tile([1.0, *[2.0] * 9], 4))
    test = list(jacobians(network, last_layer(network), TEST, outputs(network, ("energy", "forces", "atom_energies"))))
    energies = np.vstack([each.rows["energy"] for each in test])
    np.testing.assert_allclose(model.energies(TEST), prediction_rigidity(energies, precision), rtol=1e-9)
    np.testing.assert_allclose(model.energies(TEST, per_atom=True), 9 * model.energies(TEST), rtol=1e-12)
    atoms = np.vstack([each.rows["atom_energies"] for each in test])
    np.testing.assert_allclose(model.atoms(TEST), prediction_rigidity(atoms, precision), rtol=1e-9)
    forces = np.vstack([each.rows["forces"].reshape(-1, 4) for each in test])
    np.testing.assert_allclose(model.forces(TEST).ravel(), prediction_rigidity(forces, precision), rtol=1e-9)
    parts = model.of_components(TEST, {"first": slice(0, 1), "rest": slice(1, 4)})
    masked = np.where(np.arange(4) < 1, energies, 0)
    np.testing.assert_allclose(parts["first"], prediction_rigidity(masked, precision), rtol=1e-9)


def test_forms_of_all_weights_agree(network) -> None:
    dense = fit_rigidity(network, TRAIN, LOSS, 1e-2, "dense", zeta_is_relative=True)
    kernel = fit_rigidity(network, TRAIN, LOSS, dense.zeta, "kernel")
    free = fit_rigidity(network, TRAIN, LOSS, dense.zeta, "matrix-free", options=FormOptions(20, 1e-8))
    assert dense.zeta**2 == pytest.approx(1e-4 * (np.trace(dense.hessian.matrix) / len(dense.weights.vector)), rel=1e-3)
    for found in (kernel, free):
        np.testing.assert_allclose(found.energies(TEST), dense.energies(TEST), rtol=1e-4)
        np.testing.assert_allclose(found.atoms(TEST), dense.atoms(TEST), rtol=1e-4)


def test_a_sketch_is_near(network) -> None:
    exact = fit_rigidity(network, TRAIN, LOSS, 1e-1, "kernel", zeta_is_relative=True)
    most = FormOptions(num_buckets=len(exact.weights.vector) // 2)
    found = fit_rigidity(network, TRAIN, LOSS, exact.zeta, "sketched", options=most)
    assert np.median(np.abs(np.log(found.atoms(TEST) / exact.atoms(TEST)))) < 0.5


def test_a_sketch_of_fewer_buckets_than_labels_warns(network) -> None:
    """Four structures with an energy and nine force components each; one energy is not labelled."""
    few = FormOptions(num_buckets=38)
    train = Dataset.from_atoms(labelled_series(water(), 4))
    train.energy[0] = np.nan
    with pytest.warns(InputWarning) as caught:
        fit_rigidity(network, train, LOSS, 0.3, "sketched", options=few)
    assert len(caught) == 1
    assert "The sketch has 38 buckets for 39 labels, so that its rigidities are too high" in str(caught[0].message)
    enough = fit_rigidity(network, train, LOSS, 0.3, "sketched", options=few._replace(num_buckets=39))  # no warning
    assert enough.sketch is not None and enough.sketch.num_buckets == 39


def test_structures_like_those_of_training_are_held_firmer(network) -> None:
    """Far-off molecules have lower rigidities of their energies than the training structures themselves."""
    model = fit_rigidity(network, TRAIN, LOSS, 1e-2, "kernel", zeta_is_relative=True)
    stretched = []
    for atoms in labelled_series(water(), 4):
        atoms.positions *= 1.4
        stretched.append(atoms)
    assert model.energies(TRAIN).min() > model.energies(Dataset.from_atoms(stretched)).max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "half"}, "There is no form 'half' of the Hessian; choose among last-layer"),
        ({"form": "kernel", "zeta": 0.0}, "zeta is 0.0; more weights than rows need one above 0"),
        ({"form": "matrix-free", "loss": lambda predicted, _: predicted.energy}, "matrix-free form is for square"),
        ({"loss": SquareLoss(energy=0.0)}, "Every weight of the loss is zero"),
    ],
)
def test_what_does_not_fit_is_refused(network, options, message) -> None:
    with pytest.raises(InputError, match=message):
        fit_rigidity(network, TRAIN, **({"loss": LOSS, "zeta": 0.1} | options))


def test_an_element_unknown_to_the_network(network) -> None:
    model = fit_rigidity(network, TRAIN, LOSS, 0.3)
    with pytest.raises(InputError, match="holds Si, which the potential does not know"):
        model.atoms(Dataset.from_atoms([silicon()]))


def test_rigidities_of_a_stress_are_those_of_its_derivatives() -> None:
    crystals = Dataset.from_atoms(labelled_series(silicon(), 3))
    net = random_posterior(labelled_series(silicon(), 3), num_samples=1, dtype=jnp.float64).network()
    model = fit_rigidity(net, crystals, LOSS, 0.3)
    rows = [each.rows["stress"] for each in jacobians(net, last_layer(net), crystals, outputs(net, ("stress",)))]
    expected = prediction_rigidity(np.stack(rows).reshape(27, -1), model.hessian).reshape(3, 3, 3)
    np.testing.assert_allclose(model.stress(crystals), expected, rtol=1e-9)
    np.testing.assert_allclose(expected, expected.swapaxes(1, 2), rtol=1e-6)
    mixed = Dataset.from_atoms([*labelled_series(silicon(), 1), *labelled_series(water(), 1)])
    with pytest.raises(InputError, match="Structure 1 has no cell, and so no stress"):
        model.stress(mixed)


def test_no_components_of_a_sketch(network) -> None:
    model = fit_rigidity(network, TRAIN, LOSS, 0.3, "sketched", options=FormOptions(num_buckets=50))
    with pytest.raises(InputError, match="sketch mixes the weights"):
        model.of_components(TEST, {"all": slice(None)})


def test_conventions_of_the_paper_differ_as_its_code_does(network) -> None:
    """Rows of section 4.1 are sums over atoms, those of section 5.1 means; section 6 has forces alone."""
    found = {name: fit_rigidity(network, TRAIN, *CONVENTIONS[name][:2]) for name in ("4.1", "5.1", "6")}
    matrices = {name: model.hessian.matrix - model.zeta**2 * np.eye(4) for name, model in found.items()}
    np.testing.assert_allclose(matrices["5.1"] * 9, matrices["4.1"], rtol=1e-7)  # three atoms
    assert [round(model.zeta**2, 14) for model in found.values()] == [1e-5, 1e-3, 2.5e-11]
    forces = np.vstack(
        [
            each.rows["forces"].reshape(-1, 4)
            for each in jacobians(network, last_layer(network), TRAIN, outputs(network, ("forces",)))
        ]
    )
    np.testing.assert_allclose(matrices["6"], forces.T @ forces, rtol=1e-9)
    assert [name for name, each in CONVENTIONS.items() if each.per_atom] == ["5.1", "5.2", "6"]


def test_it_is_a_public_room() -> None:
    assert bnn_jax.rigidity.fit_rigidity is fit_rigidity


def test_elements_are_components_of_the_energy(network) -> None:
    """One element alone is the whole of the energy; of two, each is a row of its own."""
    model = fit_rigidity(network, TRAIN, LOSS, 0.3)
    found = model.of_elements(TEST)
    rows = [
        each.rows["atom_energies"] for each in jacobians(network, last_layer(network), TEST, outputs(network, NAMES))
    ]
    oxygen = np.vstack([each[TEST.numbers[:3] == 8].sum(axis=0) for each in rows])
    np.testing.assert_allclose(found[8], prediction_rigidity(oxygen, model.hessian), rtol=1e-9)
    assert list(found) == [1, 8]
