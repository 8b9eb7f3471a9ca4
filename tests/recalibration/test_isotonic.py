"""The monotone variance against scikit-learn and a known truth."""

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from bnn_jax.recalibration import fit_recalibration
from bnn_jax.recalibration.validation import FLOOR


def fit(errors, scores):
    return fit_recalibration("isotonic", errors, scores, np.arange(errors.size), score_kind="any")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decimals", [1, 12])  # with and without ties
def test_equal_to_sklearn(seed, decimals):
    rng = np.random.default_rng(seed)
    scores = np.round(rng.normal(size=300), decimals)
    errors = np.exp(scores) * rng.normal(size=300)
    expected = IsotonicRegression(y_min=FLOOR * np.mean(errors**2), out_of_bounds="clip").fit(scores, errors**2)
    points = np.concatenate([scores, rng.normal(size=100), [-9.0, 9.0]])
    assert np.square(fit(errors, scores).stds(points)) == pytest.approx(expected.predict(points), rel=1e-12)


def test_recovers_a_known_curve():
    rng = np.random.default_rng(0)
    scores = rng.uniform(-1.0, 1.0, size=60_000)
    found = fit((1.0 + np.tanh(4.0 * scores) ** 3 / 2.0) * rng.normal(size=scores.size), scores)
    points = np.linspace(-0.9, 0.9, 19)
    truth = 1.0 + np.tanh(4.0 * points) ** 3 / 2.0
    # The error of the variance v at a point is (4 v' 2 v^2 / (n density))^(1/3) times a variable (Chernoff's) whose
    # size exceeds 2 with a probability below 1e-4; where v' vanishes it is smaller than at the steepest point.
    rate = np.gradient(truth**2, points).max()
    bound = 2.0 * np.cbrt(4.0 * rate * 2.0 * truth**4 / (scores.size / 2.0))
    error = np.abs(np.square(found.stds(points)) - truth**2)
    assert np.all(error < bound)
    assert np.all(bound < 0.4 * truth**2)


def test_constant_beyond_the_range():
    rng = np.random.default_rng(1)
    scores = rng.uniform(1.0, 2.0, size=50)
    found = fit(scores * rng.normal(size=50), scores)
    ends = found.stds(np.array([scores.min(), scores.max()]))
    assert found.stds(np.array([-1e9, 1e9])).tolist() == ends.tolist()
    assert ends[0] < ends[1]


def test_a_vanishing_error_at_the_lowest_score_gets_the_floor():
    scores = np.arange(20.0)
    found = fit(np.where(scores == 0.0, 0.0, 2.0), scores)
    assert found.stds(scores[:1])[0] == pytest.approx(np.sqrt(FLOOR * 4.0 * 19.0 / 20.0), rel=1e-14)


def test_only_the_order_of_the_scores_decides():
    rng = np.random.default_rng(2)
    scores = rng.permutation(60) / 60.0
    errors = (0.1 + scores) * rng.normal(size=60)
    expected = fit(errors, scores).stds(scores)
    for changed in (1e-20 * scores, np.exp(5.0 * scores), 1e6 + scores):
        assert fit(errors, changed).stds(changed) == pytest.approx(expected, rel=1e-12)


def test_one_score_for_all():
    errors = np.arange(20.0)
    found = fit(errors, np.full(20, -3.0))
    assert found.stds(np.array([-9.0, -3.0, 0.0])) == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-14)
