"""On normal targets the chain has the mean and covariance of the exact discrete chain, which tend to the target's.

With x = (theta - mu, v) and a potential (theta - mu) P (theta - mu) / 2 the kernel is linear, x <- A x + noise, so
that its law is normal and known: after any number of steps by iterating mean and covariance, at stationarity by the
discrete Lyapunov equation C = A C A^T + Q. Many parallel chains are compared with that law, not with the target, so
that only Monte Carlo error separates the two.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from numpy.testing import assert_allclose

from bnn_jax.config import SamplerConfig
from bnn_jax.sampling import schedule, sghmc

DATA_SIZE = 20
NUM_CHAINS = 4_000
NUM_SIGMA = 5  # two-sided chance 6e-7 for each of the few hundred numbers compared here


class Target(NamedTuple):
    mean: np.ndarray
    precision: np.ndarray


def rotated_target(eigenvalues):
    rotation = scipy.stats.ortho_group.rvs(len(eigenvalues), random_state=3)
    return Target(np.arange(1.0, 1.0 + len(eigenvalues)), rotation @ np.diag(eigenvalues) @ rotation.T)


ROUND = rotated_target(np.array([1.0, 2.0, 4.0]))
ILL_CONDITIONED = Target(np.array([1.0, -2.0, 3.0]), np.diag([1e-2, 1.0, 1e2]))


def linear_chain(target, alpha, step_size, inverse_mass, temperature, gradient_covariance=0.0):
    """A and Q of the kernel's recursion, from its defining equations."""
    dimension = len(target.mean)
    eye, scale = np.eye(dimension), np.diag(step_size * inverse_mass)
    v_of_x = np.hstack([-alpha * target.precision / DATA_SIZE, (1 - alpha) * eye])
    transition = np.vstack([np.hstack([eye, 0 * eye]) + scale @ v_of_x, v_of_x])
    noise = np.diag(2 * temperature / (DATA_SIZE * step_size * inverse_mass)) + gradient_covariance / DATA_SIZE**2 * eye
    into = np.vstack([scale, eye])
    return transition, alpha**2 * into @ noise @ into.T


def stationary_covariance(*chain):
    return scipy.linalg.solve_discrete_lyapunov(*linear_chain(*chain))


def iterate_law(chains, mean, covariance):
    """Covariance and mean after one step of each of the linear chains (A, Q), from the given start."""
    for transition, noise in chains:
        mean, covariance = transition @ mean, transition @ covariance @ transition.T + noise
    return covariance, mean


@partial(jax.jit, static_argnames=("alpha", "gradient_std", "rescale"))
def jitted_chains(rng_keys, mean, precision, step_sizes, inverse_mass, temperature, alpha, gradient_std, rescale):
    kernel = sghmc.build_kernel(alpha, DATA_SIZE)

    def grad_estimator(position, minibatch):
        return -precision @ (position - mean) + minibatch

    def one_chain(rng_key):
        def step(carry, inputs):
            state, previous = carry
            key, step_size = inputs
            noise_key, step_key = jax.random.split(key)
            minibatch = gradient_std * jax.random.normal(noise_key, mean.shape) if gradient_std else 0.0
            state = sghmc.rescale_momentum(state, previous, step_size) if rescale else state
            state, _ = kernel(step_key, state, grad_estimator, minibatch, step_size, inverse_mass, temperature)
            return (state, step_size), None

        keys = jax.random.split(rng_key, len(step_sizes))
        (state, _), _ = jax.lax.scan(step, (sghmc.init(mean + 1.0), step_sizes[0]), (keys, step_sizes))
        return jnp.concatenate([state.position - mean, state.momentum])

    return jax.vmap(one_chain)(rng_keys)


def run_chains(target, alpha, step_sizes, inverse_mass, temperature, gradient_std=0.0, rescale=False):
    """Final (theta - mu, v) of NUM_CHAINS chains started at rest one unit off the mean: float64 [chain, 2 d]."""
    arrays = (jnp.asarray(x, jnp.float32) for x in (*target, step_sizes, inverse_mass, temperature))
    keys = jax.random.split(jax.random.key(0), NUM_CHAINS)
    return np.asarray(jitted_chains(keys, *arrays, alpha, gradient_std, rescale), np.float64)


def assert_same_normal(draws, covariance, mean=0.0):
    """Whitened by the exact law, the draws' mean is zero and their second moment one, within Monte Carlo error."""
    factor = np.linalg.cholesky(covariance)
    white = scipy.linalg.solve_triangular(factor, (draws - mean).T, lower=True)
    num_draws = white.shape[1]
    assert_allclose(white.mean(axis=1), 0, atol=NUM_SIGMA / np.sqrt(num_draws))
    second = white @ white.T / num_draws
    error = np.sqrt(
        (1 + np.eye(len(second))) / num_draws
    )  # of a second moment of normals: 2 / n, off the diagonal 1 / n
    assert np.max(np.abs(second - np.eye(len(second))) / error) < NUM_SIGMA, second


def steps_to_forget(transition):
    """Steps after which the start has decayed by 1000, below the Monte Carlo error; few distinct lengths to compile."""
    steps = np.log(1e-3) / np.log(np.max(np.abs(np.linalg.eigvals(transition))))
    return 2 ** int(np.ceil(np.log2(steps)))


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
def test_stationary_law_of_ill_conditioned_target(temperature):
    """Condition number 1e4 is no obstacle to a matched mass."""
    inverse_mass, alpha = 1 / np.diag(ILL_CONDITIONED.precision), 0.3
    step_size = 0.5 * DATA_SIZE / alpha
    chain = (ILL_CONDITIONED, alpha, step_size, inverse_mass, temperature)
    step_sizes = np.full(steps_to_forget(linear_chain(*chain)[0]), step_size)
    assert len(step_sizes) <= 128
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


@pytest.mark.parametrize(
    "mutant",
    ["noise std times sqrt(alpha)", "temperature scales the std", "noise variance off by 10 %", "position moves first"],
)
def test_power(mutant):
    """The comparison that the kernel passes above fails for these plausible mistakes."""
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
