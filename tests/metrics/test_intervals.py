"""Widths, coverage and interval scores against uncertainty-toolbox, SciPy and closed forms."""

import inspect
import re

import numpy as np
import pytest
import uncertainty_toolbox
from scipy.stats import norm

from bnn_jax.metrics import calibration_curve, interval_coverage, interval_score, normal_half_widths, sharpness


@pytest.fixture
def predictions():
    """Means, stds and targets with errors one and a half stds large."""
    rng = np.random.default_rng(0)
    mean, std = rng.normal(size=300), rng.uniform(0.5, 2.0, size=300)
    return mean, std, mean + 1.5 * std * rng.normal(size=300)


def test_sharpness(predictions):
    _, std, _ = predictions
    assert sharpness(std) == pytest.approx(uncertainty_toolbox.metrics_calibration.sharpness(std), rel=1e-12)
    assert sharpness(np.array([[1.0], [7.0]])) == pytest.approx(5.0, rel=1e-14)
    with pytest.raises(ValueError, match=re.escape("stds[0] is 0.0, not positive; a prediction without spread")):
        sharpness(np.zeros(1))
    with pytest.raises(ValueError, match=re.escape("There is no element to average over: stds (0,); pass at least")):
        sharpness(np.zeros(0))


def test_normal_half_widths():
    stds = np.array([[1.0, 2.0]])
    assert normal_half_widths(stds, norm.cdf(1.0) - norm.cdf(-1.0)) == pytest.approx(stds, rel=1e-12)
    assert normal_half_widths(stds, 0.95) == pytest.approx(1.959963984540054 * stds, rel=1e-12)
    assert normal_half_widths(stds, 0.0).tolist() == [[0.0, 0.0]]
    assert normal_half_widths(stds, 0.95).shape == (1, 2)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_normal_coverage_is_a_point_of_the_calibration_curve(predictions, level):
    mean, std, target = predictions
    coverage = interval_coverage(mean - target, normal_half_widths(std, level))
    assert coverage == calibration_curve(mean, std, target, np.array([level]))[0]
    expected = uncertainty_toolbox.metrics_calibration.get_proportion_in_interval(mean, std, target, level)
    assert coverage == pytest.approx(expected, abs=1e-12)


def test_coverage_by_hand():
    errors = np.array([-1.0, 0.5, 2.0, -3.0])
    assert interval_coverage(errors, np.array([1.0, 0.4, 2.5, 2.9])) == 0.5  # the first lies on the end, inside
    assert interval_coverage(errors, 2.0) == 0.75
    assert interval_coverage(errors.reshape(2, 2), np.array([[0.5], [3.0]])) == 0.75
    assert interval_coverage(errors, np.inf) == 1.0
    assert interval_coverage(errors, np.array([np.inf, 0.0, 0.0, np.inf])) == 0.5
    assert interval_coverage(np.zeros(1), 0.0) == 1.0


def test_coverage_bad_arguments():
    with pytest.raises(ValueError, match=re.escape("half_widths[1] is -1.0, not positive or zero; an interval has")):
        interval_coverage(np.zeros(2), np.array([1.0, -1.0]))
    with pytest.raises(ValueError, match=re.escape("half_widths[1] is nan, not finite; remove or mask it.")):
        interval_coverage(np.zeros(2), np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match=re.escape("errors[0] is nan, not finite; remove or mask it.")):
        interval_coverage(np.array([np.nan]), np.ones(1))
    message = "Shapes do not broadcast: errors (3,), half_widths (2,); pass arrays of one shape."
    with pytest.raises(ValueError, match=re.escape(message)):
        inspect.unwrap(interval_coverage)(np.zeros(3), np.ones(2))  # without the suite's shape checker


def test_interval_score_by_hand():
    # At 90 %: lengths of 2, 2 and 4; the second target lies 0.5 outside, which costs 20 times as much.
    errors, half_widths = np.array([1.0, -1.5, 0.0]), np.array([1.0, 1.0, 2.0])
    assert interval_score(errors, half_widths, 0.9) == pytest.approx((2.0 + 2.0 + 10.0 + 4.0) / 3.0)
    assert interval_score(7.0 * errors, 7.0 * half_widths, 0.9) == pytest.approx(7.0 * 6.0)


def test_interval_score_equals_uncertainty_toolbox(predictions):
    mean, std, target = predictions
    scores = [interval_score(mean - target, normal_half_widths(std, p), p) for p in np.linspace(0.01, 0.99, 99)]
    expected = uncertainty_toolbox.metrics_scoring_rule.interval_score(mean, std, target, scaled=True)
    assert np.mean(scores) == pytest.approx(expected, rel=1e-12)


def test_the_true_quantile_scores_best():
    errors = np.random.default_rng(1).normal(size=50_000)
    scores = {width: interval_score(errors, width, 0.8) for width in (0.5, 1.1, norm.ppf(0.9), 1.5, 3.0)}
    assert min(scores, key=scores.__getitem__) == norm.ppf(0.9)


@pytest.mark.parametrize("level", [1.0, 95.0, -0.1, np.nan])
def test_bad_levels(level):
    message = f"level is {level}; give a probability from 0 to below 1."
    with pytest.raises(ValueError, match=re.escape(message)):
        interval_score(np.zeros(2), np.ones(2), level)
    with pytest.raises(ValueError, match=re.escape(message)):
        normal_half_widths(np.ones(2), level)


def test_interval_score_refuses_infinite_half_widths():
    with pytest.raises(ValueError, match=re.escape("half_widths[0] is inf, not finite; remove or mask it.")):
        interval_score(np.zeros(1), np.full(1, np.inf), 0.9)
