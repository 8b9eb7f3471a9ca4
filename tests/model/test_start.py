"""Learning starts at energies without an offset and with the std of their errors."""

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
from bnn_jax.methods.preparation import choose_anchors, prepare
from bnn_jax.model import nequip
from bnn_jax.model.start import MIN_ENERGY_STD

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


def test_the_mean_energy_is_right_and_its_std_that_of_the_rest(prepared):
    network, graph = nequip(prepared.config.model), example_graph(prepared.config.model)
    drawn = network.init(jax.random.key(0), graph)
    params = jax.jit(network.start)(drawn, choose_anchors(prepared.packed, len(TRAIN)).batch(prepared.packed))
    (batch,) = TRAIN.batches(len(TRAIN), CONFIG.model.cutoff, prepared.statistics)
    before, found = (jax.jit(network.apply)(each, batch.graph) for each in (drawn, params))
    known, sizes = np.asarray(batch.labels.energy_mask), TRAIN.num_atoms
    errors = np.asarray(found.energy - batch.labels.energy)[known]
    scale = prepared.config.model.scale
    assert abs(errors.sum() / sizes.sum()) < 1e-5 * scale
    assert abs(np.asarray(before.energy - batch.labels.energy)[known].sum() / sizes.sum()) > 0.01 * scale
    assert rms(errors / np.asarray(found.energy_std)[known]) == pytest.approx(1, abs=1e-4)
    assert rms(np.asarray(found.forces)) > 0.1 * scale  # the rest is a draw of the prior
    np.testing.assert_allclose(found.forces_std[: len(TRAIN.numbers)], scale, rtol=1e-5)
    changed = jax.tree.map(lambda new, old: bool(np.any(np.asarray(new) != np.asarray(old))), params, drawn)
    paths = [[part.key for part in path] for path, is_changed in jax.tree.leaves_with_path(changed) if is_changed]
    assert paths == [["heads", "energy", "kernel_0"], ["heads", "energy_std", "bias_1"]]


def test_one_energy_and_none_at_all(prepared):
    network, graph = nequip(prepared.config.model), example_graph(prepared.config.model)
    drawn = network.init(jax.random.key(0), graph)
    energy = np.full(len(TRAIN), np.nan)
    without = prepare(dataclasses.replace(TRAIN, energy=energy), None, CONFIG)
    same = network.start(drawn, choose_anchors(without.packed, 5).batch(without.packed))
    for one, other in zip(jax.tree.leaves(same), jax.tree.leaves(drawn), strict=True):
        np.testing.assert_array_equal(one, other)
    energy[3] = TRAIN.energy[3]
    single = prepare(dataclasses.replace(TRAIN, energy=energy), None, CONFIG)
    exact = network.start(drawn, choose_anchors(single.packed, 5).batch(single.packed))["heads"]["energy_std"]["bias_1"]
    assert float(exact[0]) == pytest.approx(np.log(MIN_ENERGY_STD))


def test_chains_and_networks_start_there_and_differ(prepared):
    _, _, (states,) = sghmc.build_chains(jax.random.key(0), prepared.packed, prepared.config)
    task = ensemble._task(prepared.config)
    _, _, members = training.build_training(jax.random.key(0), prepared, task)
    for params in (states.sampler.position, members.params):
        one, other = (jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(2))
        energy, forces = z_scores(nequip(prepared.config.model), one, prepared)
        assert rms(energy) == pytest.approx(1, abs=0.02) and 0.5 < rms(forces) < 5
        assert any((a != b).any() for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def test_energies_on_the_way_are_centred_and_all_else_stays(prepared):
    network, graph = nequip(prepared.config.model), example_graph(prepared.config.model)
    drawn = network.init(jax.random.key(3), graph)
    params = jax.tree.map(lambda leaf: leaf + 0.1, drawn)  # no start: the std networks have weights too
    batch = choose_anchors(prepared.packed, len(TRAIN)).batch(prepared.packed)
    centred = jax.jit(network.centre)(params, batch)
    before, found = (jax.jit(network.apply)(each, batch.graph) for each in (params, centred))
    mean = [np.sum(np.where(batch.labels.energy_mask, p.energy - batch.labels.energy, 0)) for p in (before, found)]
    scale, num_atoms = prepared.config.model.scale, TRAIN.num_atoms.sum()
    assert abs(mean[0]) > 0.01 * scale * num_atoms and abs(mean[1]) < 1e-5 * scale * num_atoms
    changed = jax.tree.map(lambda new, old: bool(np.any(np.asarray(new) != np.asarray(old))), centred, params)
    paths = [[part.key for part in path] for path, is_changed in jax.tree.leaves_with_path(changed) if is_changed]
    assert paths == [["heads", "energy", "kernel_0"]]
    again = network.centre(centred, batch)
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(centred), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_chains_are_centred_while_their_mass_is_learnt(prepared):
    """Steps and corrections taken one by one are those of the compiled chunk, and none follows the frozen mass."""
    changes = {"centre_every": 2, "convergence_steps": 8, "freeze_fraction": 0.5}
    sampler = dataclasses.replace(prepared.config.sampler, **changes)
    config = dataclasses.replace(prepared.config, sampler=sampler)
    chunk, plan, (states,) = sghmc.build_chains(jax.random.key(0), prepared.packed, config)
    never = dataclasses.replace(config, sampler=dataclasses.replace(sampler, centre_every=0))
    plain, _, _ = sghmc.build_chains(jax.random.key(0), prepared.packed, never)
    data, indices = chunk.place(prepared.packed), np.repeat(plan(0, 0, 1), 6, axis=0)
    together, _ = chunk(states, data, indices, 6)
    batch = choose_anchors(prepared.packed, sampler.batch_size).batch(prepared.packed)
    centre = jax.jit(jax.vmap(nequip(config.model).centre, in_axes=(0, None)))
    for step in range(6):
        if step == 2:  # not at the start, and not at step 4, from which on the mass is kept
            position = centre(states.sampler.position, batch)
            states = states._replace(sampler=states.sampler._replace(position=position))
        states, _ = plain(states, data, indices, 1)
    for one, other in zip(
        jax.tree.leaves(together.sampler.position), jax.tree.leaves(states.sampler.position), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    untouched, _ = plain(*(sghmc.build_chains(jax.random.key(0), prepared.packed, never)[2][0], data, indices), 6)
    kernel = lambda states: np.asarray(states.sampler.position["heads"]["energy"]["kernel_0"])  # noqa: E731
    assert np.abs(kernel(untouched) - kernel(together)).max() > 1e-3


@pytest.mark.slow
def test_the_energies_of_a_short_run_do_not_run_away():
    train, test = bnn_jax.load("ammonia").split(train=50, test=20, seed=0)
    sampler = {"num_chains": 2, "num_samples": 1, "convergence_steps": 300, "step_size_first": 2e-2}
    model = MODEL | {"num_blocks": 2, "cutoff": 4.0}
    config = Config.from_dict({"model": model, "sampler": CONFIG.to_dict()["sampler"] | sampler})
    posterior = sghmc.fit(jax.random.key(1), train, None, config, progress=False)
    offsets = (posterior.predict(test).energy_samples - test.energy).mean(axis=1)
    assert np.abs(offsets).max() < 2 * test.energy.std()
