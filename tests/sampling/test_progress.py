"""A chain that diverges is stopped, or repeats with half its step size, and the others do not feel it."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnn_jax.config import SamplerConfig
from bnn_jax.devices import chain_mesh
from bnn_jax.sampling import chain, guard, progress, schedule

# No step adapts the mass, which would tame what is to diverge.
CONFIG = SamplerConfig(
    num_samples=3, num_chains=2, batch_size=2, convergence_steps=20, cycle_steps=8, log_every=5, freeze_fraction=0.0,
    step_size_first=64.0, step_size_last=16.0, cycle_step_size=16.0, temperature=0.01,
)  # fmt: skip
DATA_SIZE = 10
NUM_COORDINATES = 50
SAMPLES = schedule.sample_steps(CONFIG).tolist()


def quartic(position, minibatch):
    """Stable near zero; from far away every step overshoots by more, unless it is short."""

    def log_density(position):
        return -jnp.sum(position**4) / 4 + 0 * jnp.sum(minibatch), jnp.zeros(())

    return jax.value_and_grad(log_density, has_aux=True)(position)


def ending(position, minibatch, last=1e4):
    """Quartic, but its gradient is NaN where a coordinate is far away."""
    (value, aux), gradient = quartic(position, minibatch)
    return (value, aux), jnp.where(jnp.abs(position).max() > last, jnp.nan, gradient)


def plan_fn(first_step, num_steps):
    return chain.minibatch_plan((1, 2), range(2), DATA_SIZE, CONFIG.batch_size, first_step, num_steps)


@functools.cache
def chunk_of(value_and_grad_fn=quartic):
    step = chain.build_step(value_and_grad_fn, DATA_SIZE, CONFIG)
    return chain.build_chunk(step, lambda data, indices: data[indices], chain_mesh(2))


DATA = np.zeros(DATA_SIZE, np.float32)


def begin(starts, chunk):
    position = jnp.outer(jnp.asarray(starts), jnp.ones(NUM_COORDINATES))
    states = jax.vmap(chain.init)(jax.random.split(jax.random.key(3), 2), position)
    plan = np.zeros((CONFIG.log_every, 2, CONFIG.batch_size), np.int32)
    return progress.begin(states, chunk.lower(states, DATA, plan).out_info[1], CONFIG)


def run(starts, on_divergence="stop", value_and_grad_fn=quartic, start=None):
    chunk = chunk_of(value_and_grad_fn)
    start = begin(starts, chunk) if start is None else start
    return list(progress.drive(start, chunk, DATA, plan_fn, CONFIG, on_divergence))


def key_free(tree):
    return jax.tree.map(
        lambda leaf: jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf, tree
    )


def assert_same(first, second):
    jax.tree.map(np.testing.assert_array_equal, key_free(first), key_free(second))


def of_chain(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], key_free(tree))


def test_without_divergence_nothing_is_found():
    turns = run([0.1, 0.2])
    assert not any(turn.divergences for turn in turns)
    last = turns[-1].progress
    assert last.active.all() and last.num_events == 0 and int(last.num_samples) == 3
    assert 0.005 < (last.kinetic_temperature / last.num_kinetic).mean() < 0.015
    assert int(last.num_kinetic) == 16


def test_a_chain_that_diverges_stops_and_the_other_goes_on():
    turns, sound = run([0.1, 3.0]), run([0.1, 0.2])
    (found,) = [divergence for turn in turns for divergence in turn.divergences]
    assert found.chain == 1 and found.cause in (guard.GRADIENT, guard.STATE, guard.ENERGY, guard.HOT)
    last = turns[-1].progress
    assert last.active.tolist() == [True, False]
    assert last.stopped_step.tolist() == [-1, found.step] and last.stopped_cause[1] == found.cause
    assert int(last.step) == schedule.total_steps(CONFIG)
    assert_same(of_chain(last.states, 0), of_chain(sound[-1].progress.states, 0))
    assert_same(last.samples[0], sound[-1].progress.samples[0])
    # It stays where it was last sound, and the log's rows are of the other one alone.
    assert_same(of_chain(last.states, 1), of_chain(last.good_states, 1))
    assert int(last.states.step[1]) < found.step and np.isfinite(last.states.sampler.position[1]).all()
    rows = [turn.row for turn in turns if turn.row is not None]
    assert [row.step_size.shape[1] for row in rows] == len(rows) * [1]
    for row, other in zip(rows, [turn.row for turn in sound if turn.row is not None], strict=True):
        np.testing.assert_array_equal(row.potential_energy[:, 0], other.potential_energy[:, 0])


def test_when_all_have_stopped_the_loop_ends():
    turns = run([3.0, 3.0])
    assert not turns[-1].progress.active.any() and turns[-1].row is None
    assert int(turns[-1].progress.step) < schedule.total_steps(CONFIG)


def test_half_the_step_size_until_it_is_stable():
    turns, sound = run([0.1, 3.0], "halve-step"), run([0.1, 0.2])
    found = [divergence for turn in turns for divergence in turn.divergences]
    last = turns[-1].progress
    assert last.active.all() and int(last.num_samples) == 3
    assert last.num_halvings.tolist() == [0, len(found)] and len(found) >= 1
    assert last.states.step_scale.tolist() == [1.0, 0.5 ** len(found)]
    assert np.isfinite(last.samples).all() and np.abs(last.samples[1]).max() < 3
    # The other chain repeats its steps to the same bits.
    assert_same(of_chain(last.states, 0), of_chain(sound[-1].progress.states, 0))
    assert_same(last.samples[0], sound[-1].progress.samples[0])
    # The turn that found it is back at the last row, where the momentum took the shorter step in.
    for before, turn in itertools.pairwise(turns):
        if turn.divergences:
            assert int(turn.progress.step) == int(turn.progress.states.step[0]) <= int(before.progress.step)
            assert int(turn.progress.num_infos) == 0 and turn.row is None
    step_sizes = np.concatenate([turn.row.step_size for turn in turns if turn.row is not None])
    np.testing.assert_allclose(step_sizes[:, 1], step_sizes[:, 0] * 0.5 ** len(found), rtol=1e-6)


def test_half_the_step_size_keeps_the_physical_momentum():
    """sqrt(gamma) v is that of the longer step; its kinetic temperature is the same."""
    state = run([0.1, 0.2])[-1].progress.states
    halved = jax.vmap(chain.halve_step)(state)
    np.testing.assert_allclose(halved.sampler.momentum, np.sqrt(2) * state.sampler.momentum, rtol=1e-6)
    assert halved.step_scale.tolist() == [0.5, 0.5]


def test_halvings_come_to_an_end(monkeypatch):
    monkeypatch.setattr(progress, "MAX_HALVINGS", 1)
    turns = run([0.1, 30.0], "halve-step")
    last = turns[-1].progress
    assert last.active.tolist() == [True, False] and last.num_halvings[1] == 1
    assert int(last.num_samples) == 3


@pytest.mark.parametrize("on_divergence", ["stop", "halve-step"])
def test_going_on_from_any_turn_changes_nothing(on_divergence):
    """Also from turns between rows, before and after what was found."""
    turns = run([0.1, 3.0], on_divergence)
    for turn in turns[:-1]:
        again = run(None, on_divergence, start=turn.progress)
        # Not the columns of a stopped chain among the infos, which mean nothing.
        assert_same(again[-1].progress._replace(infos=None), turns[-1].progress._replace(infos=None))
        assert_same(again[-1].row, turns[-1].row)


def test_cause_and_step_do_not_depend_on_the_chunks():
    turns = run([0.1, 3.0], value_and_grad_fn=ending)
    (found,) = [divergence for turn in turns for divergence in turn.divergences]
    assert found.cause == guard.GRADIENT
    chunk, position = chunk_of(ending), None
    states = begin([0.1, 3.0], chunk).states
    for step in range(1, found.step + 1):
        plan = np.zeros((CONFIG.log_every, 2, CONFIG.batch_size), np.int32)
        position = states.sampler.position[1]
        assert np.isfinite(position).all()
        states, infos = chunk(states, DATA, plan, 1)
        assert np.isfinite(infos.sghmc.grad_norm[0, 1]) == (step < found.step)
    assert np.abs(position).max() > 1e4


class TestGuard:
    def test_what_is_not_finite_is_found_at_its_first_step(self):
        is_finite = np.ones((4, 3), bool)
        energy, grad_norm = np.ones((4, 3)), np.ones((4, 3))
        is_finite[2:, 1] = False
        energy[3, 2], grad_norm[2, 2] = np.nan, np.inf
        found = guard.not_finite(is_finite, energy, grad_norm, 100)
        assert found == [guard.Divergence(1, 103, guard.STATE), guard.Divergence(2, 103, guard.GRADIENT)]

    @pytest.mark.parametrize("temperature, bound", [(1.0, 100.0), (0.01, 100.0), (4.0, 400.0)])
    def test_kinetic_temperature(self, temperature, bound):
        kinetic = np.full((5, 2), 0.99 * bound)
        kinetic[:2, 0] = 1e9  # two outliers of five are none
        arguments = (np.zeros((5, 2)), np.zeros(2), 10, temperature, 7)
        assert guard.out_of_bounds(kinetic, *arguments) == []
        kinetic[:3, 1] = 1.01 * bound
        assert guard.out_of_bounds(kinetic, *arguments) == [guard.Divergence(1, 7, guard.HOT)]

    def test_energy(self):
        first = np.array([5.0, -5.0])
        energy = first + np.full((5, 2), 999.0)
        arguments = (first, 10, 1.0, 7)
        assert guard.out_of_bounds(np.ones((5, 2)), energy, *arguments) == []
        energy[2:, 0] += 2
        assert guard.out_of_bounds(np.ones((5, 2)), energy, *arguments) == [guard.Divergence(0, 7, guard.ENERGY)]

    def test_one_finding_a_chain(self):
        found = guard.out_of_bounds(np.full((5, 1), 1e9), np.full((5, 1), 1e9), np.zeros(1), 10, 1.0, 7)
        assert len(found) == 1
