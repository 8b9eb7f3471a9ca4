"""ROC and rank correlation against scikit-learn, SciPy and closed forms."""

import inspect
import re

import numpy as np
import pytest
import sklearn.metrics
from scipy.stats import spearmanr

from bnn_jax.metrics import (
    error_percentile,
    outlier_auroc,
    outlier_average_precision,
    outlier_roc_curve,
    spearman,
    swept_auroc,
)


@pytest.fixture
def scored_errors():
    rng = np.random.default_rng(0)
    stds = np.round(rng.uniform(0.1, 2.0, size=(60, 3)), 1)  # rounded, so that there are ties
    return stds * rng.normal(size=(60, 3)), stds


def test_auroc_equals_sklearn(scored_errors):
    errors, stds = scored_errors
    expected = sklearn.metrics.roc_auc_score((np.abs(errors) > 1.0).ravel(), stds.ravel())
    assert outlier_auroc(errors, stds, 1.0) == pytest.approx(expected, rel=1e-12)


def test_auroc_by_hand():
    # Outliers score 2 and 3, inliers 1 and 2: three of four pairs in order, one tied. The error of -5 counts by its
    # size, that of exactly the threshold does not.
    errors, scores = np.array([-5.0, 2.0, 0.0, 1.0]), np.array([2.0, 3.0, 1.0, 2.0])
    assert outlier_auroc(errors, scores, 1.0) == pytest.approx(3.5 / 4.0)


def test_auroc_ignores_monotone_rescaling(scored_errors):
    errors, stds = scored_errors
    assert outlier_auroc(errors, np.log(stds), 1.0) == pytest.approx(outlier_auroc(errors, stds, 1.0), rel=1e-12)
    assert outlier_auroc(errors, -stds, 1.0) == pytest.approx(1.0 - outlier_auroc(errors, stds, 1.0), rel=1e-12)


def test_curve_has_the_area(scored_errors):
    errors, stds = scored_errors
    curve = outlier_roc_curve(errors, stds, 1.0)
    assert (curve.false_positive_rate[0], curve.true_positive_rate[0]) == (0.0, 0.0)
    assert (curve.false_positive_rate[-1], curve.true_positive_rate[-1]) == (1.0, 1.0)
    area = np.trapezoid(curve.true_positive_rate, curve.false_positive_rate)
    assert area == pytest.approx(outlier_auroc(errors, stds, 1.0), rel=1e-12)


@pytest.mark.parametrize("threshold", [0.0, 10.0])
def test_one_class_has_no_area(threshold):
    errors, scores = np.array([1.0, -2.0]), np.array([1.0, 2.0])
    assert np.isnan(outlier_auroc(errors, scores, threshold))
    assert np.isnan(outlier_average_precision(errors, scores, threshold))
    assert all(array.size == 0 for array in outlier_roc_curve(errors, scores, threshold))


def test_error_percentile_by_hand():
    errors = np.array([-4.0, 0.0, 3.0, 1.0, -2.0])  # sizes 0, 1, 2, 3 and 4
    assert error_percentile(errors, 50.0) == 2.0
    assert error_percentile(errors) == pytest.approx(0.8)
    assert (error_percentile(errors, 0.0), error_percentile(errors, 100.0)) == (0.0, 4.0)
    assert error_percentile(np.array([-7.0])) == 7.0


def test_auroc_at_a_percentile(scored_errors):
    errors, stds = scored_errors
    threshold = error_percentile(errors, 20.0)
    assert np.mean(np.abs(errors) > threshold) == 0.8  # 144 of 180
    unit = 23.06
    scaled = outlier_auroc(unit * errors, stds, error_percentile(unit * errors, 20.0))
    assert scaled == pytest.approx(outlier_auroc(errors, stds, threshold), rel=1e-12)
    assert np.isnan(outlier_auroc(errors, stds, error_percentile(errors, 100.0)))  # none is beyond the largest


@pytest.mark.parametrize("percentile", [-1.0, 101.0, np.nan])
def test_error_percentile_bad_arguments(percentile):
    message = f"percentile is {percentile}; give a percentage between 0 and 100."
    with pytest.raises(ValueError, match=re.escape(message)):
        error_percentile(np.ones(3), percentile)
    with pytest.raises(ValueError, match=re.escape("errors[1] is nan, not finite; remove or mask it.")):
        error_percentile(np.array([1.0, np.nan]))


@pytest.mark.parametrize("threshold", [0.1, 1.0, 2.0])
def test_average_precision_equals_sklearn(scored_errors, threshold):
    errors, stds = scored_errors
    expected = sklearn.metrics.average_precision_score((np.abs(errors) > threshold).ravel(), stds.ravel())
    assert outlier_average_precision(errors, stds, threshold) == pytest.approx(expected, rel=1e-12)


def test_average_precision_by_hand():
    # From the highest score: an outlier; an outlier beside an inlier, tied; an inlier.
    errors, scores = np.array([-5.0, 2.0, 0.0, 1.0]), np.array([2.0, 3.0, 1.0, 2.0])
    assert outlier_average_precision(errors, scores, 1.0) == pytest.approx(0.5 * 1.0 + 0.5 * 2.0 / 3.0)
    assert outlier_average_precision(errors, np.ones(4), 1.0) == pytest.approx(0.5)  # the fraction of outliers
    assert outlier_average_precision(errors, np.abs(errors), 1.0) == 1.0


def test_spearman_equals_scipy(scored_errors):
    errors, stds = scored_errors
    expected = spearmanr(np.abs(errors).ravel(), stds.ravel()).statistic
    assert spearman(errors, stds) == pytest.approx(expected, rel=1e-12)


def test_spearman_of_sorted_and_of_constant_values():
    errors = np.array([0.1, -0.2, 0.3])
    assert spearman(errors, np.array([1.0, 10.0, 11.0])) == pytest.approx(1.0)
    assert spearman(errors, np.array([3.0, 2.0, 1.0])) == pytest.approx(-1.0)
    assert np.isnan(spearman(errors, np.ones(3)))
    assert np.isnan(spearman(np.array([1.0, -1.0, 1.0]), errors))
    assert np.isnan(spearman(np.ones(1), np.ones(1)))


def test_shape_mismatch():
    message = "Shapes do not broadcast: errors (3,), scores (2,); pass arrays of one shape."
    thresholded = (outlier_auroc, outlier_roc_curve, outlier_average_precision)
    for metric, arguments in (*((metric, (1.0,)) for metric in thresholded), (spearman, ())):
        with pytest.raises(ValueError, match=re.escape(message)):
            inspect.unwrap(metric)(np.zeros(3), np.zeros(2), *arguments)  # without the suite's shape checker


def test_swept_auroc_is_the_mean_over_quantiles():
    rng = np.random.default_rng(6)
    errors, scores = rng.normal(size=500), rng.uniform(0.1, 1.0, size=500)
    scores = np.where(np.abs(errors) > 1, scores + 0.3, scores)
    levels = np.arange(1, 20) / 20
    expected = np.mean([outlier_auroc(errors, scores, np.quantile(np.abs(errors), level)) for level in levels])
    assert swept_auroc(errors, scores) == pytest.approx(expected, rel=1e-12)
    assert swept_auroc(errors, np.abs(errors)) == pytest.approx(1.0)
    assert swept_auroc(errors, rng.uniform(size=500)) == pytest.approx(0.5, abs=0.1)
    assert np.isnan(swept_auroc(np.ones(5), rng.uniform(size=5)))
    with pytest.raises(ValueError, match="num_thresholds is 0"):
        swept_auroc(errors, scores, 0)
