"""The factor on stds: Student's t, what labels teach, and a promise that holds."""

import numpy as np
import pytest
from scipy.stats import t

from bnn_jax.active.confidence import Factor


@pytest.mark.parametrize("factor", [Factor(), Factor(4.0, 3.0), Factor(30.0, 40.0)])
@pytest.mark.parametrize("allowed", [0.05, 0.3, 2.0])
def test_of_one_component_it_is_students_t(factor: Factor, allowed: float) -> None:
    wanted = 1 - 2 * t.sf(allowed / (0.1 * factor.scale), 2 * factor.shape)
    assert factor.confidence(np.array([0.1]), allowed) == pytest.approx(wanted, abs=2e-3)


def test_labels_teach_the_factor() -> None:
    """Errors of three stds each: the factor tends to three."""
    rng, factor = np.random.default_rng(0), Factor()
    for _ in range(2000):
        stds = rng.uniform(0.1, 1, 12)
        factor = factor.updated(3 * stds * rng.normal(size=12), stds)
    assert factor.scale == pytest.approx(3, rel=0.05)


def test_components_of_one_structure_count_once() -> None:
    errors, stds = np.full(12, 0.2), np.full(12, 0.1)
    assert Factor().updated(errors, stds) == Factor(2.0, 12.0)


def test_the_promise_holds_for_errors_that_share_a_factor() -> None:
    """c drawn from its distribution, errors from it: the share within is the confidence."""
    rng, factor, stds = np.random.default_rng(1), Factor(3.0, 4.0), np.array([0.05, 0.1, 0.1, 0.2])
    square = 1 / rng.gamma(factor.shape, 1 / factor.rate, size=40_000)
    errors = np.sqrt(square)[:, None] * stds * rng.normal(size=(40_000, 4))
    share = np.mean((np.abs(errors) <= 0.4).all(axis=1))
    assert factor.confidence(stds, 0.4) == pytest.approx(share, abs=5 * np.sqrt(share * (1 - share) / 40_000) + 1e-3)


def test_more_components_and_larger_stds_are_less_sure() -> None:
    factor = Factor()
    one = factor.confidence(np.array([0.1]), 0.5)
    assert factor.confidence(np.full(12, 0.1), 0.5) < one and factor.confidence(np.array([0.2]), 0.5) < one
    assert factor.confidence(np.array([0.1, np.nan]), 0.5) == 0
    assert factor.confidence(np.zeros(3), 0.5) == 1
