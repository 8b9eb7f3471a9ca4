"""ROC and rank correlation against scikit-learn, SciPy and closed forms."""

import inspect
import re

import numpy as np
import pytest
import sklearn.metrics
from scipy.stats import spearmanr

from bnn_jax.metrics import outlier_auroc, outlier_roc_curve, spearman


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
    assert all(array.size == 0 for array in outlier_roc_curve(errors, scores, threshold))


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
    for metric, arguments in ((outlier_auroc, (1.0,)), (outlier_roc_curve, (1.0,)), (spearman, ())):
        with pytest.raises(ValueError, match=re.escape(message)):
            inspect.unwrap(metric)(np.zeros(3), np.zeros(2), *arguments)  # without the suite's shape checker
