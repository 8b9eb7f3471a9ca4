"""The likelihood against sums of SciPy's normals, its masks, and its invariance under rotation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bnn_jax.atoms import Dataset
from bnn_jax.posterior import log_likelihood
from tests import systems
from tests.posterior.labelled import batch_of, random_prediction, structures

pytestmark = pytest.mark.usefixtures("x64")

STRESS_STD = 0.02
ALL = np.arange(6)


def by_scipy(prediction, forces_std=None) -> list[float]:
    """Term by term, from the labels as the user gave them."""
    data, totals = Dataset.from_atoms(structures()), []
    stds = (
        np.broadcast_to(prediction.forces_std[:, None], prediction.forces.shape) if forces_std is None else forces_std
    )
    for i in range(len(data)):
        total = 0.0
        if np.isfinite(data.energy[i]):
            total += stats.norm.logpdf(data.energy[i], prediction.energy[i], prediction.energy_std[i])
        for atom in range(data.offsets[i], data.offsets[i + 1]):
            for axis in range(3):
                if np.isfinite(data.forces[atom, axis]):
                    mean, std = prediction.forces[atom, axis], stds[atom, axis]
                    total += stats.norm.logpdf(data.forces[atom, axis], mean, std)
        for row, column in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)):
            if np.isfinite(data.stress[i, row, column]):
                std = STRESS_STD if row == column else STRESS_STD / np.sqrt(2)
                total += stats.norm.logpdf(data.stress[i, row, column], prediction.stress[i, row, column], std)
        totals.append(total)
    return totals


def test_equals_scipy() -> None:
    prediction, batch = random_prediction(7), batch_of(ALL)
    assert [bool(mask) for mask in batch.labels.energy_mask] == [True, True, False, True, True, False, False]
    assert int(batch.labels.forces_mask.sum()) == 3 + 2 + 2 + 2
    assert [bool(mask) for mask in batch.labels.stress_mask] == [False] * 4 + [True, True, False]
    result = log_likelihood(prediction, batch, STRESS_STD)
    np.testing.assert_allclose(result[:6], by_scipy(prediction), rtol=1e-12)
    assert result[6] == 0  # padding


def test_epistemic_variances_add_to_those_of_the_noise() -> None:
    """Of each component of a force by itself."""
    prediction, batch = random_prediction(7), batch_of(ALL)
    rng = np.random.default_rng(1)
    energy_std, forces_std = (jnp.asarray(rng.uniform(0.5, 2, size=shape)) for shape in (7, prediction.forces.shape))
    both = prediction._replace(energy_std_epistemic=energy_std, forces_std_epistemic=forces_std)
    energy_std = np.sqrt(prediction.energy_std**2 + energy_std**2)
    forces_std = np.sqrt(prediction.forces_std[:, None] ** 2 + forces_std**2)
    expected = by_scipy(prediction._replace(energy_std=energy_std), forces_std)
    np.testing.assert_allclose(log_likelihood(both, batch, STRESS_STD)[:6], expected, rtol=1e-12)


def test_without_stress_its_term_is_dropped() -> None:
    prediction, batch = random_prediction(7), batch_of(ALL)
    with_stress = log_likelihood(prediction, batch, STRESS_STD)
    without = log_likelihood(prediction._replace(stress=None), batch, STRESS_STD)
    np.testing.assert_array_equal(with_stress[:4], without[:4])
    assert without[5] == 0
    assert with_stress[5] != 0


def test_masked_labels_have_no_value_and_no_gradient() -> None:
    """Neither absurd labels nor absurd predictions nor a std of zero reach through a mask of False."""
    batch, prediction = batch_of(ALL), random_prediction(7)
    masks = {
        "energy": batch.labels.energy_mask,
        "forces": batch.labels.forces_mask[:, None],
        "stress": batch.labels.stress_mask[:, None, None],
    }
    absurd_labels = {name: jnp.where(masks[name], getattr(batch.labels, name), jnp.nan) for name in masks}
    absurd_prediction = {name: jnp.where(masks[name], getattr(prediction, name), jnp.inf) for name in masks}
    absurd_prediction["energy_std"] = jnp.where(batch.labels.energy_mask, prediction.energy_std, 0)
    absurd_prediction["forces_std"] = jnp.where(batch.labels.forces_mask, prediction.forces_std, 0)
    other = batch._replace(labels=batch.labels._replace(**absurd_labels))

    def total(prediction, batch):
        return jnp.sum(log_likelihood(prediction, batch, STRESS_STD))

    value, gradient = jax.value_and_grad(total)(prediction, batch)
    absurd_value, absurd_gradient = jax.value_and_grad(total)(prediction._replace(**absurd_prediction), other)
    assert value == absurd_value
    for name in (*masks, "energy_std", "forces_std"):
        mask = masks[name.removesuffix("_std")].reshape(-1)
        first, second = (getattr(tree, name) for tree in (gradient, absurd_gradient))
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(first[~mask], 0)
        assert np.abs(first[mask]).max() > 0


def test_an_empty_place_of_a_batch_counts_nothing() -> None:
    prediction = random_prediction(7)
    few = log_likelihood(prediction, batch_of(np.array([0, 1, 2, -1, -1, -1])), STRESS_STD)
    np.testing.assert_allclose(few[:3], log_likelihood(prediction, batch_of(ALL), STRESS_STD)[:3], rtol=1e-12)
    np.testing.assert_array_equal(few[3:], 0)


def test_density_is_the_same_for_rotated_labels_and_predictions() -> None:
    """One isotropic std for the forces of an atom, and for the stress a density of its Frobenius norm."""
    rotation = systems.random_rotation(1)
    prediction, batch = random_prediction(7), batch_of(ALL)
    labels = batch.labels
    turned_prediction = prediction._replace(
        forces=prediction.forces @ rotation.T, stress=rotation @ prediction.stress @ rotation.T
    )
    turned_labels = labels._replace(forces=labels.forces @ rotation.T, stress=rotation @ labels.stress @ rotation.T)
    np.testing.assert_allclose(
        log_likelihood(turned_prediction, batch._replace(labels=turned_labels), STRESS_STD),
        log_likelihood(prediction, batch, STRESS_STD),
        rtol=1e-12,
    )


def test_far_from_the_mean_single_precision_does_not_overflow() -> None:
    """The first steps of a chain see errors of many standard deviations."""
    with jax.enable_x64(False):
        batch = jax.tree.map(lambda x: x.astype(np.float32) if x.dtype == np.float64 else x, batch_of(ALL))
        prediction = random_prediction(7)._replace(forces=jnp.full((32, 3), 1e8))
        assert np.isfinite(log_likelihood(prediction, batch, STRESS_STD)).all()
