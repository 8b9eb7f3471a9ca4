"""The shallow ensemble: mean and spread against single networks, the loss against SciPy's normals, and a tiny fit."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import bnn_jax
from bnn_jax import Config, Dataset, Posterior
from bnn_jax.atoms import gather_batch, pack
from bnn_jax.methods import shallow
from bnn_jax.methods.base import example_graph
from bnn_jax.methods.ensemble import likelihood_loss
from bnn_jax.model import READOUT_PATH, leaf, nequip, readout, with_leaf, with_readout
from bnn_jax.types import Batch, Params, Prediction
from bnn_jax.verdict import judge
from tests import systems
from tests.posterior.labelled import with_labels

MODEL = {"num_blocks": 1, "num_features": 4, "l_max": 1, "cutoff": 3.0, "num_bessel": 4, "radial_hidden": [4]}
MODEL |= {"std_hidden": [4]}
TRAINER = {"num_steps": 600, "log_every": 100, "batch_size": 10, "learning_rate": 0.03}
NUM_READOUTS, STRESS_STD = 5, 0.02
SPECIES = (1, 6, 7, 8, 11, 17)
# Atoms off all planes and axes of symmetry, where readouts agree that a force component is zero.
MIXED = [
    with_labels(systems.rattled(systems.ethanol()), 0, ("energy", "forces")),
    with_labels(systems.rattled(systems.ammonia()), 1, ("energy",)),
    with_labels(systems.rattled(systems.ethanol(), seed=1), 2, ("forces",)),
    with_labels(systems.rattled(systems.triclinic_crystal()), 3, ("energy", "forces", "stress")),
    with_labels(systems.rattled(systems.triclinic_crystal(), seed=1), 4, ("stress",)),
]


def config_of(**sections) -> Config:
    settings = {"method": "shallow", "model": MODEL, "trainer": TRAINER, "shallow": {"num_readouts": NUM_READOUTS}}
    return Config.from_dict(settings | sections)


class Mixed(NamedTuple):
    """A batch with gaps in its labels, and weights before the first step, in double precision."""

    batch: Batch
    params: Params
    together: Prediction
    alone: list[Prediction]
    """Of the network, given one readout after another."""
    loss_and_gradient: Callable


@pytest.fixture(scope="module")
def mixed() -> Mixed:
    with jax.enable_x64(True):
        config = config_of(model=MODEL | {"species": SPECIES}, posterior={"stress_std": STRESS_STD})
        packed = pack(Dataset.from_atoms(MIXED), MODEL["cutoff"], SPECIES, np.zeros(len(SPECIES)), np.float64)
        batch = gather_batch(packed, np.arange(len(MIXED)), 40, 512)
        ensemble = shallow.mean_and_spread(config)
        params = ensemble.init(jax.random.key(0), example_graph(config.model))
        apply, weights = jax.jit(nequip(config.model).apply), leaf(params, READOUT_PATH)[:, :, 0]
        alone = [apply(with_readout(params, each), batch.graph) for each in weights]
        loss_fn = likelihood_loss(ensemble, config)
        loss_and_gradient = jax.jit(jax.value_and_grad(lambda params: loss_fn(params, batch, None)[0]))
        return Mixed(batch, params, jax.jit(ensemble.apply)(params, batch.graph), alone, loss_and_gradient)


@pytest.mark.usefixtures("x64")
def test_mean_and_spread_are_those_of_the_readouts(mixed: Mixed) -> None:
    found, each = mixed.together, mixed.alone
    assert leaf(mixed.params, READOUT_PATH).shape == (NUM_READOUTS, MODEL["num_features"], 1)
    for name in ("energy", "forces", "stress", "atom_energies"):
        expected = np.mean([getattr(one, name) for one in each], axis=0)
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-9, atol=1e-12)
    for name, epistemic in (("energy", found.energy_std_epistemic), ("forces", found.forces_std_epistemic)):
        expected = np.std([getattr(one, name) for one in each], axis=0, ddof=1)
        np.testing.assert_allclose(epistemic, np.maximum(expected, shallow.MIN_STD), rtol=1e-9)
    assert (found.energy_std == 0).all() and (found.forces_std == 0).all()


@pytest.mark.usefixtures("x64")
def test_loss_equals_scipy(mixed: Mixed) -> None:
    each, data = mixed.alone, Dataset.from_atoms(MIXED)
    energy, forces, stress = (np.array([getattr(one, name) for one in each]) for name in ("energy", "forces", "stress"))
    mean, std = forces.mean(axis=0), forces.std(axis=0, ddof=1)
    total = 0.0
    for i in np.flatnonzero(np.isfinite(data.energy)):
        total += stats.norm.logpdf(data.energy[i], energy[:, i].mean(), energy[:, i].std(ddof=1))
    for atom, component in np.argwhere(np.isfinite(data.forces)):
        total += stats.norm.logpdf(data.forces[atom, component], mean[atom, component], std[atom, component])
    for i in np.flatnonzero(np.isfinite(data.stress).all(axis=(1, 2))):
        for row, column in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)):
            width = STRESS_STD if row == column else STRESS_STD / np.sqrt(2)
            total += stats.norm.logpdf(data.stress[i, row, column], stress[:, i, row, column].mean(), width)
    loss, gradient = mixed.loss_and_gradient(mixed.params)
    assert float(loss) == pytest.approx(-total / len(MIXED), rel=1e-9)
    direction = jax.tree.map(lambda leaf: np.random.default_rng(leaf.size).normal(size=leaf.shape), mixed.params)
    step = 1e-6
    ends = [
        mixed.loss_and_gradient(jax.tree.map(lambda leaf, along, h=h: leaf + h * along, mixed.params, direction))[0]
        for h in (-step, step)
    ]
    slope = sum(float(jnp.vdot(g, d)) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
    assert slope == pytest.approx(float(ends[1] - ends[0]) / (2 * step), rel=1e-5)


@pytest.mark.usefixtures("x64")
def test_readouts_that_agree_have_finite_derivatives(mixed: Mixed) -> None:
    """As all do at the padding, and at atoms that no other is near."""
    kernel = leaf(mixed.params, READOUT_PATH)
    same = with_leaf(mixed.params, READOUT_PATH, jnp.broadcast_to(kernel[:1], kernel.shape))
    loss, gradient = mixed.loss_and_gradient(same)
    assert all(np.isfinite(array).all() for array in (loss, *jax.tree.leaves(gradient)))


@pytest.fixture(scope="module")
def ammonia() -> tuple[Dataset, Dataset]:
    return bnn_jax.load("ammonia").split(train=50, valid=20, seed=0)


@pytest.fixture(scope="module")
def posterior(ammonia) -> Posterior:
    train, valid = ammonia
    return shallow.fit(jax.random.key(0), train, valid, config_of(), progress=False)


def test_samples_share_the_trunk(posterior: Posterior) -> None:
    assert posterior.num_samples == NUM_READOUTS and posterior.num_chains == 1
    kernel = leaf(posterior.samples, READOUT_PATH)
    assert all(np.ptp(kernel[:, i]) > 0 for i in range(MODEL["num_features"]))
    one = jax.tree.map(lambda array: array[0], posterior.samples)
    trunk = with_leaf(posterior.samples, READOUT_PATH, jnp.broadcast_to(readout(one)[:, None], kernel.shape))
    for repeated, single in zip(jax.tree.leaves(trunk), jax.tree.leaves(one), strict=True):
        np.testing.assert_array_equal(repeated, np.broadcast_to(single, repeated.shape))


def test_predictive_is_what_the_loss_trains(posterior: Posterior, ammonia) -> None:
    _, valid = ammonia
    predictive = posterior.predict(valid)
    config, statistics = posterior.config, posterior.statistics
    packed = pack(valid, MODEL["cutoff"], statistics.species, statistics.shifts)
    batch = gather_batch(packed, np.arange(len(valid)), len(valid.numbers) + 1, len(packed.senders))
    one = jax.tree.map(lambda array: array[0], posterior.samples)
    together = with_leaf(one, READOUT_PATH, leaf(posterior.samples, READOUT_PATH))
    trained = jax.jit(shallow.mean_and_spread(config).apply)(together, batch.graph)
    np.testing.assert_allclose(predictive.forces, trained.forces[:-1], atol=1e-5)
    assert trained.forces_std_epistemic is not None and trained.energy_std_epistemic is not None
    np.testing.assert_allclose(predictive.forces_std_epistemic, trained.forces_std_epistemic[:-1], atol=1e-5)
    np.testing.assert_allclose(predictive.energy_std_epistemic, trained.energy_std_epistemic[:-1], atol=1e-5)
    np.testing.assert_array_equal(predictive.forces_std, predictive.forces_std_epistemic)
    np.testing.assert_array_equal(predictive.energy_std, predictive.energy_std_epistemic)
    assert (predictive.forces_std_aleatoric == 0).all() and (predictive.energy_std_aleatoric == 0).all()


def test_a_fit_learns_forces_and_their_stds(posterior: Posterior, ammonia) -> None:
    _, valid = ammonia
    config = posterior.config
    start = shallow.mean_and_spread(config).init(jax.random.key(0), example_graph(config.model))
    before = bnn_jax.evaluate(dataclasses.replace(posterior, samples=shallow.separated(start)), valid)
    after = bnn_jax.evaluate(posterior, valid)
    for name in ("energy", "forces"):
        assert after[f"{name}_mll"] > before[f"{name}_mll"] + 0.5
        assert 0.2 < after[f"{name}_rms_z"] < 5
    assert after["forces_mae"] < 0.8 * np.abs(valid.forces).mean()  # as far as four features get in seconds


def test_readouts_of_one_network_do_not_tell_of_another(posterior: Posterior, ammonia) -> None:
    _, valid = ammonia
    verdict = judge(posterior, valid, labels_are_held_out=True)
    assert verdict.reproducible.holds is None and not verdict.is_trusted
    assert "cannot be told from one network" in verdict.reproducible.sentence
