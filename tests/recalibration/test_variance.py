"""The single factor against its definition and a known truth."""

import numpy as np
import pytest

from bnn_jax.recalibration import fit_recalibration


def test_mean_variance_equals_mean_squared_error():
    rng = np.random.default_rng(0)
    stds, errors = rng.uniform(0.1, 3.0, size=90), rng.standard_t(4, size=90)
    found = fit_recalibration("variance", errors, stds, np.arange(90) // 9)
    assert np.square(found.stds(stds)).mean() == pytest.approx(np.square(errors).mean(), rel=1e-13)
    assert found.stds(2.0 * stds) == pytest.approx(2.0 * found.stds(stds), rel=1e-15)


@pytest.mark.parametrize("inflation", [0.2, 1.0, 7.0])
def test_recovers_a_known_factor(inflation):
    rng = np.random.default_rng(1)
    stds = np.exp(rng.normal(size=20_000))
    found = fit_recalibration("variance", inflation * stds * rng.normal(size=stds.size), stds, np.arange(stds.size))
    # s^2 is a weighted mean of chi-squared variables: relative variance 2 sum(v^2) / sum(v)^2; that of s is a quarter.
    relative_error = np.sqrt(2.0 * np.sum(stds**4)) / np.sum(stds**2) / 2.0
    assert found.curves[0].factor == pytest.approx(inflation, rel=4.0 * relative_error)
    assert relative_error < 0.05  # else the line above says nothing


def test_elements_of_large_variance_decide():
    found = fit_recalibration("variance", np.array([1.0, 20.0]), np.array([1.0, 10.0]), np.array([0, 1]))
    assert found.curves[0].factor == pytest.approx(np.sqrt(401.0 / 101.0), rel=1e-15)
