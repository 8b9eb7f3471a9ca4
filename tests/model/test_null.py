"""Learning starts at the network that knows no more than the statistics of its training set."""

import dataclasses

import jax
import numpy as np
import pytest
from systems import ammonia, labelled_series, water

import bnn_jax
from bnn_jax import Dataset
from bnn_jax.config import Config
from bnn_jax.methods import ensemble, sghmc, training
from bnn_jax.methods.base import example_graph
from bnn_jax.methods.preparation import prepare, typical_energy
from bnn_jax.model import nequip
from bnn_jax.model.null import MIN_ENERGY_STD

MODEL = {"num_blocks": 1, "num_features": 4, "l_max": 1, "cutoff": 3.0, "num_bessel": 2, "radial_hidden": []}
MODEL |= {"std_hidden": [4]}
CONFIG = Config.from_dict({"model": MODEL, "sampler": {"batch_size": 5, "num_chains": 2, "log_every": 5}})
TRAIN = Dataset.from_atoms([*labelled_series(water(), 6), *labelled_series(ammonia(), 6)])


@pytest.fixture(scope="module")
def prepared():
    return prepare(TRAIN, None, CONFIG)


def z_scores(potential, params, prepared) -> tuple[np.ndarray, np.ndarray]:
    """Of the training labels, energies and forces."""
    (batch,) = TRAIN.batches(len(TRAIN), CONFIG.model.cutoff, prepared.statistics)
    found = jax.jit(potential.apply)(params, batch.graph)
    energy = (batch.labels.energy - found.energy) / found.energy_std
    forces = (batch.labels.forces - found.forces) / found.forces_std[:, None]
    return np.asarray(energy)[batch.labels.energy_mask], np.asarray(forces)[batch.labels.forces_mask]


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def test_it_predicts_the_shifts_with_the_stds_of_the_labels(prepared):
    network = nequip(prepared.config.model)
    drawn = network.init(jax.random.key(0), example_graph(prepared.config.model))
    energy_std = typical_energy(prepared.packed, prepared.config.model.scale)
    params = network.start(drawn, energy_std)
    (batch,) = TRAIN.batches(len(TRAIN), CONFIG.model.cutoff, prepared.statistics)
    found = jax.jit(network.apply)(params, batch.graph)
    assert not np.asarray(found.energy).any() and not np.asarray(found.forces).any()
    sizes = np.sqrt(TRAIN.num_atoms)
    np.testing.assert_allclose(found.energy_std[: len(TRAIN)], energy_std * sizes, rtol=1e-5)
    np.testing.assert_allclose(found.forces_std[: len(TRAIN.numbers)], prepared.config.model.scale, rtol=1e-5)
    above = TRAIN.energy - TRAIN.composition @ prepared.statistics.shifts
    assert energy_std == pytest.approx(rms(above / sizes), rel=1e-4)
    changed = jax.tree.map(lambda new, old: bool(np.any(np.asarray(new) != np.asarray(old))), params, drawn)
    paths = [[part.key for part in path] for path, is_changed in jax.tree.leaves_with_path(changed) if is_changed]
    assert paths == [["heads", "energy", "kernel_0"], ["heads", "energy_std", "bias_1"]]


def test_energies_that_are_all_alike_and_none_at_all(prepared):
    network, scale = nequip(prepared.config.model), prepared.config.model.scale
    drawn = network.init(jax.random.key(0), example_graph(prepared.config.model))
    alike = network.start(drawn, 0.0)["heads"]["energy_std"]["bias_1"]
    assert float(alike[0]) == pytest.approx(np.log(MIN_ENERGY_STD))
    bare = dataclasses.replace(TRAIN, energy=np.full(len(TRAIN), np.nan))
    without = prepare(bare, None, CONFIG)
    assert typical_energy(without.packed, scale) == scale


def test_chains_and_networks_start_there_and_differ(prepared):
    _, _, (states,) = sghmc.build_chains(jax.random.key(0), prepared.packed, prepared.config)
    task = ensemble._task(prepared.config)
    _, _, members = training.build_training(jax.random.key(0), prepared, task)
    for params in (states.sampler.position, members.params):
        one, other = (jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(2))
        energy, forces = z_scores(nequip(prepared.config.model), one, prepared)
        assert [rms(energy), rms(forces)] == pytest.approx([1, 1], abs=0.02)
        assert any((a != b).any() for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def test_the_energies_of_a_short_run_do_not_run_away():
    train, test = bnn_jax.load("ammonia").split(train=50, test=20, seed=0)
    sampler = {"num_chains": 2, "num_samples": 1, "convergence_steps": 300, "step_size_first": 2e-2}
    model = MODEL | {"num_blocks": 2, "cutoff": 4.0}
    config = Config.from_dict({"model": model, "sampler": CONFIG.to_dict()["sampler"] | sampler})
    posterior = sghmc.fit(jax.random.key(1), train, None, config, progress=False)
    offsets = (posterior.predict(test).energy_samples - test.energy).mean(axis=1)
    assert np.abs(offsets).max() < 2 * test.energy.std()
