"""SGHMC on a small Bayesian linear regression agrees with the closed-form posterior and with BlackJAX's NUTS."""

import blackjax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.statistics.regression import COVARIANCE, assert_mixed, assert_posterior, draw, log_density, sghmc_algorithm


def nuts_algorithm():
    return blackjax.nuts(log_density, step_size=0.5, inverse_mass_matrix=jnp.asarray(np.diag(COVARIANCE), jnp.float32))


@pytest.mark.parametrize(
    "algorithm, num_steps, num_chains",
    [(sghmc_algorithm(), 10_000, 32), (nuts_algorithm(), 1_000, 8)],
    ids=["sghmc", "nuts"],
)
def test_posterior_of_linear_regression(algorithm, num_steps, num_chains):
    draws = draw(algorithm, num_steps, num_chains)
    assert_mixed(draws)
    assert_posterior(draws)
