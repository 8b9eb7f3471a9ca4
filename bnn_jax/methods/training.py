"""Networks trained side by side for the methods that train: from data and a loss to the best averaged weights."""

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.graph import PackedData, batch_bound, batch_size_needed, gather_batch, pack
from bnn_jax.checkpoint import RunFolder
from bnn_jax.config import Config, TrainerConfig
from bnn_jax.devices import chain_mesh
from bnn_jax.memory import COMPILATION_BYTES, peak_bytes, require_memory
from bnn_jax.methods import recorder
from bnn_jax.methods.base import Posterior, example_graph
from bnn_jax.methods.preparation import Anchors, Prepared, check_batch_size, choose_anchors, prepare
from bnn_jax.sampling import chain
from bnn_jax.training import Optimizer, Progress, TrainInfo, TrainState, Turn, begin, build_step, drive, init
from bnn_jax.types import Batch, Params, Potential, Prediction, PRNGKey

STRUCTURES_PER_VALIDATION = 64
_LESS_MEMORY = "lower trainer.batch_size, ensemble.num_members or model.num_features, or use a larger machine"

LossFn = Callable[[Params, Batch, PRNGKey | None], tuple[Float[Array, ""], Prediction]]
"""``loss_fn(params, batch, rng_key) -> (loss, prediction)``; the key is None for validation."""


class Task(NamedTuple):
    """What is trained."""

    potential: Potential
    loss_fn: LossFn
    members: tuple[int, ...] | range = (0,)
    """Numbers of the networks: each one's initial weights and minibatches follow from its own."""
    shared_batches: bool = False
    """Whether all see the minibatches of network 0."""
    bootstrap: bool = False
    """Whether each sees a training set of its own, drawn with replacement."""
    optimizer: Optimizer | None = None
    """In place of the one that ``config.trainer`` names."""


def fit_networks(
    rng_key: PRNGKey,
    train: Dataset,
    valid: Dataset | None,
    config: Config,
    task_fn: Callable[[Config], Task],
    *,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    metadata: Mapping[str, Any] | None = None,
) -> Posterior:
    """Train networks by the optimiser, schedule and early stopping of ``config.trainer``.

    Args:
        rng_key: of initial weights, minibatches and what the loss draws.
        train: training set.
        valid: validation set, whose loss decides when to stop and which weights to keep.
        config: of the run.
        task_fn: what is trained, given the configuration with the model's data-dependent fields filled in.
        seed: that ``rng_key`` was made from, for the record.
        out: run folder for configuration, log and checkpoints; nothing is written without one.
        resume: continue the run in ``out``, if there is one, bit for bit as if it had not stopped.
        progress: show a progress bar on a terminal.
        metadata: further plain values for the record of a new run.

    Returns:
        A posterior whose samples are the averaged weights of each network with the lowest validation loss.

    Raises:
        InputError: the data or the configuration cannot be used, ``out`` holds another run, or memory or disk will not
            suffice.
        DivergenceError: a network left the numbers before its first validation.
        LostProcessError: another process of the run has ended.
    """
    check_batch_size(config.trainer.batch_size, train, "trainer.batch_size")
    prepared = prepare(train, valid, config)
    config, trainer = prepared.config, prepared.config.trainer
    task = _task(task_fn, config)
    out = None if out is None else Path(out)
    fingerprint = train.fingerprint()
    run = None if out is None else recorder.find(out, config, seed, fingerprint, resume)
    require_memory(COMPILATION_BYTES, "the compilation of the network", _LESS_MEMORY)
    chunk, plan, states = build_training(rng_key, prepared, task)
    data = chunk.place(prepared.packed)
    lowered = chunk.lower(states, data, np.zeros((trainer.log_every, *plan(0, 1).shape[1:]), np.int32))
    step_bytes = peak_bytes(lowered)
    require_memory(step_bytes, "a step of this network on batches of this size", _LESS_MEMORY)
    valid_fn = None if valid is None else _validation(valid, prepared, task.loss_fn)
    start = begin(states, lowered.out_info[1])
    counts = {"num_train": len(train), "num_valid": 0 if valid is None else len(valid), "step_bytes": step_bytes}
    run_plan = recorder.RunPlan(config, seed, fingerprint, trainer.num_steps, out, counts | dict(metadata or {}))

    def reports_fn(start: Progress, run: RunFolder | None) -> Iterator[recorder.Report]:
        del run
        return _reports(drive(start, chunk, data, plan, valid_fn, trainer), start)

    final = recorder.carry_out(start, reports_fn, run, run_plan, progress)
    samples = jax.tree.map(jnp.asarray, final.best)
    return Posterior(config, prepared.statistics, samples, 1, seed, train_hashes=train.hashes())


@functools.lru_cache(maxsize=8)  # one and the same task for equal configurations, so that their runs share compilations
def _task(task_fn: Callable[[Config], Task], config: Config) -> Task:
    return task_fn(config)


def build_training(rng_key: PRNGKey, prepared: Prepared, task: Task) -> tuple[chain.Chunk, Callable, Any]:
    """What :func:`fit_networks` runs: the compiled chunk, the plan of minibatches, the networks at their start."""
    config, packed, members = prepared.config, prepared.packed, np.asarray(task.members)
    seed = tuple(np.asarray(jax.random.key_data(rng_key)).tolist())
    data_size, batch_size = len(packed.energy), config.trainer.batch_size
    sizes = batch_bound(packed, batch_size, repeated=task.bootstrap)

    def plan(first_step: int, num_steps: int) -> Int[np.ndarray, "step member batch"]:
        streams = [0] * len(members) if task.shared_batches else members.tolist()
        chosen = chain.minibatch_plan(seed, streams, data_size, batch_size, first_step, num_steps)
        if not task.bootstrap:
            return chosen
        tables = [np.random.default_rng([*seed, int(m), 1]).integers(data_size, size=data_size) for m in members]
        return np.stack([table[chosen[:, i]] for i, table in enumerate(tables)], axis=1).astype(np.int32)

    anchors = choose_anchors(packed, batch_size)
    states = _start(task, config)(rng_key, anchors.batch(packed))
    return _chunk(task, config.trainer, sizes, anchors), plan, states


@functools.lru_cache(maxsize=8)
def _chunk(task: Task, trainer: TrainerConfig, sizes: tuple[int, int], anchors: Anchors) -> chain.Chunk:
    def loss(params: Params, batch: Batch, key: PRNGKey) -> tuple[Array, Array]:
        value, prediction = task.loss_fn(params, batch, key)
        _, square, count = _errors(prediction, batch)
        return value, square / jnp.maximum(count, 1)

    centre = anchors.centre_fn(task.potential)

    def centred(state: TrainState, data: PackedData) -> TrainState:
        return state._replace(params=centre(state.params, data))

    step = build_step(jax.value_and_grad(loss, has_aux=True), trainer, task.optimizer)
    minibatch = lambda data, indices: gather_batch(data, indices, *sizes)  # noqa: E731
    turn = chain.now_and_then(centred, trainer.centre_every, trainer.num_steps)
    return chain.build_chunk(step, minibatch, chain_mesh(len(task.members)), turn)


@functools.lru_cache(maxsize=8)
def _start(task: Task, config: Config) -> Callable[[PRNGKey, Batch], Any]:
    """Jitted: the networks at their start, from the key of the run and training structures."""
    graph, members = example_graph(config.model), jnp.asarray(task.members)

    def start(rng_key: PRNGKey, batch: Batch) -> Any:
        def one(member: Array) -> Any:
            weight_key, step_key = jax.random.split(jax.random.fold_in(rng_key, member))
            params = task.potential.start(task.potential.init(weight_key, graph), batch)
            return init(step_key, params, config.trainer, task.optimizer)

        return jax.lax.map(one, members)

    return jax.jit(start)


def _errors(prediction: Prediction, batch: Batch) -> tuple[Array, Array, Array]:
    """Sums of the absolute values and of the squares of the labelled force errors, and their number."""
    mask = batch.labels.forces_mask[:, None]
    error = jnp.where(mask, prediction.forces - batch.labels.forces, 0)
    return jnp.sum(jnp.abs(error)), jnp.sum(error**2), 3 * jnp.sum(mask)


def _validation(
    valid: Dataset, prepared: Prepared, loss_fn: LossFn
) -> Callable[[Params], dict[str, Float[np.ndarray, " member"]]]:
    """Loss and force errors (eV/Angstrom) of weights [member, ...] on the validation set."""
    config, statistics = prepared.config, prepared.statistics
    packed = pack(valid, config.model.cutoff, statistics.species, statistics.shifts)
    parts = np.array_split(np.arange(len(valid)), -(-len(valid) // STRUCTURES_PER_VALIDATION))
    plan = np.full((len(parts), len(parts[0])), -1, np.int32)
    for row, part in zip(plan, parts, strict=True):
        row[: len(part)] = part
    figures = _figures(loss_fn, batch_size_needed(packed, plan))
    weights = np.array([len(part) for part in parts]) / len(valid)
    on_device = jax.device_put(packed)

    def evaluate(params: Params) -> dict[str, np.ndarray]:
        loss, absolute, square, count = (np.asarray(value, np.float64) for value in figures(params, on_device, plan))
        count = np.maximum(count.sum(axis=1), 1)
        return {
            "valid_loss": (loss * weights).sum(axis=1),
            "valid_forces_mae": absolute.sum(axis=1) / count,
            "valid_forces_rmse": np.sqrt(square.sum(axis=1) / count),
        }

    return evaluate


@functools.lru_cache(maxsize=8)
def _figures(loss_fn: LossFn, sizes: tuple[int, int]) -> Callable[..., tuple[Array, ...]]:
    """Jitted: loss and sums of errors [member, batch] of weights on the batches of a plan."""

    def figures(params: Params, packed: PackedData, plan: Int[Array, "batch structure"]) -> tuple[Array, ...]:
        def one_batch(member: Params, indices: Array) -> tuple[Array, ...]:
            batch = gather_batch(packed, indices, *sizes)
            loss, prediction = loss_fn(member, batch, None)
            return loss, *_errors(prediction, batch)

        def one(member: Params) -> tuple[Array, ...]:
            return jax.lax.map(lambda indices: one_batch(member, indices), plan)

        return jax.lax.map(one, params)

    return jax.jit(figures)


def _reports(turns: Iterator[Turn], start: Progress) -> Iterator[recorder.Report]:
    """The turns of :func:`bnn_jax.training.drive`, in words and numbers."""
    progress = start
    for turn in turns:
        progress = turn.progress
        if turn.row is None:
            yield recorder.Report(progress)
            continue
        row = _log_row(progress, turn.row, turn.valid)
        shown = {"loss": f"{row['loss']:.3f}", "forces": f"{row.get('valid_forces_mae', np.nan):.4f}"}
        yield recorder.Report(progress, [row], shown, is_sound=bool(progress.is_finite.all()))
        lost = ~progress.is_finite & np.isinf(progress.best_loss)
        if lost.any():
            raise recorder.DivergenceError(
                f"Network {int(np.argmax(lost))} was not finite at step {int(progress.step)}, before its first"
                " validation; lower trainer.learning_rate, or look for wrong labels."
            )


def _log_row(progress: Progress, infos: TrainInfo, valid: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Means over the steps since the last row and over the networks."""
    return {
        "step": int(progress.step),
        "loss": float(infos.loss.mean()),
        "train_forces_rmse": float(np.sqrt(infos.forces_square_error.mean())),
        **{name: float(values.mean()) for name, values in valid.items()},
        "learning_rate": float(infos.learning_rate[-1].mean()),
        "gradient_norm": float(infos.gradient_norm.mean()),
        "num_active": int(progress.active.sum()),
        "num_finite": int(progress.is_finite.sum()),
        "num_events": progress.num_events,
    }
