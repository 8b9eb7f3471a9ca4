"""The comparisons that the sampler passes fail for wrong ones: the assertion functions are those of the other files.

Wrong are BlackJAX's stock SGHMC at its defaults (see ``stock.py`` for its law), noise off by a factor, an adaptive
mass that is not frozen, and a few plausible slips.
"""

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.base import SamplingAlgorithm
from numpy.testing import assert_allclose

from tests.statistics import adaptive, regression, stock
from tests.statistics.laws import (
    DATA_SIZE,
    ROUND,
    assert_same_normal,
    linear_chain,
    run_chains,
    stationary_covariance,
    steps_to_forget,
)

NUM_CHAINS = 10_000
"""Five standard errors of a variance are then seven per cent."""
COVARIANCE = np.linalg.inv(ROUND.precision)


def our_positions(squared_step, temperature=1.0, gradient_std=0.0):
    """Final theta - mu at a friction of 0.1, eta = ``squared_step``: the square of a Hamiltonian step of unit mass."""
    alpha, inverse_mass = 0.1, np.ones(3)
    step_size = squared_step * DATA_SIZE / alpha
    num_steps = steps_to_forget(linear_chain(ROUND, alpha, step_size, inverse_mass, temperature)[0])
    step_sizes = np.full(num_steps, step_size)
    return run_chains(ROUND, alpha, step_sizes, inverse_mass, temperature, gradient_std, num_chains=NUM_CHAINS)[:, :3]


def stock_positions(step_size, num_calls, num_integration_steps=10, **options):
    return stock.run_chains(ROUND, step_size, num_integration_steps, num_calls, NUM_CHAINS, **options)


@pytest.mark.parametrize("step_size, num_calls", [(0.05, 64), (0.15, 64)])
def test_stock_sghmc_misses_a_normal_target(step_size, num_calls):
    """At steps of the same size: our variances are too large by at most 0.3 % and 2.4 %, its by 12 % and more."""
    assert_same_normal(our_positions(step_size**2), COVARIANCE)
    with pytest.raises(AssertionError):
        assert_same_normal(stock_positions(step_size, num_calls), COVARIANCE)


@pytest.mark.parametrize("temperature", [0.25, 4.0])
def test_stock_sghmc_misses_the_temperature(temperature):
    """Its fresh momenta have unit variance at any temperature."""
    assert_same_normal(our_positions(0.05**2, temperature), temperature * COVARIANCE)
    draws = stock_positions(0.05, 64, temperature=temperature)
    with pytest.raises(AssertionError):
        assert_same_normal(draws, temperature * COVARIANCE)
    assert_allclose(np.var(draws @ np.linalg.cholesky(ROUND.precision), axis=0), 1.13, atol=0.1)


def test_stock_sghmc_misses_a_normal_target_under_minibatch_noise():
    """With ten times as many steps as is default it passes on full gradients, so that the noise alone is at fault.

    One minibatch serves all steps of a call, so that its error adds up; ours bears the same noise at a step seven times
    as large, where it adds 1.2 %.
    """
    long_call = {"step_size": 0.007, "num_calls": 24, "num_integration_steps": 100}
    assert_same_normal(stock_positions(**long_call), COVARIANCE)
    assert_same_normal(our_positions(0.05**2, gradient_std=1.0), COVARIANCE)
    with pytest.raises(AssertionError):
        assert_same_normal(stock_positions(**long_call, gradient_std=1.0), COVARIANCE)


@pytest.mark.parametrize("gradient_std", [0.0, 3.0])
def test_stock_sghmc_has_the_law_that_explains_this(gradient_std):
    """Its error is its own, not that of the comparison, which it passes with its own law in place of the target."""
    law = stock.stationary_covariance(ROUND, 0.05, 10, gradient_std=gradient_std)
    assert_same_normal(stock_positions(0.05, 64, gradient_std=gradient_std), law)


@pytest.mark.parametrize("num_integration_steps", [2, 10, 100])
def test_no_step_size_cures_stock_sghmc(num_integration_steps):
    """As its step tends to zero its variances tend to n / (n - 1) times the target's."""
    n = num_integration_steps
    errors = []
    for step_size in (0.1 / n, 0.01 / n):
        law = stock.stationary_covariance(ROUND, step_size, n)
        errors.append(np.max(np.abs(law @ ROUND.precision * (n - 1) / n - np.eye(3))))
    assert errors[1] < 1e-4 and errors[1] < 0.2 * errors[0]


def stock_regression():
    """Coordinates in units of one over the root of the curvature's diagonal stand for the mass that it lacks."""
    scale = jnp.asarray(1 / np.sqrt(np.diag(regression.PRECISION)), jnp.float32)
    unit = {"slopes": scale[:2], "last": scale[2]}

    def weights(position):
        return jax.tree.map(jnp.multiply, position, unit)

    gradient = jax.grad(lambda position: regression.log_density(weights(position)))
    algorithm = blackjax.sghmc(lambda position, _: gradient(position))
    return SamplingAlgorithm(algorithm.init, lambda key, state: (algorithm.step(key, state, None, 0.1), None)), weights


def test_stock_sghmc_misses_the_posterior_of_a_regression():
    """Its chains mix and agree with one another, on variances 11 % to 22 % too large."""
    algorithm, weights = stock_regression()
    draws = regression.draw(algorithm, 5_000, 64, every=10, position_of=weights)
    regression.assert_mixed(draws)
    with pytest.raises(AssertionError):
        regression.assert_posterior(draws)


def test_noise_off_by_the_root_of_the_friction_misses_the_posterior_of_a_regression():
    draws = regression.draw(regression.sghmc_algorithm(temperature=0.2), 10_000, 8)  # its friction
    regression.assert_mixed(draws)
    with pytest.raises(AssertionError):
        regression.assert_posterior(draws)


@pytest.mark.parametrize("name", adaptive.POTENTIALS)
def test_mass_that_is_not_frozen_misses_the_target(name):
    """Its chain is a Langevin equation with mobility 1 / M(theta) less the term that the mobility's gradient demands.

    Its density is therefore near M exp(-U), with too much weight where gradients are large (arXiv:2403.08609).
    """
    potential = adaptive.POTENTIALS[name]
    draws, variance = adaptive.final_positions(potential, adaptive.NUM_STEPS), adaptive.true_variance(potential)
    with pytest.raises(AssertionError):
        adaptive.assert_same_variance(draws, variance)
    assert np.var(draws) > 1.2 * variance  # the sign and size that the missing term gives


@pytest.mark.parametrize(
    "mutant",
    ["noise std times sqrt(alpha)", "temperature scales the std", "noise variance off by 10 %", "position moves first"],
)
def test_slips(mutant):
    """The comparison with the exact discrete law fails for these plausible mistakes."""
    alpha, step_size, inverse_mass, temperature = 0.3, 10.0, np.ones(3), 4.0
    chain = (ROUND, alpha, step_size, inverse_mass, temperature)
    num_steps = steps_to_forget(linear_chain(*chain)[0])
    run = {"noise std times sqrt(alpha)": temperature * alpha, "temperature scales the std": temperature**2}
    run["noise variance off by 10 %"] = temperature * 1.1
    draws = run_chains(ROUND, alpha, np.full(num_steps, step_size), inverse_mass, run.get(mutant, temperature))
    if mutant == "position moves first":  # the momentum of the next step belongs to this position
        draws[:, :3] -= step_size * inverse_mass * draws[:, 3:]
    with pytest.raises(AssertionError):
        assert_same_normal(draws, stationary_covariance(*chain))
