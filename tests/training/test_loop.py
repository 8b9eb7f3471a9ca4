"""The loop of training on a toy: early stopping, best weights, plateau, and resume at any chunk."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bnn_jax.config import TrainerConfig
from bnn_jax.devices import chain_mesh
from bnn_jax.sampling import chain
from bnn_jax.training import Progress, Turn, begin, build_step, drive, init

DATA = jnp.asarray(np.random.default_rng(0).normal(size=(12, 3)), jnp.float32)
CONFIG = TrainerConfig(num_steps=60, log_every=7, batch_size=4, learning_rate=0.05, patience=100)


def value_and_grad(params, batch, key):
    def loss(params):
        noise = 0.01 * jax.random.normal(key, ())
        return jnp.mean((params["w"] - batch) ** 2) + noise * jnp.sum(params["w"]), jnp.float32(0)

    return jax.value_and_grad(loss, has_aux=True)(params)


def plan(first_step: int, num_steps: int) -> np.ndarray:
    return chain.minibatch_plan((0,), range(2), len(DATA), 4, first_step, num_steps)


def training(config: TrainerConfig = CONFIG):
    mesh = chain_mesh(1)
    chunk = chain.build_chunk(build_step(value_and_grad, config), lambda data, i: data[i], mesh)
    params = {"w": jnp.asarray([[3.0, -2.0, 1.0], [0.5, 0.5, 4.0]], jnp.float32)}
    keys = jax.random.split(jax.random.key(1), 2)
    states = jax.vmap(lambda key, start: init(key, start, config))(keys, params)
    data = chunk.place(DATA)
    lowered = chunk.lower(states, data, np.zeros((config.log_every, 2, 4), np.int32))
    return chunk, data, begin(states, lowered.out_info[1])


def run(config: TrainerConfig = CONFIG, valid_fn=None, start: Progress | None = None) -> Iterator[Turn]:
    chunk, data, fresh = training(config)
    return drive(start or fresh, chunk, data, plan, valid_fn, config)


def distance(params):
    """From a point on the way of the first network and beyond the second's."""
    return {"valid_loss": np.sum(np.abs(np.asarray(params["w"], np.float64)[:, :1] - 2.3), axis=1)}


def test_a_step_is_optax_and_an_average() -> None:
    _, _, start = training()
    (turn, *_) = run()
    assert int(turn.progress.step) == 1
    optimizer = optax.amsgrad(0.05)
    for member in range(2):
        params = {"w": jnp.asarray(jax.device_get(start.states.params["w"])[member])}
        batch = DATA[plan(0, 1)[0, member]]
        key = jax.random.fold_in(jax.random.split(jax.random.key(1), 2)[member], 0)
        _, gradient = value_and_grad(params, batch, key)
        updates, _ = optimizer.update(gradient, optimizer.init(params), params)
        expected = optax.apply_updates(params, updates)["w"]
        found = turn.progress.states
        np.testing.assert_allclose(found.params["w"][member], expected, rtol=1e-6)
        average = params["w"] + 0.9 * (expected - params["w"])  # decay (1 + 0) / (10 + 0)
        np.testing.assert_allclose(found.average["w"][member], average, rtol=1e-6)


@pytest.mark.parametrize("optimizer", ["amsgrad", "adam"])
def test_many_steps_are_optax_with_the_rate_of_the_schedule(optimizer: str) -> None:
    config = dataclasses.replace(CONFIG, optimizer=optimizer, average_decay=0.5)
    step, state = jax.jit(build_step(value_and_grad, config)), init(jax.random.key(2), {"w": jnp.ones(3)}, config)
    state = state._replace(rate_scale=jnp.float32(0.7))
    peer = getattr(optax, optimizer)(lambda t: 0.7 * 0.05 * 0.5 * (1 + jnp.cos(jnp.pi * t / 60)))
    params, memory, average = state.params, peer.init(state.params), np.ones(3)
    for t in range(40):
        # Gradients that shrink tell a running mean of their squares from its maximum.
        batch = DATA[:4] + (10.0 if t < 5 else 0.0)
        _, gradient = value_and_grad(params, batch, jax.random.fold_in(jax.random.key(2), t))
        updates, memory = peer.update(gradient, memory, params)
        params = optax.apply_updates(params, updates)
        average += (1 - min(0.5, (1 + t) / (10 + t))) * (np.asarray(params["w"]) - average)
        state, info = step(state, batch)
        assert info.gradient_norm == pytest.approx(float(jnp.linalg.norm(gradient["w"])), rel=1e-3)
    np.testing.assert_allclose(state.params["w"], params["w"], rtol=1e-4)
    np.testing.assert_allclose(state.average["w"], average, rtol=1e-4)


def test_a_step_that_breaks_the_weights_says_so_at_once() -> None:
    def broken(params, *_):
        return (jnp.float32(0), jnp.float32(0)), {"w": params["w"] * jnp.nan}

    state = init(jax.random.key(0), {"w": jnp.ones(3)}, CONFIG)
    assert not build_step(broken, CONFIG)(state, None)[1].is_finite


def test_best_weights_are_those_of_the_lowest_validation_loss() -> None:
    rows = [turn for turn in run(valid_fn=distance) if turn.row is not None]
    losses = np.array([turn.valid["valid_loss"] for turn in rows])
    last = rows[-1].progress
    np.testing.assert_array_equal(last.best_loss, losses.min(axis=0))
    np.testing.assert_array_equal(distance(last.best)["valid_loss"], losses.min(axis=0))
    assert (np.argmin(losses, axis=0) < len(rows) - 1).any()  # the toy overshoots: the last is not the best
    assert [len(turn.row.loss) for turn in rows] == [7] * 8 + [4]
    assert [int(turn.progress.step) for turn in rows] == [7, 14, 21, 28, 35, 42, 49, 56, 60]


def test_each_network_stops_by_itself() -> None:
    config = TrainerConfig(num_steps=600, log_every=7, batch_size=4, learning_rate=0.05, patience=3)

    def valid_fn(params):
        w = np.asarray(params["w"], np.float64)
        return {"valid_loss": np.array([w[0, 0] ** 2, -float(valid_fn.calls())])}  # the second improves for ever

    counter = iter(range(10_000))
    valid_fn.calls = lambda: next(counter)
    last = list(run(config, valid_fn))[-1].progress
    assert last.active.tolist() == [False, True]
    assert int(last.step) == 600
    assert last.num_since_best[1] == 0 and last.num_since_best[0] >= 3


def test_what_has_stopped_keeps_its_best() -> None:
    """The first would be better after it has stopped."""
    config = TrainerConfig(num_steps=70, log_every=7, batch_size=4, patience=2)
    counter = iter(range(10_000))

    def valid_fn(_):
        row = next(counter)
        return {"valid_loss": np.array([1.0 if row < 4 else 0.0, -float(row)])}

    rows = list(run(config, valid_fn))
    last, first = rows[-1].progress, next(turn for turn in rows if turn.row is not None).progress
    assert last.active.tolist() == [False, True] and last.best_loss.tolist() == [1.0, -9.0]
    np.testing.assert_array_equal(last.best["w"][0], first.best["w"][0])


def test_all_stopped_ends_the_run() -> None:
    config = TrainerConfig(num_steps=600, log_every=7, batch_size=4, patience=2)
    turns = list(run(config, lambda _: {"valid_loss": np.array([1.0, np.nan])}))
    last = turns[-1].progress
    assert not last.active.any() and int(last.step) == 21  # one row sets the best, two do not improve
    assert last.best_loss.tolist() == [1.0, np.inf]


def test_plateau_lowers_the_rate_of_the_network_that_stagnates() -> None:
    config = TrainerConfig(
        num_steps=70, log_every=7, batch_size=4, schedule="plateau", plateau_patience=2, plateau_factor=0.5
    )
    counter = iter(range(10_000))
    last = list(run(config, lambda _: {"valid_loss": np.array([1.0, -next(counter)])}))[-1].progress
    # Ten rows: the first is the best, then a halving after each two.
    np.testing.assert_allclose(last.states.rate_scale, [0.5**4, 1.0])
    np.testing.assert_allclose(last.infos.learning_rate[0], [config.learning_rate * 0.5**4, config.learning_rate])


def test_cosine_ends_at_zero() -> None:
    rates = np.concatenate([turn.row.learning_rate[:, 0] for turn in run() if turn.row is not None])
    expected = 0.05 * 0.5 * (1 + np.cos(np.pi * np.arange(60) / 60))
    np.testing.assert_allclose(rates, expected, rtol=1e-4)


def test_without_validation_the_last_average_is_kept() -> None:
    last = list(run())[-1].progress
    np.testing.assert_array_equal(last.best["w"], last.states.average["w"])


@pytest.mark.parametrize("cut", [0, 2, 5])
def test_resume_is_bit_for_bit(cut: int) -> None:
    whole = list(run(valid_fn=distance))
    middle = jax.tree.map(lambda leaf: leaf, whole[cut].progress)
    again = list(run(valid_fn=distance, start=middle))
    for one, other in zip(
        jax.tree.leaves(whole[-1].progress._replace(infos=None)),
        jax.tree.leaves(again[-1].progress._replace(infos=None)),
        strict=True,
    ):
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("valid_fn", [distance, lambda _: {"valid_loss": np.zeros(2)}, None])
def test_what_is_not_finite_stops_at_its_best(valid_fn) -> None:
    """Even where the validation does not see it."""

    def explosive(params, batch, key):
        (loss, square), gradient = value_and_grad(params, batch, key)
        falling = (2.0 < params["w"][2]) & (params["w"][2] < 3.78)  # the second network only, within a chunk
        broken = jnp.where(falling, jnp.nan, 1.0)
        return (loss, square), jax.tree.map(lambda leaf: leaf * broken, gradient)

    chunk = chain.build_chunk(build_step(explosive, CONFIG), lambda data, i: data[i], chain_mesh(1))
    _, data, start = training()
    last = list(drive(start, chunk, data, plan, valid_fn, CONFIG))[-1].progress
    assert last.is_finite.tolist() == [True, False] and last.active.tolist() == [True, False]
    assert np.isfinite(last.best["w"]).all() and last.best_loss[1] == np.inf
