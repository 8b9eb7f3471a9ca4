"""Retention curves against sums over all orders of ties, the Gini index and hand computed values."""

import inspect
import itertools
import re

import numpy as np
import pytest
import sklearn.metrics

from bnn_jax.metrics import prediction_rejection_ratio, retention_area, retention_curve


@pytest.fixture
def scored_errors():
    rng = np.random.default_rng(0)
    stds = np.round(rng.uniform(0.1, 2.0, size=(60, 3)), 1)  # rounded, so that there are ties
    return stds * rng.normal(size=(60, 3)), stds


def test_curve_by_hand():
    # In order of score the errors are 0 and 1, tied; 3 and 4, tied; 2.
    curve = retention_curve(np.array([0.0, -1.0, 2.0, -3.0, 4.0]), np.array([0.0, 0.0, 2.0, 1.0, 1.0]))
    assert curve.fraction == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert curve.error == pytest.approx([0.0, 0.1, 0.2, 0.9, 1.6, 2.0])
    assert curve.oracle == pytest.approx([0.0, 0.0, 0.2, 0.6, 1.2, 2.0])
    assert curve.random == pytest.approx([0.0, 0.4, 0.8, 1.2, 1.6, 2.0])


def test_area_and_ratio_by_hand():
    errors, scores = np.array([0.0, -1.0, 2.0, -3.0, 4.0]), np.array([0.0, 0.0, 2.0, 1.0, 1.0])
    # Trapezoids: 0.2 times the points between the ends, and half of the last.
    assert retention_area(errors, scores) == pytest.approx(0.2 * (2.8 + 1.0))
    assert prediction_rejection_ratio(errors, scores) == pytest.approx((1.0 - 0.76) / (1.0 - 0.6))


def test_ties_are_averaged_over_their_orders():
    errors, scores = np.array([1.0, 5.0, 2.0, 4.0, 0.5]), np.array([1.0, 1.0, 1.0, 0.0, 0.0])
    # A small part of an order of the elements breaks the ties; all orders weigh the same.
    areas = [retention_area(errors, scores + 1e-3 * np.array(order)) for order in itertools.permutations(range(5))]
    assert np.ptp(areas) > 0.1
    assert retention_area(errors, scores) == pytest.approx(np.mean(areas), rel=1e-12)


def test_curve_has_the_area_and_lies_above_the_oracle(scored_errors):
    errors, stds = scored_errors
    curve = retention_curve(errors, stds)
    assert all(values.shape == (181,) for values in curve)
    for values in (curve.error, curve.oracle, curve.random):
        assert values[0] == 0.0
        assert values[-1] == pytest.approx(np.abs(errors).mean(), rel=1e-12)
    assert np.all(curve.error >= curve.oracle - 1e-12)
    area, oracle, random = (np.trapezoid(values, curve.fraction) for values in curve[1:])
    assert retention_area(errors, stds) == pytest.approx(area, rel=1e-12)
    assert prediction_rejection_ratio(errors, stds) == pytest.approx((random - area) / (random - oracle), rel=1e-12)
    assert 0.1 < prediction_rejection_ratio(errors, stds) < 0.9


def test_limits_of_the_ratio(scored_errors):
    errors, _ = scored_errors
    assert prediction_rejection_ratio(errors, np.square(errors)) == pytest.approx(1.0, rel=1e-12)
    assert prediction_rejection_ratio(errors, -np.abs(errors)) == pytest.approx(-1.0, rel=1e-12)
    assert prediction_rejection_ratio(errors, np.ones((1, 1))) == pytest.approx(0.0, abs=1e-12)


def test_random_scores_get_nothing_on_average():
    rng = np.random.default_rng(1)
    errors = rng.normal(size=100)
    ratios = [prediction_rejection_ratio(errors, rng.random(100)) for _ in range(500)]
    assert abs(np.mean(ratios)) < 4.0 * np.std(ratios) / np.sqrt(500)


def test_ratio_of_hits_and_misses_is_the_gini_index():
    rng = np.random.default_rng(2)
    scores = rng.integers(0, 10, size=200).astype(float)
    wrong = rng.random(200) < 0.05 + 0.05 * scores
    auroc = sklearn.metrics.roc_auc_score(wrong, scores)
    assert prediction_rejection_ratio(wrong.astype(float), scores) == pytest.approx(2.0 * auroc - 1.0, rel=1e-12)


def test_ratio_ignores_units_and_monotone_rescaling(scored_errors):
    errors, stds = scored_errors
    ratio = prediction_rejection_ratio(errors, stds)
    assert prediction_rejection_ratio(23.0 * errors, np.log(stds)) == pytest.approx(ratio, rel=1e-12)
    assert retention_area(23.0 * errors, stds) == pytest.approx(23.0 * retention_area(errors, stds), rel=1e-12)


def test_ratio_of_errors_that_are_nearly_the_same():
    errors, scores = np.full(1000, 0.1), np.random.default_rng(3).random(1000)
    errors[17] = np.nextafter(0.1, 1.0)
    scores[17] = 2.0
    assert prediction_rejection_ratio(errors, scores) == pytest.approx(1.0, rel=1e-12)
    assert prediction_rejection_ratio(errors, -scores) == pytest.approx(-1.0, rel=1e-12)
    assert prediction_rejection_ratio(errors, np.ones(1)) == 0.0


def test_errors_of_one_size_have_no_ratio():
    assert np.isnan(prediction_rejection_ratio(np.array([0.1, -0.1, 0.1]), np.array([1.0, 2.0, 3.0])))
    assert np.isnan(prediction_rejection_ratio(np.zeros(3), np.array([1.0, 2.0, 3.0])))
    assert np.isnan(prediction_rejection_ratio(np.array([2.0]), np.array([1.0])))
    assert retention_area(np.array([2.0]), np.array([1.0])) == 1.0


@pytest.mark.parametrize("metric", [retention_curve, retention_area, prediction_rejection_ratio])
def test_bad_arguments(metric):
    with pytest.raises(ValueError, match=re.escape("scores[1] is nan, not finite; remove or mask it.")):
        metric(np.zeros(2), np.array([1.0, np.nan]))
    message = "Shapes do not broadcast: errors (3,), scores (2,); pass arrays of one shape."
    with pytest.raises(ValueError, match=re.escape(message)):
        inspect.unwrap(metric)(np.zeros(3), np.zeros(2))  # without the suite's shape checker
