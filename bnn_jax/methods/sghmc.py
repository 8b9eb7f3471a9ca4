"""The Bayesian neural network: chains of SGHMC over the weights, with log, checkpoints and resume."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from tqdm import tqdm

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.graph import PackedData, batch_size_needed, gather_batch, pack
from bnn_jax.atoms.statistics import Statistics
from bnn_jax.checkpoint import (
    RunFolder,
    append_jsonl,
    create_run,
    latest_checkpoint,
    open_run,
    save_checkpoint,
    truncate_jsonl,
)
from bnn_jax.config import Config
from bnn_jax.methods.base import Posterior, example_graph, fill_model_config
from bnn_jax.model import nequip
from bnn_jax.posterior import log_density_estimator, normal_log_prior, value_and_grad_estimator
from bnn_jax.sampling import chain, schedule
from bnn_jax.types import InputError, Params, PRNGKey

CHECKPOINT_SECONDS = 20.0
LOG_FILE = "log.jsonl"


class DivergenceError(RuntimeError):
    """A chain left the finite numbers; the last checkpoint before it is sound."""


class _Progress(NamedTuple):
    """What a checkpoint holds."""

    states: chain.ChainState
    samples: Params
    """Leaves [chain, sample, ...], zero where no sample has been taken yet."""
    num_samples: Array


def fit(
    rng_key: PRNGKey,
    train: Dataset,
    valid: Dataset | None,
    config: Config,
    *,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    metadata: Mapping[str, Any] | None = None,
) -> Posterior:
    """Sample the posterior of the weights with ``config.sampler.num_chains`` chains.

    Args:
        rng_key: of initial weights, noise and minibatches.
        train: training set.
        valid: validation set, whose force error the log shows; it does not influence the chains.
        config: the run's configuration.
        seed: that ``rng_key`` was made from, for the record.
        out: run folder for configuration, log, checkpoints and posterior; nothing is written without one.
        resume: continue the run in ``out``, if there is one, bit for bit as if it had not stopped.
        progress: show a progress bar on a terminal.
        metadata: further plain values for the record of a new run.

    Raises:
        InputError: the data or the configuration cannot be used, or ``out`` holds another run.
        DivergenceError: a chain's state is no longer finite.
    """
    _check(train, valid, config)
    statistics = train.statistics(config.model.cutoff)
    config = dataclasses.replace(config, model=fill_model_config(config.model, statistics))
    packed = pack(train, config.model.cutoff, statistics.species, statistics.shifts)
    valid_error = _valid_error(valid, config, statistics)
    run = None if out is None else _run_folder(Path(out), config, seed, train, valid, resume, metadata)
    chunk, plan, position = build_chains(rng_key, packed, config)
    chains = config.sampler.num_chains
    states = jax.vmap(chain.init)(jax.random.split(jax.random.fold_in(rng_key, 1), chains), position)
    start = _Progress(states, _room_for_samples(position, config.sampler.num_samples), jnp.zeros((), jnp.int32))
    if run is not None:
        start = _restore(run, start)
    final = _drive(start, chunk, plan, jax.device_put(packed), config, valid_error, run, progress)
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), final.samples)
    posterior = Posterior(config, statistics, flat, chains, seed)
    if run is not None:
        posterior.save(run.path)
    return posterior


def _check(train: Dataset, valid: Dataset | None, config: Config) -> None:
    sampler = config.sampler
    for name in ("num_samples", "num_chains", "batch_size", "convergence_steps", "cycle_steps", "log_every"):
        if getattr(sampler, name) < 1:
            raise InputError(f"sampler.{name} is {getattr(sampler, name)}; it must be at least 1.")
    for name in ("step_size_first", "step_size_last", "cycle_step_size", "stability"):
        if not getattr(sampler, name) > 0:
            raise InputError(f"sampler.{name} is {getattr(sampler, name)}; it must be positive.")
    if sampler.batch_size > len(train):
        raise InputError(
            f"sampler.batch_size is {sampler.batch_size} and the training set has {len(train)} structures; lower it."
        )
    if not np.isfinite(train.energy).any() and not np.isfinite(train.forces).any():
        raise InputError("The training set has no energy and no forces; give labelled structures or name their keys.")
    if valid is not None and (unknown := set(valid.species) - set(train.species)):
        raise InputError(
            f"The validation set has atomic numbers {sorted(unknown)} that the training set lacks;"
            " split them differently."
        )


def build_chains(rng_key: PRNGKey, packed: PackedData, config: Config) -> tuple[Callable, Callable, Params]:
    """What :func:`fit` runs.

    Args:
        rng_key: of the starts and the minibatches.
        packed: the training set.
        config: of the run, with the model's data-dependent fields filled in.

    Returns:
        The compiled chunk (:func:`chain.build_chunk`), the plan of minibatches (``(first_step, num_steps)`` to indices
        ``[step, chain, batch]``), and the starting weights with a leading chain axis.
    """
    sampler, data_size = config.sampler, len(packed.energy)
    potential = nequip(config.model)
    prior = lambda params: normal_log_prior(params, 0.0, config.posterior.prior_std)  # noqa: E731
    estimate = log_density_estimator(potential.apply, prior, data_size, config.posterior.stress_std)
    step = chain.build_step(value_and_grad_estimator(estimate), data_size, sampler)
    sizes = batch_bound(packed, sampler.batch_size)
    seed = tuple(np.asarray(jax.random.key_data(rng_key)).tolist())

    def plan(first_step: int, num_steps: int):
        return chain.minibatch_plan(seed, sampler.num_chains, data_size, sampler.batch_size, first_step, num_steps)

    keys = jax.random.split(jax.random.fold_in(rng_key, 0), sampler.num_chains)
    graph = example_graph(config.model)
    position = jax.jit(jax.vmap(lambda key: potential.init(key, graph)))(keys)
    minibatch = lambda data, indices: gather_batch(data, indices, *sizes)  # noqa: E731
    return chain.build_chunk(step, minibatch, sampler.num_chains), plan, position


def batch_bound(packed: PackedData, batch_size: int) -> tuple[int, int]:
    """Padded sizes that just hold any minibatch: one shape serves the whole run, so there is no need of a ladder."""
    atoms, edges = (np.sort(np.diff(offset))[-batch_size:].sum() for offset in (packed.node_offset, packed.edge_offset))
    return int(atoms) + 1, max(int(edges), 1)


def _room_for_samples(position: Params, num_samples: int) -> Params:
    return jax.tree.map(lambda leaf: jnp.zeros((leaf.shape[0], num_samples, *leaf.shape[1:]), leaf.dtype), position)


def _run_folder(
    path: Path,
    config: Config,
    seed: int,
    train: Dataset,
    valid: Dataset | None,
    resume: bool,
    metadata: Mapping[str, Any] | None,
) -> RunFolder:
    fingerprint = train.fingerprint()
    if not (resume and (path / "run.json").exists()):
        counts = {"num_train": len(train), "num_valid": 0 if valid is None else len(valid)}
        return create_run(path, config, seed=seed, data_fingerprint=fingerprint, metadata=counts | dict(metadata or {}))
    run = open_run(path)
    if run.record["data_fingerprint"] != fingerprint:
        raise InputError(f"{path} was sampled on other training data; give the same data or choose another --out.")
    if run.record["seed"] != seed or run.config != config:
        raise InputError(
            f"{path} has another seed or configuration; leave them out to resume, or choose another --out."
        )
    return run


def _restore(run: RunFolder, start: _Progress) -> _Progress:
    if not list(run.path.glob("checkpoint-*.safetensors")):
        truncate_jsonl(run.path / LOG_FILE, -1)
        return start
    step, progress = latest_checkpoint(run, start)
    truncate_jsonl(run.path / LOG_FILE, step)
    return progress


def _drive(
    start: _Progress,
    chunk: Callable,
    plan: Callable,
    data: PackedData,
    config: Config,
    valid_error: Callable[[Params], dict[str, float]],
    run: RunFolder | None,
    progress: bool,
) -> _Progress:
    sampler = config.sampler
    states, samples, num_samples = start.states, start.samples, int(start.num_samples)
    first = int(np.asarray(states.step).max())
    saved, rows = time.monotonic(), []
    with tqdm(
        total=schedule.total_steps(sampler), initial=first, unit="step", desc="fit", disable=None if progress else True
    ) as bar:
        for part in chain.drive(chunk, states, data, plan, sampler):
            _check_finite(part, run)
            states = part.states
            rows.append(part.infos)
            if part.is_sample:
                position = states.sampler.position
                samples = jax.tree.map(lambda all_, one, k=num_samples: all_.at[:, k].set(one), samples, position)
                num_samples += 1
            if part.step % sampler.log_every == 0 or part.is_sample:
                row = _log_row(part.step, num_samples, rows, valid_error(states.sampler.position))
                rows = []
                bar.set_postfix(loss=f"{row['loss']:.2f}", forces=f"{row.get('valid_forces_mae', float('nan')):.4f}")
                if run is not None:
                    append_jsonl(run.path / LOG_FILE, row)
            bar.update(part.step - bar.n)
            # Only between log rows, so that a resumed run averages each row over the same steps.
            due = part.is_sample or time.monotonic() - saved > CHECKPOINT_SECONDS
            if run is not None and due and not rows:
                save_checkpoint(run, part.step, _Progress(states, samples, jnp.asarray(num_samples, jnp.int32)))
                saved = time.monotonic()
    return _Progress(states, samples, jnp.asarray(num_samples, jnp.int32))


def _check_finite(part: chain.Chunk, run: RunFolder | None) -> None:
    finite = np.asarray(part.infos.sghmc.is_finite)
    if finite.all():
        return
    index, which = np.argwhere(~finite)[0]
    step = part.step - len(finite) + int(index) + 1
    cause = "gradient" if not np.isfinite(part.infos.sghmc.grad_norm[index, which]) else "state"
    kept = "" if run is None else f" The last checkpoint in {run.path} is sound."
    raise DivergenceError(
        f"Chain {which} diverged at step {step}: its {cause} is not finite; lower sampler.step_size_first and"
        f" sampler.cycle_step_size, or look for wrong labels.{kept}"
    )


def _log_row(step: int, num_samples: int, parts: list[chain.StepInfo], valid_error: dict[str, float]) -> dict[str, Any]:
    """Means over the steps since the last row and over chains."""
    infos = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    return {
        "step": step,
        "num_samples": num_samples,
        "loss": -float(infos.estimate.log_likelihood.mean()),
        "log_prior": float(infos.estimate.log_prior[-1].mean()),
        "train_forces_rmse": float(np.sqrt(infos.estimate.forces_square_error.mean())),
        **valid_error,
        "step_size": float(infos.step_size[-1, 0]),
        "temperature": float(infos.temperature[-1, 0]),
        "kinetic_temperature": float(infos.sghmc.kinetic_temperature.mean()),
        "configurational_temperature": float(infos.configurational_temperature.mean()),
        "gradient_norm": float(infos.sghmc.grad_norm.mean()),
        "noise_scale": float(infos.sghmc.noise_scale[-1].mean()),
    }


def _valid_error(valid: Dataset | None, config: Config, statistics: Statistics) -> Callable[[Params], dict[str, float]]:
    """Force errors of the chains' present positions on the validation set, in eV/Angstrom, mean over chains."""
    if valid is None or not np.isfinite(valid.forces).any():
        return lambda _: {}
    packed = pack(valid, config.model.cutoff, statistics.species, statistics.shifts)
    indices = np.arange(len(valid))
    sizes = batch_size_needed(packed, indices)
    apply = nequip(config.model).apply

    @jax.jit
    def errors(position: Params, packed: PackedData) -> tuple[Float[Array, " chain"], Float[Array, " chain"]]:
        batch = gather_batch(packed, indices, *sizes)
        mask = batch.labels.forces_mask[:, None]

        def one(params: Params) -> tuple[Array, Array]:
            error = jnp.where(mask, apply(params, batch.graph).forces - batch.labels.forces, 0)
            count = 3 * jnp.sum(mask)
            return jnp.sum(jnp.abs(error)) / count, jnp.sqrt(jnp.sum(error**2) / count)

        return jax.lax.map(one, position)

    on_device = jax.device_put(packed)

    def evaluate(position: Params) -> dict[str, float]:
        mae, rmse = errors(position, on_device)
        return {"valid_forces_mae": float(jnp.mean(mae)), "valid_forces_rmse": float(jnp.mean(rmse))}

    return evaluate
