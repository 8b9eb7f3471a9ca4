"""Likelihoods, error densities and coverage against SciPy, uncertainty-toolbox and closed forms."""

import inspect
import re

import numpy as np
import pytest
import uncertainty_toolbox
from scipy.integrate import quad
from scipy.stats import norm

from bnn_jax.metrics import (
    average_cdf,
    calibration_curve,
    ence,
    gaussian_log_likelihood,
    mean_squared_z_score,
    miscalibration_area,
    mixture_log_likelihood,
    nece,
    relative_log_likelihood,
)


def predictions(num_elements, inflation=1.0, seed=0):
    """Means, stds and targets whose errors are ``inflation`` stds large."""
    rng = np.random.default_rng(seed)
    mean, std = rng.normal(size=num_elements), rng.uniform(0.5, 2.0, size=num_elements)
    return mean, std, mean + inflation * std * rng.normal(size=num_elements)


def test_gaussian_log_likelihood_closed_form():
    value = gaussian_log_likelihood(np.zeros(2), np.array([1.0, 2.0]), np.array([0.0, 2.0]))
    assert value == pytest.approx(-0.5 * np.log(2 * np.pi) - 0.5 * np.log(2.0) - 0.25, rel=1e-14)


@pytest.mark.parametrize("inflation", [0.5, 1.0, 3.0])
def test_gaussian_log_likelihood_equals_uncertainty_toolbox(inflation):
    mean, std, target = predictions(200, inflation)
    expected = -uncertainty_toolbox.metrics_scoring_rule.nll_gaussian(mean, std, target, scaled=True)
    assert gaussian_log_likelihood(mean, std, target) == pytest.approx(expected, rel=1e-12)


def test_gaussian_log_likelihood_takes_one_std_per_atom():
    rng = np.random.default_rng(1)
    mean, target, std = rng.normal(size=(5, 3)), rng.normal(size=(5, 3)), rng.uniform(0.5, 1.0, size=(5, 1))
    expected = norm.logpdf(target, mean, np.repeat(std, 3, axis=1)).mean()
    assert gaussian_log_likelihood(mean, std, target) == pytest.approx(expected, rel=1e-14)


def test_log_likelihoods_shift_by_the_log_of_the_unit():
    mean, std, target = predictions(50)
    unit = 23.06
    shifted = gaussian_log_likelihood(unit * mean, unit * std, unit * target)
    assert shifted == pytest.approx(gaussian_log_likelihood(mean, std, target) - np.log(unit), rel=1e-12)
    means, stds = np.stack([mean, mean + 1.0]), np.stack([std, 2.0 * std])
    shifted = mixture_log_likelihood(unit * means, unit * stds, unit * target)
    assert shifted == pytest.approx(mixture_log_likelihood(means, stds, target) - np.log(unit), rel=1e-12)


def test_mixture_log_likelihood_is_the_log_of_the_mean_density():
    rng = np.random.default_rng(2)
    means, stds, targets = rng.normal(size=(4, 6, 3)), rng.uniform(0.5, 2.0, size=(4, 6, 1)), rng.normal(size=(6, 3))
    expected = np.log(norm.pdf(targets, means, stds).mean(axis=0)).mean()
    assert mixture_log_likelihood(means, stds, targets) == pytest.approx(expected, rel=1e-12)


def test_mixture_of_equal_samples_is_the_normal():
    mean, std, target = predictions(30)
    copies = mixture_log_likelihood(np.tile(mean, (5, 1)), np.tile(std, (5, 1)), target)
    assert copies == pytest.approx(gaussian_log_likelihood(mean, std, target), rel=1e-12)


def test_mixture_log_likelihood_survives_densities_that_underflow():
    value = mixture_log_likelihood(np.zeros((2, 1)), np.ones((2, 1)), np.array([100.0]))
    assert value == pytest.approx(-5000.0 - 0.5 * np.log(2 * np.pi), rel=1e-12)


def test_mean_squared_z_score_of_calibrated_data():
    mean, std, target = predictions(20_000)
    # The mean of n chi-squared variables has a standard error of sqrt(2 / n).
    assert mean_squared_z_score(mean - target, std) == pytest.approx(1.0, abs=4.0 * np.sqrt(2.0 / 20_000))
    assert mean_squared_z_score(np.array([3.0, -1.0]), np.array([1.0, 1.0])) == 5.0


def test_ence_by_hand():
    errors, stds = np.array([2.0, 1.0, -2.0, 4.0]), np.array([2.0, 1.0, 1.0, 2.0])
    # Bins of std 1: RMSE sqrt(2.5); of std 2: RMSE sqrt(10) against 2.
    assert ence(errors, stds, num_bins=2) == pytest.approx((np.sqrt(2.5) - 1.0 + np.sqrt(10.0) / 2.0 - 1.0) / 2.0)
    assert ence(7.0 * errors, 7.0 * stds, num_bins=2) == pytest.approx(ence(errors, stds, num_bins=2))
    assert ence(stds, stds, num_bins=3) == 0.0


def test_ence_refuses_more_bins_than_elements():
    with pytest.raises(
        ValueError, match=re.escape("num_bins is 5; choose it between 1 and the number of elements, 4.")
    ):
        ence(np.ones(4), np.ones(4), num_bins=5)


def test_average_cdf_is_that_of_the_mixture():
    points, means, stds = np.array([-1.0, 0.0, 2.5]), np.array([[0.0], [1.0]]), np.array([[1.0], [0.5]])
    expected = [np.mean([norm.cdf(p, 0.0, 1.0), norm.cdf(p, 1.0, 0.5)]) for p in points]
    assert average_cdf(points, stds, means) == pytest.approx(expected, rel=1e-14)


def test_average_cdf_of_many_narrow_and_wide_normals():
    rng = np.random.default_rng(9)
    stds, means = np.exp(3.0 * rng.normal(size=(2, 700))), rng.normal(size=(2, 700))
    points = np.concatenate([-np.geomspace(1e-3, 1e5, 50), np.geomspace(1e-3, 1e5, 50)])
    expected = norm.cdf(points[:, None, None], means, stds).mean(axis=(1, 2))
    assert average_cdf(points, stds, means) == pytest.approx(expected, abs=1e-14)


def test_nece_by_hand():
    # Bins of width 2: [-2, 0) holds one error, [0, 2) two and [4, 6) one; every std is 1.
    inner, outer = norm.cdf(2.0) - 0.5, norm.cdf(6.0) - norm.cdf(4.0)
    expected = (0.25 * abs(0.25 - inner) + 0.5 * abs(0.5 - inner) + 0.25 * abs(0.25 - outer)) / 2.0
    errors = np.array([-0.5, 0.5, 1.0, 5.0])
    assert nece(errors, np.ones(4), bin_width=2.0) == pytest.approx(expected, rel=1e-12)
    # The element average: half of the predictions with a std of 3.
    inner = 0.5 * (inner + norm.cdf(2.0 / 3.0) - 0.5)
    outer = 0.5 * (outer + norm.cdf(2.0) - norm.cdf(4.0 / 3.0))
    expected = (0.25 * abs(0.25 - inner) + 0.5 * abs(0.5 - inner) + 0.25 * abs(0.25 - outer)) / 2.0
    assert nece(errors, np.array([1.0, 3.0, 1.0, 3.0]), bin_width=2.0) == pytest.approx(expected, rel=1e-12)


def test_nece_estimates_the_expected_difference_of_densities():
    # Errors of std 2 where 1 is predicted: E_p |p - q| by quadrature.
    errors = 2.0 * np.random.default_rng(3).normal(size=200_000)
    expected, _ = quad(lambda y: norm.pdf(y, 0, 2) * abs(norm.pdf(y, 0, 2) - norm.pdf(y, 0, 1)), -12, 12)
    # A bin's count has a relative error of 1 / sqrt(n f) < 0.01 in the bulk; the bin width adds less.
    assert nece(errors, np.ones(1), bin_width=0.1) == pytest.approx(expected, rel=0.02)
    assert nece(errors, np.ones(1)) == pytest.approx(expected, rel=0.02)


def test_nece_of_calibrated_data_vanishes_as_the_data_grow():
    values = []
    for num_elements in (1_000, 30_000):
        mean, std, target = predictions(num_elements, seed=4)
        values.append(nece(mean - target, std))
        # Counting noise: the sum over bins of f / delta sqrt(2 f / (pi n)) is below p_max sqrt(2 p_max / (pi n delta)),
        # with a largest density of 0.4 and a Freedman-Diaconis width of at least n^(-1/3) here.
        assert values[-1] < 2.0 * 0.4 * np.sqrt(0.8 / np.pi) * num_elements ** (-1.0 / 3.0)
    assert values[1] < 0.5 * values[0]
    mean, std, target = predictions(30_000, inflation=1.5, seed=4)
    assert nece(mean - target, std) > 5.0 * values[1]


def test_nece_of_a_mixture_of_samples():
    rng = np.random.default_rng(5)
    samples = np.where(rng.random(20_000) < 0.5, -3.0, 3.0) * np.array([[1.0], [-1.0]])  # two samples, 6 apart
    errors = samples[0] * np.where(rng.random(20_000) < 0.5, 1.0, -1.0) + rng.normal(size=20_000)
    mixture = nece(errors, np.ones((2, 1)), means=-samples)
    moment_matched = nece(errors, np.full(20_000, np.sqrt(10.0)))
    assert mixture < 0.2 * moment_matched
    # An asymmetric mixture about its mean tells the sign of the means.
    samples = np.array([[-1.0], [-1.0], [2.0]])
    targets = rng.choice(samples[:, 0], size=20_000) + 0.3 * rng.normal(size=20_000)
    stds = np.full((3, 1), 0.3)
    assert nece(0.0 - targets, stds, means=0.0 - samples) < 0.1 * nece(0.0 - targets, stds, means=samples)


def test_nece_is_a_density():
    mean, std, target = predictions(500)
    value = nece(mean - target, std, bin_width=0.25)
    assert nece(4.0 * (mean - target), 4.0 * std, bin_width=1.0) == pytest.approx(value / 4.0, rel=1e-12)
    assert nece(4.0 * (mean - target), 4.0 * std) == pytest.approx(nece(mean - target, std) / 4.0, rel=1e-9)


def test_nece_takes_an_error_far_outside_without_more_bins():
    errors = np.append(np.random.default_rng(6).normal(size=100), 1e12)
    assert 0.0 < nece(errors, np.ones(1), bin_width=0.5) < 1.0


def test_nece_without_a_width_is_nan():
    assert np.isnan(nece(np.array([0.5]), np.ones(1)))
    assert np.isfinite(nece(np.array([0.5]), np.ones(1), bin_width=0.1))


def test_nece_bad_arguments():
    with pytest.raises(
        ValueError, match=re.escape("bin_width is 0.0; give a positive width, in the unit of the errors")
    ):
        nece(np.ones(3), np.ones(3), bin_width=0.0)
    message = "Shapes do not broadcast: errors (3,), stds (2, 4); give one std per error and sample."
    with pytest.raises(ValueError, match=re.escape(message)):
        nece(np.ones(3), np.ones((2, 4)), bin_width=1.0)


@pytest.mark.parametrize("inflation", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("num_elements", [3, 400])
def test_calibration_equals_uncertainty_toolbox(inflation, num_elements):
    mean, std, target = predictions(num_elements, inflation, seed=7)
    levels, observed = uncertainty_toolbox.get_proportion_lists_vectorized(mean, std, target, prop_type="interval")
    assert calibration_curve(mean, std, target, levels) == pytest.approx(observed, abs=1e-12)
    expected = uncertainty_toolbox.miscalibration_area(mean, std, target, prop_type="interval")
    assert miscalibration_area(mean, std, target) == pytest.approx(expected, rel=1e-12)


def test_calibration_curve_of_known_errors():
    errors = np.array([0.5, -1.5, 2.5, 0.0])  # one each inside 1 std (and one on the mean), 2 and 3
    levels = norm.cdf([1.0, 2.0, 3.0]) - norm.cdf([-1.0, -2.0, -3.0])
    assert calibration_curve(errors, np.ones(4), np.zeros(4), levels).tolist() == [0.5, 0.75, 1.0]


def test_miscalibration_area_limits():
    assert miscalibration_area(np.full(5, 1e6), np.ones(5), np.zeros(5), num_levels=1001) == pytest.approx(
        0.5, abs=2e-3
    )
    mean, std, target = predictions(20_000, seed=8)
    # The coverage of n elements has a standard error of at most 0.5 / sqrt(n).
    assert miscalibration_area(mean, std, target) < 3.0 * 0.5 / np.sqrt(20_000)


def test_calibration_bad_levels():
    with pytest.raises(ValueError, match="A level lies outside the range from 0 to 1; give coverages as probabilities"):
        calibration_curve(np.zeros(2), np.ones(2), np.zeros(2), np.array([0.5, 68.0]))
    with pytest.raises(ValueError, match="num_levels is 1; the area needs at least 2"):
        miscalibration_area(np.zeros(2), np.ones(2), np.zeros(2), num_levels=1)


@pytest.mark.parametrize(
    "call",
    [
        lambda std: gaussian_log_likelihood(np.zeros(3), std, np.zeros(3)),
        lambda std: calibration_curve(np.zeros(3), std, np.zeros(3), np.array([0.5])),
        lambda std: average_cdf(np.zeros(1), std),
        lambda std: mean_squared_z_score(np.zeros(3), std),
    ],
)
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_std_that_is_not_positive(call, value):
    message = rf"stds?\[1\] is {value}, not positive; a prediction without spread has no density"
    with pytest.raises(ValueError, match=message):
        call(np.array([1.0, value, 1.0]))


def test_mixture_shape_mismatch():
    message = "Shapes do not broadcast: means (8, 4), stds (2, 4), targets (1, 4); pass arrays of one shape."
    with pytest.raises(ValueError, match=re.escape(message)):
        inspect.unwrap(mixture_log_likelihood)(np.zeros((8, 4)), np.ones((2, 4)), np.zeros(4))


def test_relative_log_likelihood_from_one_std_for_all_to_stds_that_know():
    rng = np.random.default_rng(5)
    errors = np.exp(rng.normal(size=400)) * rng.normal(size=400)
    rms = np.sqrt(np.mean(errors**2))
    assert relative_log_likelihood(errors, np.full(400, rms)) == pytest.approx(0.0, abs=1e-12)
    assert relative_log_likelihood(errors, np.abs(errors)) == pytest.approx(1.0, rel=1e-12)
    assert relative_log_likelihood(errors, np.full(400, 3 * rms)) < 0
    between = relative_log_likelihood(errors, np.sqrt(rms * np.abs(errors)))
    assert 0 < between < 1
    assert relative_log_likelihood(7 * errors, 7 * np.sqrt(rms * np.abs(errors))) == pytest.approx(between, rel=1e-12)
    with_zero = relative_log_likelihood(np.append(errors, 0.0), np.append(np.sqrt(rms * np.abs(errors)), 1.0))
    assert with_zero == pytest.approx(between, rel=1e-12)
    assert np.isnan(relative_log_likelihood(np.array([1.0, -1.0]), np.ones(2)))
    with pytest.raises(ValueError, match="Every error is zero"):
        relative_log_likelihood(np.zeros(3), np.ones(3))
