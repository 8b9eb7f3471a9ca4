"""On normal targets the chain has the mean and covariance of the exact discrete chain, which tend to the target's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bnn_jax.config import SamplerConfig
from bnn_jax.sampling import schedule
from tests.statistics.laws import (
    DATA_SIZE,
    ILL_CONDITIONED,
    ROUND,
    Target,
    assert_same_normal,
    iterate_law,
    linear_chain,
    run_chains,
    stationary_covariance,
    steps_to_forget,
)


@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("alpha", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("inverse_mass", [(1.0, 1.0, 1.0), (0.2, 1.0, 3.0)], ids=["unit_mass", "mixed_mass"])
def test_stationary_law(temperature, alpha, inverse_mass):
    """The step size is large on purpose (eta k up to 0.8): the discrete law then differs from the target's."""
    inverse_mass = np.array(inverse_mass)
    step_size = 0.2 * DATA_SIZE / (alpha * 4)
    chain = (ROUND, alpha, step_size, inverse_mass, temperature)
    transition, _ = linear_chain(*chain)
    step_sizes = np.full(steps_to_forget(transition), step_size)
    draws = run_chains(ROUND, alpha, step_sizes, inverse_mass, temperature)
    assert_same_normal(draws, stationary_covariance(*chain))


@pytest.mark.parametrize("temperature", [0.25, 4.0])
@pytest.mark.parametrize("alpha", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("mismatch", [1.0, 4.0], ids=["matched_mass", "mass_off_by_4"])
def test_stationary_law_of_ill_conditioned_target(temperature, alpha, mismatch):
    """Condition number 1e4 is no obstacle to a matched mass, nor to one right to a factor, as adapted ones are."""
    inverse_mass = mismatch ** np.array([-1, 0, 1]) / np.diag(ILL_CONDITIONED.precision)
    step_size = 0.5 * DATA_SIZE / alpha / mismatch
    chain = (ILL_CONDITIONED, alpha, step_size, inverse_mass, temperature)
    step_sizes = np.full(steps_to_forget(linear_chain(*chain)[0]), step_size)
    assert len(step_sizes) <= 512  # a unit mass would need some 1e5
    assert_same_normal(
        run_chains(ILL_CONDITIONED, alpha, step_sizes, inverse_mass, temperature), stationary_covariance(*chain)
    )


def test_law_of_ill_conditioned_target_under_unit_mass():
    """Unit mass leaves the slow coordinate on its way after 1024 steps, exactly as far as the exact law has it."""
    inverse_mass, alpha, temperature, num_steps = np.ones(3), 0.3, 1.0, 1024
    step_size = 0.5 * DATA_SIZE / alpha / 1e2
    chain = linear_chain(ILL_CONDITIONED, alpha, step_size, inverse_mass, temperature)
    draws = run_chains(ILL_CONDITIONED, alpha, np.full(num_steps, step_size), inverse_mass, temperature)
    covariance, mean = iterate_law([chain] * num_steps, np.r_[np.ones(3), np.zeros(3)], np.zeros((6, 6)))
    assert 0.1 < mean[0] < 0.9
    assert_same_normal(draws, covariance, mean)


def test_step_size_to_zero_tends_to_the_target():
    """The covariance's relative error falls in proportion to the step size; so does the kinetic temperature's."""
    alpha, temperature, inverse_mass = 0.1, 0.7, np.array([0.2, 1.0, 3.0])
    exact = temperature * np.linalg.inv(ROUND.precision)
    position_errors, kinetic_errors = [], []
    for step_size in 10.0 ** -np.arange(0, 4):
        covariance = stationary_covariance(ROUND, alpha, step_size, inverse_mass, temperature)
        position_errors.append(np.linalg.norm(covariance[:3, :3] - exact) / np.linalg.norm(exact))
        kinetic = DATA_SIZE * step_size * (2 - alpha) / (2 * alpha) * np.diag(covariance)[3:] * inverse_mass
        kinetic_errors.append(np.max(np.abs(kinetic / temperature - 1)))
    for errors in (position_errors, kinetic_errors):
        assert_allclose(np.divide(errors[1:], errors[:-1]), 0.1, rtol=0.05)
        assert errors[-1] < 1e-4


@pytest.mark.parametrize("alpha", [0.05, 0.5, 1.0])
def test_closed_form_of_the_discretization_error(alpha):
    """The factor 1 - eta k / (2 (2 - alpha)) that the module's docstring states, for positions and momenta."""
    temperature, step_size, inverse_mass = 1.3, 2.0, np.array([0.5])
    for curvature in (0.1, 1.0, 10.0):
        target = Target(np.zeros(1), np.array([[curvature]]))
        covariance = stationary_covariance(target, alpha, step_size, inverse_mass, temperature)
        factor = 1 - alpha * step_size * 0.5 / DATA_SIZE * curvature / (2 * (2 - alpha))
        assert_allclose(covariance[0, 0], temperature / curvature / factor, rtol=1e-9)
        momentum_variance = 2 * alpha * temperature / (0.5 * (2 - alpha) * DATA_SIZE * step_size)
        assert_allclose(covariance[1, 1], momentum_variance / factor, rtol=1e-9)


def test_minibatch_noise_of_known_covariance():
    """Gradient noise adds its variance over N^2 to the injected noise, and nothing else."""
    alpha, step_size, inverse_mass, temperature, gradient_std = 0.3, 4.0, np.array([0.2, 1.0, 3.0]), 1.0, 3.0
    chain = (ROUND, alpha, step_size, inverse_mass, temperature, gradient_std**2)
    transition, _ = linear_chain(*chain)
    step_sizes = np.full(steps_to_forget(transition), step_size)
    draws = run_chains(ROUND, alpha, step_sizes, inverse_mass, temperature, gradient_std)
    assert_same_normal(draws, stationary_covariance(*chain))
    with pytest.raises(AssertionError):  # the test would see it if the noise were forgotten
        assert_same_normal(draws, stationary_covariance(*chain[:-1]))


def cycle_laws(target, config, rescale):
    """Exact covariance of theta along cosine cycles for unit mass, started at the target's with v = 0: [step, d, d]."""
    dimension = len(target.mean)
    covariance = np.zeros((2 * dimension, 2 * dimension))
    covariance[:dimension, :dimension] = np.linalg.inv(target.precision)
    step_sizes = cycle_step_sizes(config)
    previous, law = step_sizes[0], []
    for step_size in step_sizes:
        transition, noise = linear_chain(target, config.alpha, step_size, np.ones(dimension), 1.0)
        ratio = np.sqrt(previous / step_size) if rescale else 1.0
        transition = transition @ np.diag(np.r_[np.ones(dimension), np.full(dimension, ratio)])
        covariance, previous = transition @ covariance @ transition.T + noise, step_size
        law.append(covariance)
    return np.array(law)


def cycle_step_sizes(config):
    steps = jnp.arange(config.cycle_steps * config.num_samples)
    step_size = jax.vmap(lambda step: schedule.cosine_cycle(step, config.cycle_steps, config.cycle_step_size))
    return np.asarray(step_size(steps), np.float64)


@pytest.mark.parametrize("cycle_steps, kept", [(2_000, 0.12), (400, 0.25)])
def test_rescaled_momentum_keeps_the_law_through_cosine_cycles(cycle_steps, kept):
    """A momentum kept as the papers print it cools the samples and heats mid-cycle; a rescaled one does neither."""
    target = Target(np.zeros(1), np.ones((1, 1)))
    alpha, eta = 0.1, 0.1
    config = SamplerConfig(alpha=alpha, cycle_steps=cycle_steps, cycle_step_size=eta * DATA_SIZE / alpha, num_samples=3)
    discrete = 1 / (1 - eta / (2 * (2 - alpha)))
    printed = cycle_laws(target, config, rescale=False)[:, 0, 0]
    rescaled = cycle_laws(target, config, rescale=True)[:, 0, 0]
    assert 1 - kept < printed[-1] < 1 - 0.6 * kept and printed.max() > 1.4
    assert 1 < rescaled[-1] < discrete and rescaled[cycle_steps:].max() < discrete + 1e-3


@pytest.mark.parametrize("rescale", [False, True])
def test_law_through_cosine_cycles(rescale):
    """The chain itself, with changing step sizes, follows the exact law, with either momentum."""
    target = Target(np.array([0.5, -1.0]), np.diag([1.0, 0.2]))
    config = SamplerConfig(alpha=0.1, cycle_steps=100, cycle_step_size=20.0, num_samples=3)
    step_sizes = cycle_step_sizes(config)
    mean, covariance = np.r_[np.ones(2), np.zeros(2)], np.zeros((4, 4))
    previous, chains = step_sizes[0], []
    for step_size in step_sizes:
        transition, noise = linear_chain(target, config.alpha, step_size, np.ones(2), 1.0)
        ratio = np.sqrt(previous / step_size) if rescale else 1.0
        chains.append((transition @ np.diag(np.r_[1, 1, ratio, ratio]), noise))
        previous = step_size
    draws = run_chains(target, config.alpha, step_sizes, np.ones(2), 1.0, rescale=rescale)
    assert_same_normal(draws, *iterate_law(chains, mean, covariance))
