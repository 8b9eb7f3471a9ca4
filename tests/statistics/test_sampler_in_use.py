"""The sampler as ``fit`` runs it, from the adapting mass to the last cosine cycle on minibatches, has the right law.

Thousands of chains of :func:`bnn_jax.sampling.chain.build_step` on a linear regression with a posterior in closed form.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnn_jax.config import SamplerConfig
from bnn_jax.sampling import amsgrad, chain, schedule

NUM_DATA, BATCH_SIZE, NUM_CHAINS = 64, 32, 2_000
CONFIG = SamplerConfig(
    num_samples=3,
    alpha=0.5,
    beta=0.99,
    convergence_steps=800,
    step_size_first=2e-2,
    step_size_last=2e-3,
    cycle_steps=800,
    cycle_step_size=4e-3,
)
RNG = np.random.default_rng(5)
DESIGN = RNG.normal(size=(NUM_DATA, 3)) * np.array([0.5, 1.0, 1.5])
TARGETS = DESIGN @ np.array([1.0, -2.0, 0.5]) + RNG.normal(size=NUM_DATA)
PRECISION = np.eye(3) + DESIGN.T @ DESIGN  # prior and noise N(0, 1)
MEAN = np.linalg.solve(PRECISION, DESIGN.T @ TARGETS)


def value_and_grad_fn(position, minibatch):
    def log_density(position):
        design, targets = minibatch
        residual = design @ position - targets
        return -0.5 * jnp.sum(position**2) - 0.5 * NUM_DATA * jnp.mean(residual**2), None

    return jax.value_and_grad(log_density, has_aux=True)(position)


def run() -> tuple[np.ndarray, chain.ChainState]:
    """Positions at the sample steps [chain, sample, 3], and the last states."""
    step = chain.build_step(value_and_grad_fn, NUM_DATA, CONFIG)
    data = (jnp.asarray(DESIGN, jnp.float32), jnp.asarray(TARGETS, jnp.float32))

    def one_step(state, key):
        rows = jax.random.randint(key, (BATCH_SIZE,), 0, NUM_DATA)
        return step(state, jax.tree.map(lambda leaf: leaf[rows], data))[0], None

    @jax.jit
    @jax.vmap
    def cycle(state, key):
        return jax.lax.scan(one_step, state, jax.random.split(key, CONFIG.cycle_steps))[0]

    keys, plan_key = jax.random.split(jax.random.key(0), NUM_CHAINS), jax.random.key(1)
    states = jax.vmap(chain.init)(keys, jnp.zeros((NUM_CHAINS, 3)))
    samples = []
    for index, sample_step in enumerate(schedule.sample_steps(CONFIG)):
        states = cycle(states, jax.random.split(jax.random.fold_in(plan_key, index), NUM_CHAINS))
        assert (np.asarray(states.step) == sample_step).all()
        samples.append(np.asarray(states.sampler.position, np.float64))
    return np.stack(samples, axis=1), states


def known_error(states: chain.ChainState) -> float:
    """Largest relative excess of a variance that the steps and the minibatches of the widest step can cause.

    eta k / (2 (2 - alpha)) of the discretization and eta V / (2 alpha) of gradient noise with covariance V, which for
    draws with replacement is N^2 / B times that of one datum's gradient.
    """
    inverse_mass = np.asarray(
        jax.vmap(lambda mass: amsgrad.inverse_mass(mass, CONFIG.beta, CONFIG.stability))(states.mass)
    )
    eta = CONFIG.alpha * CONFIG.cycle_step_size * inverse_mass.max(axis=0) / NUM_DATA
    per_datum = DESIGN * (DESIGN @ MEAN - TARGETS)[:, None]
    gradient_covariance = NUM_DATA**2 / BATCH_SIZE * np.cov(per_datum.T)
    root = np.diag(np.sqrt(eta))
    discretization = np.linalg.eigvalsh(root @ PRECISION @ root)[-1] / (2 * (2 - CONFIG.alpha))
    heating = np.linalg.eigvalsh(root @ gradient_covariance @ root)[-1] / (2 * CONFIG.alpha)
    return discretization + heating


def assert_moments(samples: np.ndarray, precision: np.ndarray, excess: float) -> None:
    """Means are exact; second moments too but for the excess: within five standard errors over chains."""
    white = (samples - MEAN) @ np.linalg.cholesky(precision)
    products = np.einsum("csi,csj->cij", white, white) / white.shape[1]
    for values, expected, allowed in ((white.mean(axis=1), 0, 0), (products, np.eye(3), excess)):
        error = values.std(axis=0) / np.sqrt(len(values))
        assert (np.abs(values.mean(axis=0) - expected) < 5 * error + allowed).all(), values.mean(axis=0)


def test_samples_of_cosine_cycles_on_minibatches() -> None:
    samples, states = run()
    assert (np.asarray(states.mass.count) == schedule.freeze_step(CONFIG)).all()
    excess = known_error(states)
    assert excess < 0.04
    assert_moments(samples, PRECISION, excess)
    with pytest.raises(AssertionError):  # the comparison would see a temperature that is off by a sixth
        assert_moments(samples, PRECISION / 1.2, excess)
