"""Chains: the plan of minibatches, the stops of the driving loop, the frozen mass, and vmap against the plain loop."""

import functools
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnn_jax.config import SamplerConfig
from bnn_jax.devices import chain_mesh
from bnn_jax.sampling import amsgrad, chain, progress, schedule, sghmc

CONFIG = SamplerConfig(
    num_samples=3, batch_size=2, convergence_steps=20, cycle_steps=8, log_every=5, freeze_fraction=0.6, beta=0.9
)
DATA_SIZE = 10
SEED = (7, 8)
# A regression: rows of inputs and targets.
INPUTS = np.random.default_rng(0).normal(size=(DATA_SIZE, 3))
DATA = (INPUTS, INPUTS @ np.array([1.0, -2.0, 0.5]) + 0.1 * np.random.default_rng(1).normal(size=DATA_SIZE))


def value_and_grad_fn(position, minibatch):
    def log_density(position):
        inputs, targets = minibatch
        residual = inputs @ position["weights"] + position["bias"] - targets
        prior = -0.5 * (jnp.sum(position["weights"] ** 2) + position["bias"] ** 2)
        return prior - 0.5 * DATA_SIZE * jnp.mean(residual**2), jnp.mean(residual**2)

    return jax.value_and_grad(log_density, has_aux=True)(position)


def minibatch_fn(data, indices):
    return jax.tree.map(lambda leaf: leaf[indices], data)


STEP = chain.build_step(value_and_grad_fn, DATA_SIZE, CONFIG)


@functools.cache
def chunk_of(num_chains: int, devices_per_chain: int = 1):
    step = STEP
    if devices_per_chain > 1:
        step = chain.build_step(chain.mean_over_devices(value_and_grad_fn), DATA_SIZE, CONFIG)
    return chain.build_chunk(step, minibatch_fn, chain_mesh(num_chains, devices_per_chain))


def plan_fn(num_chains: int):
    def plan(first_step: int, num_steps: int):
        return chain.minibatch_plan(SEED, range(num_chains), DATA_SIZE, CONFIG.batch_size, first_step, num_steps)

    return plan


def start(num_chains: int) -> chain.ChainState:
    keys = jax.random.split(jax.random.key(3), num_chains)
    position = {"weights": 0.1 * jnp.arange(3.0 * num_chains).reshape(num_chains, 3), "bias": jnp.zeros(num_chains)}
    return jax.vmap(chain.init)(keys, position)


def run(num_chains: int, states: chain.ChainState | None = None, devices_per_chain: int = 1) -> list[progress.Turn]:
    states, plan = start(num_chains) if states is None else states, plan_fn(num_chains)
    chunk = chunk_of(num_chains, devices_per_chain)
    infos = chunk.lower(states, DATA, np.zeros((CONFIG.log_every, num_chains, CONFIG.batch_size), np.int32)).out_info[1]
    return list(progress.drive(progress.begin(states, infos, CONFIG), chunk, DATA, plan, CONFIG))


def key_free(states: chain.ChainState) -> chain.ChainState:
    return states._replace(rng_key=jax.random.key_data(states.rng_key))


def assert_same(first: chain.ChainState, second: chain.ChainState, **tolerance) -> None:
    check = np.testing.assert_allclose if tolerance else np.testing.assert_array_equal
    jax.tree.map(lambda a, b: check(a, b, **tolerance), key_free(first), key_free(second))


class TestNowAndThen:
    @staticmethod
    def steps_of_changes(every: int, end: int, first_steps: tuple[int, ...] = (0,)) -> list[list[int]]:
        """Of each chain, the steps before which something was done in ten turns."""
        states = jax.vmap(chain.init)(
            jax.random.split(jax.random.key(0), len(first_steps)), jnp.zeros(len(first_steps))
        )
        states = states._replace(step=jnp.asarray(first_steps))

        def fn(state: chain.ChainState, data: jnp.ndarray) -> chain.ChainState:
            return state._replace(sampler=state.sampler._replace(position=state.sampler.position + data))

        between, seen = jax.jit(chain.now_and_then(fn, every, end)), []
        for _ in range(10):
            new = between(states, jnp.asarray(1.0))
            seen.append(np.where(new.sampler.position > states.sampler.position, np.asarray(states.step), -1))
            states = new._replace(step=new.step + 1)
        return [[int(step) for step in steps if step >= 0] for steps in np.transpose(seen)]

    def test_it_is_done_at_multiples_before_the_end(self) -> None:
        assert self.steps_of_changes(3, 9) == [[3, 6]]
        assert self.steps_of_changes(3, 10) == [[3, 6, 9]]
        assert self.steps_of_changes(0, 10) == [[]]

    def test_each_chain_by_its_own_step(self) -> None:
        assert self.steps_of_changes(4, 12, (0, 1, 7)) == [[4, 8], [4, 8], [8]]


class TestMinibatchPlan:
    @pytest.mark.parametrize(("data_size", "batch_size"), [(12, 3), (13, 3), (5, 5), (7, 1)])
    def test_each_epoch_visits_no_datum_twice(self, data_size: int, batch_size: int) -> None:
        per_epoch = data_size // batch_size
        plan = chain.minibatch_plan(SEED, range(2), data_size, batch_size, 0, 4 * per_epoch)
        assert plan.shape == (4 * per_epoch, 2, batch_size)
        assert plan.min() >= 0 and plan.max() < data_size
        epochs = plan.reshape(4, per_epoch, 2, batch_size).swapaxes(1, 2).reshape(4, 2, -1)
        for visited in epochs.reshape(8, -1):
            assert len(set(visited)) == per_epoch * batch_size
        if data_size == 12:
            assert len({tuple(visited) for visited in epochs.reshape(8, -1)}) == 8  # epochs and chains all differ

    def test_what_a_remainder_leaves_out_comes_in_another_epoch(self) -> None:
        plan = chain.minibatch_plan(SEED, range(1), 5, 4, 0, 40)
        counts = np.bincount(plan.reshape(-1), minlength=5)
        # Of 40 epochs each leaves one of five out: 8 +- 2.5 times each.
        assert np.abs(counts - 32).max() < 4 * 2.5

    def test_does_not_depend_on_how_the_steps_are_cut(self) -> None:
        whole = chain.minibatch_plan(SEED, range(2), 11, 3, 0, 30)
        parts = [chain.minibatch_plan(SEED, range(2), 11, 3, first, 5) for first in range(0, 30, 5)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)

    def test_a_chain_draws_the_same_however_many_there_are(self) -> None:
        few, many = (chain.minibatch_plan(SEED, range(num_chains), 11, 3, 4, 10) for num_chains in (1, 3))
        np.testing.assert_array_equal(few[:, 0], many[:, 0])

    def test_another_seed_gives_another_plan(self) -> None:
        first, second = (chain.minibatch_plan(seed, range(1), 11, 3, 0, 10) for seed in (SEED, (7, 9)))
        assert (first != second).any()


def test_drive_stops_at_every_sample_and_every_log_row() -> None:
    turns = run(2)
    stops = [int(turn.progress.step) for turn in turns]
    rows = [stop for stop, turn in zip(stops, turns, strict=True) if turn.row is not None]
    assert rows == sorted({*range(5, 36, 5), *schedule.sample_steps(CONFIG).tolist()})
    counts = {stop: int(turn.progress.num_samples) for stop, turn in zip(stops, turns, strict=True)}
    assert [counts[step] for step in (19 if 19 in counts else 15, 20, 25, 28, 30, 36)] == [0, 1, 1, 2, 2, 3]
    assert stops[-1] == schedule.total_steps(CONFIG)
    np.testing.assert_array_equal(turns[-1].progress.states.step, [36, 36])
    step_sizes = np.concatenate([turn.row.step_size for turn in turns if turn.row is not None])
    assert step_sizes.shape == (36, 2)
    expected = [schedule.step_size(step, CONFIG) for step in range(36)]
    np.testing.assert_allclose(step_sizes[:, 0], expected, rtol=1e-5)


def test_samples_are_the_positions_at_the_sample_steps() -> None:
    turns = run(2)
    for index, step in enumerate(schedule.sample_steps(CONFIG)):
        (turn,) = (turn for turn in turns if turn.progress.step == step)
        for name in ("weights", "bias"):
            position = turn.progress.states.sampler.position[name]
            np.testing.assert_array_equal(turns[-1].progress.samples[name][:, index], position)


def test_chunks_do_not_matter() -> None:
    """In chunks of a growing length, of one step, and from the middle: the same bits."""
    whole = run(2)
    for turn in whole[:-1]:
        resumed = list(progress.drive(turn.progress, chunk_of(2), DATA, plan_fn(2), CONFIG))
        last, expected = resumed[-1], whole[-1]
        assert_same(last.progress.states, expected.progress.states)
        jax.tree.map(np.testing.assert_array_equal, last.row, expected.row)
        jax.tree.map(np.testing.assert_array_equal, last.progress.samples, expected.progress.samples)
    states = start(2)
    for step in range(36):
        plan = np.pad(plan_fn(2)(step, 1), ((0, CONFIG.log_every - 1), (0, 0), (0, 0)))
        states, _ = chunk_of(2)(states, DATA, plan, 1)
    assert_same(states, whole[-1].progress.states)


@pytest.mark.usefixtures("x64")
def test_vmapped_chains_equal_each_chain_alone() -> None:
    together = run(3)[-1].progress.states
    for index in range(3):
        states = jax.tree.map(lambda leaf, i=index: leaf[i : i + 1], start(3))
        step = jax.jit(STEP)
        alone = jax.tree.map(lambda leaf: leaf[0], states)
        for row in range(36):
            indices = chain.minibatch_plan(SEED, range(3), DATA_SIZE, CONFIG.batch_size, row, 1)[0, index]
            alone, _ = step(alone, minibatch_fn(DATA, indices))
        assert_same(alone, jax.tree.map(lambda leaf, i=index: leaf[i], together), rtol=1e-9, atol=1e-12)


def assert_no_device_waits_for_another() -> None:
    """Collectives stop a process where one device is late, and chains have nothing to tell each other."""
    plan = np.zeros((CONFIG.log_every, 2, CONFIG.batch_size), np.int32)
    text = chunk_of(2).lower(start(2), DATA, plan).compile().as_text()
    assert not [line for line in text.splitlines() if re.search("all-reduce|all-gather|all-to-all|permute", line)]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("num_chains", "devices_per_chain", "used"), [(2, 1, 2), (4, 1, 4), (4, 2, 8), (1, 2, 2)])
def test_chains_on_several_devices_equal_those_on_one(
    num_chains: int, devices_per_chain: int, used: int, tmp_path: Path
) -> None:
    """The number of devices is fixed when a process starts, so another one has eight."""
    command = f"""
import sys, numpy, jax
jax.config.update("jax_enable_x64", True)
from tests.sampling import test_chain as t
assert len(jax.devices()) == 8
assert t.chunk_of({num_chains}, {devices_per_chain}).sharding.mesh.devices.size == {used}
if {devices_per_chain} == 1:
    t.assert_no_device_waits_for_another()
turns = t.run({num_chains}, devices_per_chain={devices_per_chain})
numpy.savez(sys.argv[1], **turns[-1].progress.samples)
"""
    root, file = Path(__file__).parents[2], tmp_path / "samples.npz"
    variables = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", command, str(file)], cwd=root, env=variables, check=True)
    samples = run(num_chains)[-1].progress.samples
    with np.load(file) as elsewhere:
        for name in ("weights", "bias"):
            assert elsewhere[name].shape[:2] == (num_chains, CONFIG.num_samples)
            np.testing.assert_allclose(elsewhere[name], samples[name], rtol=1e-9)


def test_chains_differ() -> None:
    keys = jax.random.split(jax.random.key(3), 2)
    position = {"weights": jnp.ones((2, 3)), "bias": jnp.zeros(2)}
    states = run(2, states=jax.vmap(chain.init)(keys, position))[-1].progress.states
    weights = states.sampler.position["weights"]
    assert np.abs(weights[0] - weights[1]).min() > 1e-4


def test_mass_is_frozen_and_stays_so() -> None:
    step, freeze = jax.jit(STEP), schedule.freeze_step(CONFIG)
    assert freeze == 12
    states, masses = jax.tree.map(lambda leaf: leaf[0], start(1)), []
    for row in range(36):
        indices = chain.minibatch_plan(SEED, range(1), DATA_SIZE, CONFIG.batch_size, row, 1)[0, 0]
        states, _ = step(states, minibatch_fn(DATA, indices))
        masses.append(states.mass)
    assert [int(mass.count) for mass in masses] == [min(step, freeze) for step in range(1, 37)]
    frozen = masses[freeze - 1]
    for mass in masses[freeze:]:
        jax.tree.map(np.testing.assert_array_equal, mass, frozen)
        jax.tree.map(
            np.testing.assert_array_equal,
            amsgrad.inverse_mass(mass, CONFIG.beta, CONFIG.stability),
            amsgrad.inverse_mass(frozen, CONFIG.beta, CONFIG.stability),
        )
    assert (masses[freeze - 2].mean_square["weights"] != frozen.mean_square["weights"]).all()


@pytest.mark.usefixtures("x64")
def test_mass_equals_a_plain_loop_over_the_gradients() -> None:
    """Of the mean gradients at the positions that the chain went through."""
    step, state = jax.jit(STEP), jax.tree.map(lambda leaf: leaf[0], start(1))
    mean_square = maximum = np.zeros(4)
    for row in range(schedule.freeze_step(CONFIG)):
        indices = chain.minibatch_plan(SEED, range(1), DATA_SIZE, CONFIG.batch_size, row, 1)[0, 0]
        inputs, targets = DATA[0][indices], DATA[1][indices]
        weights, bias = (np.asarray(state.sampler.position[name]) for name in ("weights", "bias"))
        residual = inputs @ weights + bias - targets
        design = np.column_stack([inputs, np.ones(len(inputs))])
        gradient = np.append(weights, bias) / DATA_SIZE + design.T @ residual / len(inputs)
        mean_square = CONFIG.beta * mean_square + (1 - CONFIG.beta) * gradient**2
        maximum = np.maximum(maximum, mean_square)
        state, info = step(state, (inputs, targets))
        np.testing.assert_allclose(info.sghmc.grad_norm, np.linalg.norm(gradient), rtol=1e-10)
    for tree, expected in ((state.mass.mean_square, mean_square), (state.mass.maximum, maximum)):
        np.testing.assert_allclose(np.append(tree["weights"], tree["bias"]), expected, rtol=1e-10)


def test_step_equals_the_kernel_with_the_new_mass() -> None:
    """Algorithm 1 in its order: mass first, then momentum and position, noise from the key and the step's number."""
    state = jax.tree.map(lambda leaf: leaf[0], start(1))
    minibatch = minibatch_fn(DATA, np.array([1, 4]))
    (_, _), gradient = value_and_grad_fn(state.sampler.position, minibatch)
    mass = amsgrad.update(state.mass, jax.tree.map(lambda g: g / DATA_SIZE, gradient), CONFIG.beta)
    expected, _ = sghmc.build_kernel(CONFIG.alpha, DATA_SIZE)(
        jax.random.fold_in(state.rng_key, 0),
        state.sampler,
        lambda position, minibatch: value_and_grad_fn(position, minibatch)[1],
        minibatch,
        CONFIG.step_size_first,
        amsgrad.inverse_mass(mass, CONFIG.beta, CONFIG.stability),
        CONFIG.temperature,
    )
    new, info = STEP(state, minibatch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), new.sampler.position, expected.position)
    # The first step's momentum is at rest, so with one step size another number differs in its noise alone.
    later, _ = chain.build_step(value_and_grad_fn, DATA_SIZE, replace(CONFIG, step_size_last=CONFIG.step_size_first))(
        state._replace(step=jnp.asarray(1, jnp.int32)), minibatch
    )
    assert (later.sampler.position["weights"] != new.sampler.position["weights"]).all()
    assert int(new.step) == 1
    np.testing.assert_allclose(info.step_size, CONFIG.step_size_first, rtol=1e-6)
