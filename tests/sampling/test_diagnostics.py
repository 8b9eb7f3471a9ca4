"""Diagnostics against formulas written out and Gaussians whose truth is known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose, assert_array_equal

from bnn_jax.sampling import diagnostics
from bnn_jax.sampling.diagnostics import agreement


def vehtari_rhat(draws):
    """Vehtari et al. (2021), equations 1-4 and 14, for one quantity: draws [chain, sample]."""
    half = draws.shape[1] // 2
    split = np.concatenate([draws[:, :half], draws[:, half : 2 * half]])

    def plain(x):
        z = scipy.stats.norm.ppf((scipy.stats.rankdata(x).reshape(x.shape) - 3 / 8) / (x.size + 1 / 4))
        num_draws = z.shape[1]
        between = num_draws * z.mean(axis=1).var(ddof=1)
        within = z.var(axis=1, ddof=1).mean()
        return np.sqrt(((num_draws - 1) / num_draws * within + between / num_draws) / within)

    return max(plain(split), plain(np.abs(split - np.median(split))))


@pytest.mark.parametrize("num_chains, num_draws", [(1, 4), (1, 51), (2, 4), (4, 100)])
def test_rhat_is_vehtari_2021(num_chains, num_draws):
    with jax.enable_x64(True):
        draws = np.random.default_rng(0).standard_cauchy((num_chains, num_draws, 3))
        draws[0, :, 1] += 2  # one chain elsewhere
        draws[0, :, 2] *= 5  # one chain wider: only the folded half sees it
        got = diagnostics.function_space_rhat(draws)
        assert_allclose(got, [vehtari_rhat(draws[:, :, k]) for k in range(3)], rtol=1e-10)


def test_rhat_tells_good_from_bad():
    draws = np.random.default_rng(1).normal(size=(4, 500, 3)).astype(np.float32)
    draws[0, :, 1] += 2
    draws[0, :, 2] *= 5
    good, shifted, wide = np.asarray(diagnostics.function_space_rhat(draws))
    assert good < 1.01 < 1.1 < min(shifted, wide)


@pytest.mark.parametrize("function", [diagnostics.function_space_rhat, diagnostics.function_space_ess])
def test_too_few_draws_and_single_quantity(function):
    draws = np.random.default_rng(2).normal(size=(2, 8, 1)).astype(np.float32)
    assert_array_equal(function(draws[:, :3]), [np.nan])
    assert function(draws).shape == (1,)
    assert function(draws[:1]).shape == (1,)
    assert np.isfinite(function(draws[:, :4])).all()


def test_ess_of_independent_draws_and_of_autoregression():
    rng = np.random.default_rng(3)
    num_chains, num_draws, rho = 4, 4000, 0.9
    noise = rng.normal(size=(num_chains, num_draws, 2))
    draws = noise.copy()
    for t in range(1, num_draws):
        draws[:, t, 1] = rho * draws[:, t - 1, 1] + np.sqrt(1 - rho**2) * noise[:, t, 1]
    independent, autoregressive = np.asarray(diagnostics.function_space_ess(draws.astype(np.float32)))
    total = num_chains * num_draws
    # The scatter of the estimate over seeds is 3 % and 8 %: see Vehtari (2021), section 4 for its size.
    assert_allclose(independent, total, rtol=0.15)
    assert_allclose(autoregressive, total * (1 - rho) / (1 + rho), rtol=0.3)


def test_constant_and_nan_quantities():
    draws = np.random.default_rng(4).normal(size=(2, 50, 3)).astype(np.float32)
    draws[:, :, 1] = 7
    draws[1, 3, 2] = np.nan
    assert_array_equal(np.isnan(diagnostics.function_space_rhat(draws)), [False, True, True])
    ess = np.asarray(diagnostics.function_space_ess(draws))
    assert ess[0] > 10 and ess[1] == 0 and np.isnan(ess[2])


@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.5, 1.0])
def test_kinetic_temperature_of_free_particle(alpha):
    """Iterate v alone (step size to zero: the position stands still) and compare the variance with the derived one."""
    temperature, step_size, data_size, dimension = 0.6, 1e-3, 50, 40_000
    mass = np.geomspace(0.1, 10, dimension)
    rng = np.random.default_rng(5)
    momentum = np.zeros(dimension)
    for _ in range(int(10 / alpha)):  # v^2 forgets its start as (1 - alpha)^2t, below exp(-20)
        noise = np.sqrt(2 * mass * temperature / (data_size * step_size)) * rng.normal(size=dimension)
        momentum = momentum - alpha * momentum + alpha * noise
    split = {"a": jnp.asarray(momentum[:100]), "b": jnp.asarray(momentum[100:].reshape(-1, 10))}
    inverse = {"a": jnp.asarray(1 / mass[:100]), "b": jnp.asarray((1 / mass[100:]).reshape(-1, 10))}
    got = diagnostics.kinetic_temperature(split, inverse, step_size, alpha, data_size)
    assert_allclose(got, temperature, rtol=5 * np.sqrt(2 / dimension))


def test_kinetic_temperature_takes_scalar_mass():
    got = diagnostics.kinetic_temperature({"a": jnp.array([1.0, 3.0])}, 0.5, 0.1, 0.5, 8)
    assert_allclose(got, 8 * 0.1 * 1.5 / (2 * 0.5) * 0.5 * 5, rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
def test_configurational_temperature_of_gaussian(temperature):
    """theta ~ N(mean, T S) with U = (theta - mean) S^-1 (theta - mean) / 2, correlated and off the origin."""
    rng = np.random.default_rng(6)
    factor = rng.normal(size=(3, 3)) + 2 * np.eye(3)
    mean = np.array([1.0, -2.0, 0.5])
    precision = np.linalg.inv(factor @ factor.T)
    num_draws = 50_000
    theta = mean + np.sqrt(temperature) * rng.normal(size=(num_draws, 3)) @ factor.T
    gradient = (theta - mean) @ precision

    def estimate(x, g):
        return diagnostics.configurational_temperature({"a": x[:1], "b": x[1:]}, {"a": g[:1], "b": g[1:]})

    for origin in (np.zeros(3), mean):
        values = np.asarray(jax.vmap(estimate)(jnp.asarray(theta - origin), jnp.asarray(gradient)))
        assert_allclose(values.mean(), temperature, atol=5 * values.std() / np.sqrt(num_draws))
    assert_allclose(values.std(), temperature * np.sqrt(2 / 3), rtol=0.05)  # about the mean: chi-squared of 3


class TestAgreement:
    @pytest.mark.parametrize(
        "shape", [(2, 4), (1, 8), *(pytest.param(shape, marks=pytest.mark.slow) for shape in ((4, 4), (3, 10)))]
    )
    def test_independent_draws_rarely_look_apart(self, shape):
        """A p value is below 0.05 in at most 5 % of cases, also for quantities that depend on each other."""
        rng = np.random.default_rng(0)
        mix = rng.normal(size=(5, 40))
        p_values = [agreement(rng.normal(size=(*shape, 5)) @ mix, 199) for _ in range(400)]
        # Binomial, 400 cases: 0.05 +- 0.011.
        assert np.mean(np.array(p_values) < 0.05) < 0.05 + 4 * 0.011
        assert abs(np.mean(p_values) - 0.5) < 0.1

    @pytest.mark.parametrize("shape", [(2, 4), (4, 4), (3, 10)])
    def test_chains_apart_are_seen(self, shape):
        rng = np.random.default_rng(1)
        draws = rng.normal(size=(*shape, 40)) + 2 * rng.normal(size=(shape[0], 1, 40))
        assert agreement(draws) < 0.05

    def test_a_drift_is_seen(self):
        rng = np.random.default_rng(2)
        draws = rng.normal(size=(1, 12, 30)) + np.linspace(0, 4, 12)[:, None]
        assert agreement(draws) < 0.01
        assert agreement(draws[:, rng.permutation(12)]) > 0.05

    def test_few_draws_cannot_tell(self):
        assert np.isnan(agreement(np.zeros((1, 6, 3))))  # ten ways to make two halves
        assert np.isnan(agreement(np.zeros((2, 2, 3))))
        assert not np.isnan(agreement(np.random.default_rng(0).normal(size=(2, 4, 3))))

    def test_equals_enumeration(self):
        """Of the 35 ways to deal 8 draws to two chains."""
        draws = np.random.default_rng(7).normal(size=(2, 4, 3)) + np.array([0.0, 0.7])[:, None, None]
        flat = draws.reshape(8, 3)
        flat = (flat - flat.mean(axis=0)) / flat.std(axis=0)

        def apart(first):
            rest = [i for i in range(8) if i not in first]
            return np.square(flat[list(first)].mean(axis=0)).sum() + np.square(flat[rest].mean(axis=0)).sum()

        ways = [apart((0, *others)) for others in itertools.combinations(range(1, 8), 3)]
        exact = np.mean(np.array(ways) >= apart((0, 1, 2, 3)) - 1e-12)
        # 4,000 deals: a standard error of sqrt(p (1 - p) / 4000)
        assert abs(agreement(draws, 4_000) - exact) < 5 * np.sqrt(exact * (1 - exact) / 4_000) + 1 / 4_000
