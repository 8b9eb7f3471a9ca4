"""The log posterior as plain functions: what ``fit`` samples, in the hands of other packages."""

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import systems
from commands import MODEL, SAMPLER

import bnn_jax
from bnn_jax import Config, Dataset, InputError
from bnn_jax.methods import log_posterior
from bnn_jax.model import nequip
from bnn_jax.posterior import log_likelihood, normal_log_prior

CONFIG = Config.from_dict({"model": MODEL, "sampler": SAMPLER | {"batch_size": 3}, "posterior": {"prior_std": 0.7}})
TRAIN = Dataset.from_atoms(systems.labelled_series(systems.water(), 7))


@pytest.fixture(scope="module")
def target():
    return log_posterior(TRAIN, CONFIG)


def test_density_is_prior_and_likelihood_of_all_structures(target):
    params = target.init(jax.random.key(0))
    config = target.posterior(jax.tree.map(lambda leaf: leaf[None], params)).config
    graph = bnn_jax.atoms.pack(
        TRAIN, config.model.cutoff, config.model.species, TRAIN.statistics(config.model.cutoff).shifts
    )
    batch = bnn_jax.atoms.gather_batch(graph, np.arange(7), *bnn_jax.atoms.batch_size_needed(graph, np.arange(7)))
    likelihood = log_likelihood(nequip(config.model).apply(params, batch.graph), batch, config.posterior.stress_std)
    expected = normal_log_prior(params, 0.0, 0.7) + likelihood.sum()
    assert target.density(params) == pytest.approx(float(expected), rel=1e-5)
    assert target.estimate(params, np.arange(7)) == pytest.approx(float(expected), rel=1e-5)
    assert target.num_structures == 7


def test_estimates_of_all_minibatches_average_to_it(target):
    params = target.init(jax.random.key(1))
    estimate, density = jax.jit(jax.value_and_grad(target.estimate)), jax.jit(jax.value_and_grad(target.density))
    found = [estimate(params, np.array([i, (i + 1) % 7, (i + 3) % 7])) for i in range(7)]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 7, *found)
    for one, other in zip(jax.tree.leaves(mean), jax.tree.leaves(density(params)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3 * np.abs(other).max())


def test_other_packages_sample_and_climb_it(target):
    params = target.init(jax.random.key(2))
    density = jax.jit(target.density)
    start = density(params)
    optimiser = optax.adam(1e-2)

    @jax.jit
    def climb(params, state):
        updates, state = optimiser.update(jax.grad(lambda p: -target.density(p))(params), state)
        return optax.apply_updates(params, updates), state

    state = optimiser.init(params)
    for _ in range(20):
        params, state = climb(params, state)
    top = density(params)
    assert top > start
    kernel = blackjax.nuts(target.density, 1e-3, jnp.ones(sum(leaf.size for leaf in jax.tree.leaves(params))),
                           max_num_doublings=3)  # fmt: skip

    def step(state, key):
        state, info = kernel.step(key, state)
        return state, (state.position, info.acceptance_rate)

    _, (draws, rates) = jax.jit(lambda state, keys: jax.lax.scan(step, state, keys))(
        kernel.init(params), jax.random.split(jax.random.key(3), 4)
    )
    assert rates.mean() > 0.5
    posterior = target.posterior(draws)
    predictive = posterior.predict(TRAIN)
    assert posterior.num_samples == 4 and (predictive.forces_std_epistemic > 0).all()
    with pytest.warns(match="were in the training set"):
        assert np.isfinite(bnn_jax.evaluate(posterior, TRAIN)["forces_mll"])


def test_what_has_no_posterior_is_refused():
    with pytest.raises(InputError, match="no energy and no forces"):
        log_posterior([atoms.copy() for atoms in systems.labelled_series(systems.water(), 3)], CONFIG)
    with pytest.raises(InputError, match="batch_size is 3 and the training set has 2"):
        log_posterior(systems.labelled_series(systems.water(), 2), CONFIG)
