"""The continuous ranked probability score against uncertainty-toolbox, its integral and closed forms."""

import inspect
import re

import numpy as np
import pytest
import uncertainty_toolbox
from scipy.integrate import quad
from scipy.stats import norm

from bnn_jax.metrics import gaussian_crps, mixture_crps, mixture_energy_score


def integral(means, stds, target):
    """The definition: squared distance of the predicted and the observed distribution functions."""
    reach = 12.0 * max(stds) + max(abs(means - target))
    squares = [quad(lambda y: norm.cdf(y, means, stds).mean() ** 2, target - reach, target, epsabs=1e-12, limit=200)]
    squares += [quad(lambda y: norm.sf(y, means, stds).mean() ** 2, target, target + reach, epsabs=1e-12, limit=200)]
    return sum(value for value, _ in squares)


@pytest.mark.parametrize("inflation", [0.5, 1.0, 3.0])
def test_gaussian_crps_equals_uncertainty_toolbox(inflation):
    rng = np.random.default_rng(0)
    mean, std = rng.normal(size=200), rng.uniform(0.5, 2.0, size=200)
    target = mean + inflation * std * rng.normal(size=200)
    expected = uncertainty_toolbox.metrics_scoring_rule.crps_gaussian(mean, std, target, scaled=True)
    assert gaussian_crps(mean, std, target) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("mean", "std", "target"), [(0.0, 1.0, 0.0), (1.0, 0.3, 2.5), (-2.0, 4.0, 1.0)])
def test_gaussian_crps_is_the_integral(mean, std, target):
    value = gaussian_crps(np.array([mean]), np.array([std]), np.array([target]))
    assert value == pytest.approx(integral(np.array([mean]), np.array([std]), target), rel=1e-9)


def test_gaussian_crps_closed_form():
    # On the mean: std (sqrt(2) - 1) / sqrt(pi).
    value = gaussian_crps(np.zeros(2), np.array([1.0, 3.0]), np.zeros(2))
    assert value == pytest.approx(2.0 * (np.sqrt(2.0) - 1.0) / np.sqrt(np.pi), rel=1e-14)


@pytest.mark.parametrize("num_samples", [1, 2, 5])
@pytest.mark.parametrize("target", [-4.0, 0.1, 30.0])
def test_mixture_crps_is_the_integral(num_samples, target):
    rng = np.random.default_rng(1)
    means, stds = 2.0 * rng.normal(size=num_samples), rng.uniform(0.2, 2.0, size=num_samples)
    value = mixture_crps(means[:, None], stds[:, None], np.array([target]))
    assert value == pytest.approx(integral(means, stds, target), rel=1e-8)


def test_mixture_crps_averages_over_elements():
    rng = np.random.default_rng(2)
    means, stds, targets = rng.normal(size=(3, 4, 3)), rng.uniform(0.5, 2.0, size=(3, 4, 1)), rng.normal(size=(4, 3))
    each = [mixture_crps(means[:, i, j, None], stds[:, i], targets[i, j, None]) for i in range(4) for j in range(3)]
    assert mixture_crps(means, stds, targets) == pytest.approx(np.mean(each), rel=1e-13)


def test_mixture_of_equal_samples_is_the_normal():
    rng = np.random.default_rng(3)
    mean, std, target = rng.normal(size=30), rng.uniform(0.5, 2.0, size=30), rng.normal(size=30)
    expected = gaussian_crps(mean, std, target)
    assert mixture_crps(mean[None], std[None], target) == pytest.approx(expected, rel=1e-13)
    assert mixture_crps(np.tile(mean, (5, 1)), np.tile(std, (5, 1)), target) == pytest.approx(expected, rel=1e-13)


def test_narrow_normals_leave_the_errors_and_the_spread_of_the_samples():
    rng = np.random.default_rng(4)
    samples, targets = rng.normal(size=(6, 20)), rng.normal(size=20)
    stds = np.full((6, 1), 1e-12)
    assert gaussian_crps(samples[0], stds[0], targets) == pytest.approx(np.abs(samples[0] - targets).mean(), rel=1e-11)
    pairs = np.abs(samples[:, None] - samples[None]).mean(axis=(0, 1))
    expected = (np.abs(samples - targets).mean(axis=0) - 0.5 * pairs).mean()  # Gneiting and Raftery (2007), eq. 21
    assert mixture_crps(samples, stds, targets) == pytest.approx(expected, rel=1e-10)


def test_crps_is_in_the_unit_of_the_targets():
    rng = np.random.default_rng(5)
    means, stds, targets = rng.normal(size=(3, 20)), rng.uniform(0.5, 2.0, size=(3, 20)), rng.normal(size=20)
    assert gaussian_crps(23.0 * means[0], 23.0 * stds[0], 23.0 * targets) == pytest.approx(
        23.0 * gaussian_crps(means[0], stds[0], targets), rel=1e-13
    )
    assert mixture_crps(23.0 * means, 23.0 * stds, 23.0 * targets) == pytest.approx(
        23.0 * mixture_crps(means, stds, targets), rel=1e-13
    )


def test_the_truth_scores_best():
    targets = 2.0 * np.random.default_rng(6).normal(size=20_000)
    scores = {std: gaussian_crps(np.zeros(1), np.full(1, std), targets) for std in (1.0, 1.8, 2.0, 2.2, 4.0)}
    assert min(scores, key=scores.__getitem__) == 2.0
    # Expected under the truth: std / sqrt(pi). |y| has a std of 0.6 stds, and the score a slope of at most one in it.
    assert scores[2.0] == pytest.approx(2.0 / np.sqrt(np.pi), abs=4.0 * 2.0 * 0.6 / np.sqrt(20_000))
    two_humps = np.sign(targets) * 3.0 + np.random.default_rng(7).normal(size=20_000)
    right = mixture_crps(np.array([[-3.0], [3.0]]), np.ones((2, 1)), two_humps)
    assert right < 0.95 * gaussian_crps(np.zeros(1), np.full(1, np.sqrt(10.0)), two_humps)


def test_crps_bad_arguments():
    with pytest.raises(ValueError, match=re.escape("std[1] is 0.0, not positive; a prediction without spread")):
        gaussian_crps(np.zeros(2), np.array([1.0, 0.0]), np.zeros(2))
    with pytest.raises(ValueError, match=re.escape("target[0] is nan, not finite; remove or mask it.")):
        gaussian_crps(np.zeros(1), np.ones(1), np.array([np.nan]))
    with pytest.raises(ValueError, match=re.escape("stds[0, 1] is -1.0, not positive; a prediction without spread")):
        mixture_crps(np.zeros((1, 2)), np.array([[1.0, -1.0]]), np.zeros(2))
    message = "Shapes do not broadcast: means (8, 4), stds (2, 4), targets (1, 4); pass arrays of one shape."
    with pytest.raises(ValueError, match=re.escape(message)):
        inspect.unwrap(mixture_crps)(np.zeros((8, 4)), np.ones((2, 4)), np.zeros(4))  # without the shape checker


@pytest.mark.parametrize("num_samples", [1, 2, 4])
def test_energy_score_is_the_expectation(num_samples):
    """Against draws: 10^6 of the mixture, whose mean length has an error of some 1e-3."""
    rng = np.random.default_rng(3)
    means, stds = rng.normal(size=(num_samples, 1, 3)), rng.uniform(0.2, 1.5, size=(num_samples, 1))
    target = rng.normal(size=(1, 3))

    def draws():
        chosen = rng.integers(num_samples, size=1_000_000)
        return means[chosen, 0] + stds[chosen] * rng.normal(size=(1_000_000, 3))

    one, other = draws(), draws()
    lengths = np.linalg.norm(one - target, axis=1) - np.linalg.norm(one - other, axis=1) / 2
    error = lengths.std() / 1000
    assert abs(mixture_energy_score(means, stds, target) - lengths.mean()) < 4 * error


def test_energy_score_closed_forms():
    one, zero = np.ones((1, 1)), np.zeros((1, 3))
    # On the mean: E|Z| - E|sqrt(2) Z| / 2 with E|Z| = sqrt(8 / pi) in three dimensions.
    assert mixture_energy_score(zero[None], 2.0 * one, zero) == pytest.approx(
        2.0 * np.sqrt(8.0 / np.pi) * (1.0 - np.sqrt(0.5)), rel=1e-12
    )
    far = np.array([[300.0, 0.0, 400.0]])
    sure = mixture_energy_score(zero[None], 1e-6 * one, far)  # as the std goes to zero: the length of the error
    assert sure == pytest.approx(500.0, rel=1e-8)


def test_energy_score_does_not_depend_on_the_orientation_and_prefers_the_truth():
    rng = np.random.default_rng(4)
    means, stds = rng.normal(size=(3, 50, 3)), rng.uniform(0.5, 1.0, size=(3, 50))
    targets = rng.normal(size=(50, 3))
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    value = mixture_energy_score(means, stds, targets)
    assert mixture_energy_score(means @ rotation, stds, targets @ rotation) == pytest.approx(value, rel=1e-12)
    truth = rng.normal(size=(4000, 3))
    scores = [mixture_energy_score(np.zeros((1, 4000, 3)), np.full((1, 4000), std), truth) for std in (0.7, 1.0, 1.4)]
    assert scores[1] == min(scores)


def test_energy_score_refuses_what_is_no_spread():
    with pytest.raises(ValueError, match=r"stds.* positive"):
        mixture_energy_score(np.zeros((1, 2, 3)), np.zeros((1, 2)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="do not broadcast"):
        inspect.unwrap(mixture_energy_score)(np.zeros((2, 2, 3)), np.ones((3, 2)), np.zeros((2, 3)))
