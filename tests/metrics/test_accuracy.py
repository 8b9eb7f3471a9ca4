"""Errors against scikit-learn and closed forms, and what bad arguments get."""

import inspect
import re

import numpy as np
import pytest
import sklearn.metrics

from bnn_jax.metrics import mean_absolute_error, root_mean_square_error


@pytest.fixture
def forces():
    rng = np.random.default_rng(0)
    target = rng.normal(size=(40, 3))
    return target + 0.1 * rng.normal(size=(40, 3)), target


def test_equal_to_sklearn(forces):
    prediction, target = forces
    expected = sklearn.metrics.mean_absolute_error(target.ravel(), prediction.ravel())
    assert mean_absolute_error(prediction, target) == pytest.approx(expected, rel=1e-12)
    expected = sklearn.metrics.root_mean_squared_error(target.ravel(), prediction.ravel())
    assert root_mean_square_error(prediction, target) == pytest.approx(expected, rel=1e-12)


def test_closed_form():
    prediction, target = np.array([1.0, -3.0, 0.0, 0.0]), np.zeros(4)
    assert mean_absolute_error(prediction, target) == 1.0
    assert root_mean_square_error(prediction, target) == pytest.approx(np.sqrt(2.5), rel=1e-14)


def test_errors_scale_with_the_unit_and_ignore_a_shift(forces):
    prediction, target = forces
    for metric in (mean_absolute_error, root_mean_square_error):
        assert metric(23.0 * prediction + 5.0, 23.0 * target + 5.0) == pytest.approx(23.0 * metric(prediction, target))


def test_float32_inputs_are_averaged_in_float64():
    # In float32 the running sum of a million values of 0.1 is off by more than a thousandth.
    prediction = np.full(1_000_000, 0.1, dtype=np.float32)
    assert mean_absolute_error(prediction, np.zeros(1, np.float32)) == pytest.approx(np.float32(0.1), rel=1e-10)


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (np.zeros(3), np.zeros(2), "Shapes do not broadcast: prediction (3,), target (2,); pass arrays of one shape."),
        (np.zeros((3, 1)), np.zeros(3), "Shapes do not broadcast: prediction (3, 1), target (3,); pass arrays of one"),
        (np.zeros(0), np.zeros(0), "There is no element to average over: prediction (0,), target (0,); pass at least"),
        (np.zeros(3), np.array([0, np.nan, 1]), "target[1] is nan, not finite; remove or mask it."),
        (np.array([[0.0, np.inf]]), np.zeros((1, 2)), "prediction[0, 1] is inf, not finite; remove or mask it."),
    ],
)
@pytest.mark.parametrize("metric", [mean_absolute_error, root_mean_square_error])
def test_bad_arguments(metric, prediction, target, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        inspect.unwrap(metric)(prediction, target)  # without the suite's shape checker
