"""Elements are what the predictive says of the labels, figures the metrics, intervals the bootstrap."""

import dataclasses
import functools

import numpy as np
import pytest
from scipy import special, stats

from bnn_jax import Dataset, metrics
from bnn_jax.comparison import FIGURES, figures, figures_of, measure
from bnn_jax.comparison.elements import Elements, energies, force_components, quantities, structure_forces
from bnn_jax.recalibration import fit_recalibration
from bnn_jax.types import Predictive
from bnn_jax.units import EV_PER_KCAL_PER_MOL
from tests import systems
from tests.posteriors import random_posterior


def labelled_set() -> Dataset:
    structures = systems.labelled_series(systems.water(), 5)
    structures[1].set_array("forces_mask", np.array([True, False, True]))
    return Dataset.from_atoms(structures)


@functools.cache
def predicted() -> Predictive:
    """Of the set above."""
    return random_posterior(systems.labelled_series(systems.water(), 5)).predict(labelled_set())


def elements(number: int = 60, seed: int = 0) -> Elements:
    """Five elements a structure, whose errors are as large as predicted."""
    rng = np.random.default_rng(seed)
    stds = rng.uniform(0.3, 2, size=number)
    errors = stds * rng.normal(size=number)
    offsets = 0.1 * rng.normal(size=(3, number))
    return Elements(errors, stds, stds, np.arange(number) // 5, offsets - offsets.mean(axis=0), np.tile(stds, (3, 1)))


def test_elements_are_those_of_the_predictive_in_kcal() -> None:
    dataset = labelled_set()
    predictive = predicted()
    found = force_components(predictive, dataset)
    labelled = np.isfinite(dataset.forces)
    assert found is not None and labelled.sum() == len(found.errors) == 5 * 9 - 3
    unit = EV_PER_KCAL_PER_MOL
    np.testing.assert_allclose(found.errors, (predictive.forces - dataset.forces)[labelled] / unit)
    np.testing.assert_allclose(found.stds, predictive.forces_std[labelled] / unit)
    samples, sample_stds = predictive.forces_samples[:, labelled], predictive.forces_std_samples[..., None]
    np.testing.assert_allclose(found.offsets, (predictive.forces[labelled] - samples) / unit)
    np.testing.assert_allclose(found.sample_stds, (sample_stds * np.ones(3))[:, labelled] / unit)
    assert found.score_kind == "std" and found.structure.tolist() == np.repeat(range(5), [9, 6, 9, 9, 9]).tolist()
    rows = structure_forces(predictive, dataset)
    assert rows is not None
    np.testing.assert_allclose(rows.errors[1], np.sqrt(np.mean(found.errors[9:15] ** 2)))
    np.testing.assert_allclose(rows.stds[1], np.sqrt(np.mean(found.stds[9:15] ** 2)))
    assert rows.score_kind == "std"
    totals = energies(predictive, dataset)
    assert totals is not None
    np.testing.assert_allclose(totals.errors, (predictive.energy - dataset.energy) / unit)
    np.testing.assert_allclose(totals.stds, predictive.energy_std / unit)
    np.testing.assert_allclose(totals.offsets, (predictive.energy - predictive.energy_samples) / unit)
    np.testing.assert_allclose(totals.sample_stds, predictive.energy_std_samples / unit)


def test_scores_that_are_no_stds_keep_their_unit() -> None:
    dataset = labelled_set()
    predictive = predicted()
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


def test_scores_of_structures_of_several_sizes() -> None:
    sizes = [3, 4, 4, 4]
    dataset = Dataset.from_atoms([systems.labelled([systems.water, systems.ammonia][n - 3]()) for n in sizes])
    predictive = predicted()._replace(num_atoms=np.array(sizes), score=np.arange(15.0))  # 15 atoms cut otherwise
    rows = structure_forces(predictive, dataset)
    assert rows is not None and rows.scores.tolist() == [1, 4.5, 8.5, 12.5]


def test_figures_are_the_metrics() -> None:
    """Each against its definition or the metric of that name, with scores that are not the stds."""
    given = elements()
    given = given._replace(scores=given.stds + np.random.default_rng(5).normal(size=60) ** 2)
    found = figures(given, None, tuple(FIGURES))
    errors, stds, scores, zero = given.errors, given.stds, given.scores, np.zeros_like(given.errors)
    densities = stats.norm.logpdf(errors, given.offsets, given.sample_stds)
    half_widths = stats.norm.ppf(0.95) * stds
    expected = {
        "mae": np.abs(errors).mean(),
        "rmse": np.sqrt(np.mean(errors**2)),
        "mll": stats.norm.logpdf(errors, 0, stds).mean(),
        "mll_mixture": (special.logsumexp(densities, axis=0) - np.log(3)).mean(),
        "cnll": np.nan,
        "crps": metrics.gaussian_crps(zero, stds, errors),
        "interval_score": metrics.interval_score(errors, half_widths, 0.9),
        "spearman": stats.spearmanr(np.abs(errors), scores).statistic,
        "auroc": metrics.outlier_auroc(errors, scores, 1.0),
        "auroc_percentile": metrics.outlier_auroc(errors, scores, float(np.percentile(np.abs(errors), 20))),
        "average_precision": metrics.outlier_average_precision(errors, scores, 1.0),
        "rejection_ratio": metrics.prediction_rejection_ratio(errors, scores),
        "miscalibration_area": metrics.miscalibration_area(zero, stds, errors),
        "calibrated_area": np.nan,
        "ence": metrics.ence(errors, stds, 15),
        "nece": metrics.nece(errors, given.sample_stds, means=given.offsets),
        "mean_squared_z": np.mean((errors / stds) ** 2),
        "coverage": np.mean(np.abs(errors) <= half_widths),
        "sharpness": np.sqrt(np.mean(stds**2)),
    }
    assert found == pytest.approx(expected, nan_ok=True) and list(found) == list(FIGURES)


def test_a_std_of_zero_is_none() -> None:
    given = elements()
    stds, sample_stds = given.stds.copy(), given.sample_stds.copy()
    stds[3] = sample_stds[1, 3] = 0
    found = figures(given._replace(stds=stds, scores=stds, sample_stds=sample_stds), None, tuple(FIGURES))
    for name, figure in FIGURES.items():
        assert np.isnan(found[name]) == (figure.needs in ("stds", "samples", "calibration"))


def test_calibrated_likelihood_is_that_of_the_recalibrated_stds() -> None:
    valid, given = elements(200, 1), elements()
    overconfident = given._replace(stds=given.stds / 3, scores=given.stds / 3)
    recalibration = fit_recalibration("affine", valid.errors, valid.stds / 3, valid.structure)
    found = figures(overconfident, recalibration, tuple(FIGURES))
    stds = recalibration.stds(overconfident.scores)
    assert found["cnll"] == pytest.approx(-metrics.gaussian_log_likelihood(np.zeros(60), stds, given.errors))
    assert found["cnll"] < -found["mll"]
    assert found["calibrated_area"] == pytest.approx(metrics.miscalibration_area(np.zeros(60), stds, given.errors))


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
    found = quantities(predicted(), dataset)
    assert list(found) == ["forces", "forces of H", "forces of O", "structures", "energy"]
    labelled = np.isfinite(dataset.forces)
    of_oxygen = (np.broadcast_to(dataset.numbers[:, None], labelled.shape) == 8)[labelled]
    np.testing.assert_array_equal(found["forces of O"].errors, found["forces"].errors[of_oxygen])
    np.testing.assert_array_equal(found["forces of H"].structure, found["forces"].structure[~of_oxygen])
    alone = dataclasses.replace(dataset, numbers=np.ones_like(dataset.numbers))
    assert list(quantities(predicted(), alone)) == ["forces", "structures", "energy"]
    assert set(figures_of("forces of O")) < set(figures_of("forces")) == set(FIGURES)
