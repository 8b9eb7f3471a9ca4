"""The normal prior against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bnn_jax.posterior import normal_log_prior

pytestmark = pytest.mark.usefixtures("x64")


def weights(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return {"dense": {"kernel": jnp.asarray(rng.normal(size=(3, 2)))}, "bias": jnp.asarray(rng.normal(size=4))}


def by_scipy(params, mean, std) -> float:
    parts = jax.tree.map(lambda x, m, s: stats.norm.logpdf(x, m, s).sum(), params, mean, std)
    return sum(jax.tree.leaves(parts))


def stds() -> dict:
    return jax.tree.map(lambda leaf: 0.1 + jnp.abs(leaf), weights(8))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 0.2), ("tree", 0.2), (0.0, "tree"), ("tree", "tree")])
def test_equals_scipy_up_to_a_constant(mean, std) -> None:
    first, second = weights(0), weights(1)
    mean, std = weights(7) if mean == "tree" else mean, stds() if std == "tree" else std
    full = [
        value if isinstance(value, dict) else jax.tree.map(lambda x, v=value: np.full(x.shape, v), first)
        for value in (mean, std)
    ]
    ours = normal_log_prior(first, mean, std) - normal_log_prior(second, mean, std)
    np.testing.assert_allclose(ours, by_scipy(first, *full) - by_scipy(second, *full), rtol=1e-12)


def test_is_zero_at_its_mean() -> None:
    assert normal_log_prior(weights(7), weights(7), stds()) == 0


def test_gradient_pulls_towards_the_mean() -> None:
    params, mean = weights(0), weights(7)
    gradient = jax.grad(normal_log_prior)(params, mean, 0.2)
    jax.tree.map(lambda g, x, m: np.testing.assert_allclose(g, (m - x) / 0.04, rtol=1e-12), gradient, params, mean)


def test_mean_of_another_structure_is_refused() -> None:
    with pytest.raises(ValueError, match=r"[Dd]ict key mismatch|structure"):
        normal_log_prior(weights(0), {"bias": jnp.zeros(4)}, 1.0)
