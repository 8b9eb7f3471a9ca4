"""The likeliest affine variance against brute force, a known truth and the bounds on its parameters."""

import numpy as np
import pytest
from scipy.stats import norm

from bnn_jax.recalibration import fit_recalibration
from bnn_jax.recalibration.validation import FLOOR


def nll(errors, stds):
    return -norm.logpdf(errors, scale=stds).mean()


def fit(errors, scores, score_kind="std"):
    return fit_recalibration("affine", errors, scores, np.arange(errors.size), score_kind=score_kind)


def brute_force(errors, values, smallest_share):
    """The least NLL over a grid of slopes and floors, zero included, which is then narrowed around its best point."""
    mean_square = np.square(errors).mean()
    slopes = np.append(0.0, np.geomspace(1e-7, 1e4, 120)) * mean_square / values.mean()
    floors = np.append(0.0, np.geomspace(1e-7, 1e4, 120)) * mean_square
    for _ in range(6):
        slope, floor = (grid.ravel() for grid in np.meshgrid(slopes, floors, indexing="ij"))
        losses = np.full(slope.size, np.inf)
        is_allowed = (floor >= smallest_share * (floor + slope * values.mean())) & (slope + floor > 0.0)
        variances = floor[is_allowed, None] + slope[is_allowed, None] * values
        losses[is_allowed] = -norm.logpdf(errors, scale=np.sqrt(variances)).mean(axis=1)
        best = int(np.argmin(losses))
        i, j = np.unravel_index(best, (slopes.size, floors.size))
        least, best_slope, best_floor = losses[best], slope[best], floor[best]
        slopes = np.linspace(slopes[max(i - 1, 0)], slopes[min(i + 1, slopes.size - 1)], 31)
        floors = np.linspace(floors[max(j - 1, 0)], floors[min(j + 1, floors.size - 1)], 31)
    return least, best_slope, best_floor


def drawn(seed, num_elements=60):
    """Errors and stds over orders of magnitude, related well (even seeds) or hardly."""
    rng = np.random.default_rng(seed)
    stds = np.exp(rng.normal(scale=1.5, size=num_elements))
    widths = np.sqrt(0.3 * stds**2 + 0.5) if seed % 2 == 0 else np.exp(rng.normal(size=num_elements))
    return widths * rng.standard_t(3, size=num_elements), stds


@pytest.mark.parametrize("seed", range(6))
def test_stds_equal_brute_force(seed):
    errors, stds = drawn(seed)
    curve = fit(errors, stds).curves[0]
    least, slope, floor = brute_force(errors, stds**2, 0.0)
    loss = nll(errors, np.sqrt(curve.slope * stds**2 + curve.floor))
    assert least - 1e-6 < loss < least + 1e-12
    assert curve.slope == pytest.approx(slope, rel=0.01, abs=1e-4)
    assert curve.floor == pytest.approx(floor, rel=0.01, abs=1e-4)
    assert curve.slope >= 0.0 and curve.floor >= 0.0 and curve.lowest == 0.0


@pytest.mark.parametrize("seed", range(6))
def test_other_scores_equal_brute_force(seed):
    errors, stds = drawn(seed)
    scores = -20.0 + 3.0 * np.log(stds)
    curve = fit(errors, scores, "any").curves[0]
    least, slope, floor = brute_force(errors, scores - scores.min(), FLOOR)
    loss = nll(errors, np.sqrt(curve.slope * (scores - scores.min()) + curve.floor))
    assert least - 1e-6 < loss < least + 1e-12
    assert curve.slope == pytest.approx(slope, rel=0.01, abs=1e-4)
    assert curve.floor == pytest.approx(floor, rel=0.01, abs=1e-4)


def test_the_better_of_two_optima():
    # With a last error of 0.1 both are equally likely: a floor of 0.0021 times the slope, and of 4.7 times.
    stds = np.sqrt([0.001, 0.1, 0.1, 10.0])
    ratios = []
    for last in (0.099, 0.101):
        errors = np.array([0.01, 0.01, 0.1, last])
        curve = fit(errors, stds).curves[0]
        least, _, _ = brute_force(errors, stds**2, 0.0)
        assert least - 1e-6 < nll(errors, fit(errors, stds).stds(stds)) < least + 1e-12
        ratios.append(curve.floor / curve.slope)
    assert ratios == pytest.approx([4.7, 0.0021], rel=0.1)


@pytest.mark.parametrize("seed", range(20))
def test_never_worse_than_what_it_contains(seed):
    errors, stds = drawn(seed, num_elements=8 + 3 * seed)
    loss = nll(errors, fit(errors, stds).stds(stds))
    scaled = fit_recalibration("variance", errors, stds, np.arange(errors.size)).stds(stds)
    constant = np.full_like(stds, np.sqrt(np.square(errors).mean()))
    for other in (stds, scaled, constant):
        assert loss <= nll(errors, other) + 1e-12
    assert nll(errors, fit(errors, np.log(stds), "any").stds(np.log(stds))) <= nll(errors, constant) + 1e-12


@pytest.mark.parametrize(("slope", "floor"), [(2.0, 0.7), (0.05, 0.01), (9.0, 0.0)])
def test_recovers_a_known_truth(slope, floor):
    rng = np.random.default_rng(7)
    stds = rng.uniform(0.1, 2.0, size=40_000)
    variances = slope * stds**2 + floor
    curve = fit(np.sqrt(variances) * rng.normal(size=stds.size), stds).curves[0]
    # The Fisher information of normal errors is half the sum of outer products of the gradients of ln(variance).
    gradients = np.stack([stds**2, np.ones_like(stds)]) / variances
    covariance = np.linalg.inv(0.5 * gradients @ gradients.T)
    assert curve.slope == pytest.approx(slope, abs=4.0 * np.sqrt(covariance[0, 0]))
    assert curve.floor == pytest.approx(floor, abs=4.0 * np.sqrt(covariance[1, 1]))
    assert np.sqrt(covariance[0, 0]) < 0.03 * slope  # else the lines above say little


def test_recovers_the_variance_of_a_negative_log_likelihood():
    rng = np.random.default_rng(8)
    scores = rng.uniform(-30.0, -10.0, size=40_000)
    variances = 0.2 * scores + 7.0
    curve = fit(np.sqrt(variances) * rng.normal(size=scores.size), scores, "any").curves[0]
    gradients = np.stack([scores, np.ones_like(scores)]) / variances
    covariance = np.linalg.inv(0.5 * gradients @ gradients.T)
    assert curve.slope == pytest.approx(0.2, abs=4.0 * np.sqrt(covariance[0, 0]))
    assert curve.floor - curve.slope * curve.lowest == pytest.approx(7.0, abs=4.0 * np.sqrt(covariance[1, 1]))
    assert np.sqrt(covariance[1, 1]) < 0.2


def test_a_score_without_a_zero_may_be_shifted_and_scaled():
    errors, stds = drawn(0)
    scores = np.log(stds)
    expected = fit(errors, scores, "any").stds(scores)
    for shifted in (scores + 300.0, scores - 1e6, 1e-6 * scores, 1e9 * scores):
        assert fit(errors, shifted, "any").stds(shifted) == pytest.approx(expected, rel=1e-6)


def test_beyond_the_validation_range():
    errors, stds = drawn(0)
    scores = np.log(stds)
    found = fit(errors, scores, "any")
    floor, slope, lowest = found.curves[0].floor, found.curves[0].slope, scores.min()
    beyond = np.array([lowest - 1e3, lowest - 1e-3, lowest, scores.max() + 5.0])
    linear = floor + slope * (scores.max() + 5.0 - lowest)
    assert found.stds(beyond) == pytest.approx(np.sqrt([floor, floor, floor, linear]), rel=1e-14)
    assert found.stds(beyond)[0] > 0.0
    # Standard deviations have a natural zero, down to which their variance goes on falling.
    found = fit(errors, stds)
    outside = found.stds(np.array([1e-3 * stds.min(), 1e3 * stds.max()]))
    curve = found.curves[0]
    assert outside[0] == pytest.approx(np.sqrt(curve.floor + curve.slope * (1e-3 * stds.min()) ** 2), rel=1e-14)
    assert outside[0] < found.stds(stds).min() and outside[1] > found.stds(stds).max()


def test_parameters_at_their_bounds():
    stds = np.linspace(1.0, 2.0, 50)
    curve = fit(1.0 / stds, stds).curves[0]  # a larger score where the error is smaller
    assert curve.slope == 0.0
    assert curve.floor == pytest.approx(np.square(1.0 / stds).mean(), rel=1e-14)
    curve = fit(stds**3, stds).curves[0]  # the error grows faster than the score
    assert curve.floor == 0.0
    assert curve.slope == pytest.approx(np.mean(stds**6 / stds**2), rel=1e-14)


def test_vanishing_errors_at_the_lowest_score_do_not_collapse_the_variance():
    # Unbounded: with the floor as small as one likes, the second term of the likelihood stays at zero there.
    scores = np.arange(30.0) - 15.0
    errors = np.sqrt(scores - scores.min())
    found = fit(errors, scores, "any")
    variances = np.square(found.stds(scores))
    assert variances.min() == pytest.approx(FLOOR * variances.mean(), rel=1e-9)


@pytest.mark.parametrize("score_kind", ["std", "any"])
@pytest.mark.parametrize("score", [0.1, 0.3, 0.7, 1.0, 3.0, 11.0])
def test_equal_scores(score_kind, score):
    errors = np.array([1.0, -2.0, 3.0, 0.5, 0.7, -1.3])
    found = fit(errors, np.full(6, score), score_kind)
    assert found.stds(np.full(6, score)) == pytest.approx(np.sqrt(np.square(errors).mean()), rel=1e-14)
    wider = {"std": 2.0, "any": 1.0}[score_kind]  # a factor for standard deviations, else a constant
    assert found.stds(np.array([2.0 * score])) == pytest.approx(wider * np.sqrt(np.square(errors).mean()), rel=1e-14)


@pytest.mark.parametrize("floor", [0.0, 1e-20, 1e-12, 1e-4, 1.0, 1e9])
def test_scores_over_many_orders_of_magnitude(floor):
    # Squared errors that are an affine function are their own likeliest variances.
    stds = np.geomspace(1e-12, 1e6, 37)
    errors = np.sqrt(9.0 * stds**2 + floor)
    assert fit(errors, stds).stds(stds) == pytest.approx(errors, rel=1e-6)
