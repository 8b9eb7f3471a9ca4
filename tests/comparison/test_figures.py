"""Elements are what the predictive says of the labels, figures the metrics, intervals the bootstrap."""

import numpy as np
import pytest

from bnn_jax import Dataset, metrics
from bnn_jax.comparison import FIGURES, figures, figures_of, measure
from bnn_jax.comparison.elements import Elements, energies, force_components, quantities, structure_forces
from bnn_jax.recalibration import fit_recalibration
from bnn_jax.units import EV_PER_KCAL_PER_MOL
from tests import systems
from tests.posteriors import random_posterior


def labelled_set() -> Dataset:
    structures = systems.labelled_series(systems.water(), 5)
    structures[1].set_array("forces_mask", np.array([True, False, True]))
    return Dataset.from_atoms(structures)


def elements(number: int = 60, seed: int = 0) -> Elements:
    """Five elements a structure, whose errors are as large as predicted."""
    rng = np.random.default_rng(seed)
    stds = rng.uniform(0.3, 2, size=number)
    errors = stds * rng.normal(size=number)
    offsets = 0.1 * rng.normal(size=(3, number))
    return Elements(errors, stds, stds, np.arange(number) // 5, offsets - offsets.mean(axis=0), np.tile(stds, (3, 1)))


def test_elements_are_those_of_the_predictive_in_kcal() -> None:
    dataset = labelled_set()
    predictive = random_posterior(systems.labelled_series(systems.water(), 5)).predict(dataset)
    found = force_components(predictive, dataset)
    labelled = np.isfinite(dataset.forces)
    assert found is not None and labelled.sum() == len(found.errors) == 5 * 9 - 3
    unit = EV_PER_KCAL_PER_MOL
    np.testing.assert_allclose(found.errors, (predictive.forces - dataset.forces)[labelled] / unit)
    np.testing.assert_allclose(found.stds, predictive.forces_std[labelled] / unit)
    assert found.score_kind == "std" and found.structure.tolist() == np.repeat(range(5), [9, 6, 9, 9, 9]).tolist()
    rows = structure_forces(predictive, dataset)
    assert rows is not None
    np.testing.assert_allclose(rows.errors[1], np.sqrt(np.mean(found.errors[9:15] ** 2)))
    totals = energies(predictive, dataset)
    assert totals is not None
    np.testing.assert_allclose(totals.errors, (predictive.energy - dataset.energy) / unit)


def test_scores_that_are_no_stds_keep_their_unit() -> None:
    dataset = labelled_set()
    predictive = random_posterior(systems.labelled_series(systems.water(), 5)).predict(dataset)
    score = np.linspace(-3, 3, 15)
    nothing = np.full_like(predictive.forces_std, np.nan)
    ranked = predictive._replace(score=score, forces_std=nothing)
    found = force_components(ranked, dataset)
    assert found is not None and not found.has_stds and found.has_scores and found.score_kind == "any"
    assert found.scores.tolist() == np.repeat(score, 3)[np.isfinite(dataset.forces).ravel()].tolist()
    rows = structure_forces(ranked, dataset)
    assert rows is not None
    np.testing.assert_allclose(rows.scores, score.reshape(5, 3).mean(axis=1))
    assert np.isnan(rows.stds).all()


def test_figures_are_the_metrics() -> None:
    given = elements()
    found = figures(given, None, tuple(FIGURES))
    zero = np.zeros_like(given.errors)
    assert found["mae"] == pytest.approx(np.abs(given.errors).mean())
    assert found["mll"] == pytest.approx(metrics.gaussian_log_likelihood(zero, given.stds, given.errors))
    assert found["auroc"] == pytest.approx(metrics.outlier_auroc(given.errors, given.stds, 1.0))
    assert found["nece"] == pytest.approx(metrics.nece(given.errors, given.sample_stds, means=given.offsets))
    assert np.isnan(found["cnll"])
    assert set(found) == set(FIGURES)


def test_calibrated_likelihood_is_that_of_the_recalibrated_stds() -> None:
    valid, given = elements(200, 1), elements()
    overconfident = given._replace(stds=given.stds / 3, scores=given.stds / 3)
    recalibration = fit_recalibration("affine", valid.errors, valid.stds / 3, valid.structure)
    found = figures(overconfident, recalibration, tuple(FIGURES))
    stds = recalibration.stds(overconfident.scores)
    assert found["cnll"] == pytest.approx(-metrics.gaussian_log_likelihood(np.zeros(60), stds, given.errors))
    assert found["cnll"] < -found["mll"]


def test_without_stds_only_ranking_is_left() -> None:
    given = elements()
    nothing = np.full_like(given.stds, np.nan)
    found = figures(given._replace(stds=nothing, scores=np.log(given.stds)), None, tuple(FIGURES))
    defined = {name for name, value in found.items() if np.isfinite(value)}
    ranking = {"spearman", "auroc", "auroc_percentile", "average_precision", "rejection_ratio"}
    assert defined == {"mae", "rmse", "mll_mixture", "nece"} | ranking  # samples have stds of their own
    assert found["auroc"] == pytest.approx(figures(given, None, tuple(FIGURES))["auroc"])


def test_resampled_figures_are_the_bootstraps() -> None:
    given = elements()
    measured = measure(given, None, tuple(FIGURES), 50)
    interval = metrics.bootstrap_interval(lambda index: np.abs(given.errors[index]).mean(), given.structure, 50)
    values = measured.resampled["mae"]
    assert np.quantile(values, [0.025, 0.975]).tolist() == pytest.approx([interval.lower, interval.upper])
    nece = metrics.nece(given.errors, given.sample_stds, means=given.offsets)
    assert measured.estimates["nece"] == pytest.approx(nece)
    assert np.isnan(measured.resampled["nece"]).all()


def test_quantities_of_each_element() -> None:
    dataset = labelled_set()
    found = quantities(random_posterior(systems.labelled_series(systems.water(), 5)).predict(dataset), dataset)
    assert list(found) == ["forces", "forces of H", "forces of O", "structures", "energy"]
    labelled = np.isfinite(dataset.forces)
    of_oxygen = (np.broadcast_to(dataset.numbers[:, None], labelled.shape) == 8)[labelled]
    np.testing.assert_array_equal(found["forces of O"].errors, found["forces"].errors[of_oxygen])
    np.testing.assert_array_equal(found["forces of H"].structure, found["forces"].structure[~of_oxygen])
    assert set(figures_of("forces of O")) < set(figures_of("forces")) == set(FIGURES)
