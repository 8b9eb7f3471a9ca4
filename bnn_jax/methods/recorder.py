"""What a run of chains writes as it goes: log, checkpoints, progress bar; and how it goes on after a kill."""

import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from bnn_jax.checkpoint import (
    RunFolder,
    append_jsonl,
    environment,
    has_checkpoint,
    latest_checkpoint,
    open_run,
    refuse_occupied,
    save_checkpoint,
    truncate_jsonl,
)
from bnn_jax.config import Config
from bnn_jax.devices import in_any_process, is_first, whole
from bnn_jax.sampling import chain, guard, schedule
from bnn_jax.sampling.progress import Progress, Turn
from bnn_jax.types import InputError, Params

CHECKPOINT_SECONDS = 20.0
LOG_FILE = "log.jsonl"
_log = logging.getLogger(__name__)


class DivergenceError(RuntimeError):
    """Every chain left what a sampler can reach; the last checkpoint before that is sound."""


class LostProcessError(RuntimeError):
    """One of the processes of a run is gone, and the others cannot go on without it."""


def find(path: Path, config: Config, seed: int, fingerprint: str, resume: bool) -> RunFolder | None:
    """The run to continue, or None where a new one can be made; nothing is written.

    Args:
        path: of the folder.
        config: with the model's data-dependent fields filled in.
        seed: of the run.
        fingerprint: of the training data.
        resume: whether a run that is there may be continued.

    Raises:
        InputError: the folder is occupied, or holds another run.
    """
    if not (resume and (path / "run.json").exists()):
        refuse_occupied(path, config)
        return None
    run = open_run(path)
    if run.record["data_fingerprint"] != fingerprint:
        raise InputError(f"{path} was sampled on other training data; give the same data or choose another --out.")
    if run.record["seed"] != seed or run.config != config:
        raise InputError(
            f"{path} has another seed or configuration; leave them out to resume, or choose another --out."
        )
    return run


def restore(run: RunFolder, start: Progress) -> Progress:
    """The progress of the newest sound checkpoint, with the log cut back to it; ``start`` where there is none.

    Only the first process of a run touches the log.

    Raises:
        InputError: no checkpoint is sound, or it does not fit the run.
    """
    if not has_checkpoint(run):
        if is_first():
            truncate_jsonl(run.path / LOG_FILE, lambda _: False)
        return start
    step, progress = latest_checkpoint(run, start)
    if not is_first():
        return progress
    truncate_jsonl(
        run.path / LOG_FILE, lambda row: row["step"] <= step and row.get("num_events", 0) <= progress.num_events
    )
    here, there = environment(), run.record["environment"]
    differing = [f"{key} {here[key]} instead of {there.get(key)}" for key in here if here[key] != there.get(key)]
    kind = f"the same to rounding ({', '.join(differing)})" if differing else "the same bit for bit"
    _log.info("%s goes on from step %d: as if it had not stopped, %s.", run.path, step, kind)
    return progress


def record(
    turns: Iterator[Turn],
    start: Progress,
    run: RunFolder | None,
    config: Config,
    valid_error: Callable[[Params], dict[str, np.ndarray]],
    show_progress: bool,
) -> Progress:
    """Take the turns of :func:`bnn_jax.sampling.progress.drive` to their end, and write what they give.

    Args:
        turns: of the loop that began with ``start``.
        start: progress before the first turn.
        run: folder to write log and checkpoints into; nothing is written without one.
        config: of the run.
        valid_error: errors of each chain's position on the validation set, for the log.
        show_progress: show a progress bar on a terminal.

    Raises:
        InputError: the disk is full or not writable; the last checkpoint is intact.
        DivergenceError: all chains were stopped.
        LostProcessError: another process of the run has ended.
        KeyboardInterrupt: Ctrl-C or SIGTERM arrived in some process, after a checkpoint, unless its handler does
            something else.
    """
    progress, saved, leave = start, time.monotonic(), False
    total = schedule.total_steps(config.sampler)
    bar = tqdm(total=total, initial=int(start.step), unit="step", desc="fit", disable=None if show_progress else True)
    with bar, _signals_gathered() as arrived, _losses_explained():
        for turn in turns:
            progress = turn.progress
            for divergence in turn.divergences:
                _tell_of(divergence, progress, run)
            if turn.row is not None:
                # On one device: what is spread over several would make them wait for each other.
                position = jax.device_get(whole(progress.states.sampler.position))
                row = _log_row(progress, turn.row, valid_error(position) if run is not None or show_progress else {})
                bar.set_postfix(loss=f"{row['loss']:.2f}", forces=f"{row.get('valid_forces_mae', np.nan):.4f}")
                if run is not None:
                    append_jsonl(run.path / LOG_FILE, row)
            bar.update(int(progress.step) - bar.n)
            is_sample = turn.row is not None and int(progress.step) in schedule.sample_steps(config.sampler)
            is_late = time.monotonic() - saved > CHECKPOINT_SECONDS
            leave, is_late = in_any_process([bool(arrived), is_late])
            if (is_sample or turn.divergences or leave or is_late) and progress.active.any():
                everything = whole(progress)
                if run is not None:
                    save_checkpoint(run, int(progress.step), everything)
                saved = time.monotonic()
            if leave:
                break
    if leave:
        signal.raise_signal((arrived or [signal.SIGTERM])[0])
        raise KeyboardInterrupt  # where that signal is ignored, or its handler returns
    if not progress.active.any():
        raise DivergenceError(_epitaph(progress, run))
    return progress


@contextlib.contextmanager
def _signals_gathered() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM wait here until the run can be saved; a second one does not wait."""
    arrived: list[int] = []
    previous: dict[int, Any] = {}

    def gather(number: int, _frame: Any) -> None:
        if arrived:
            signal.signal(number, previous[number])
            signal.raise_signal(number)
        arrived.append(number)

    with contextlib.suppress(ValueError):  # only the main thread hears signals
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, gather) or signal.SIG_DFL
    try:
        yield arrived
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _losses_explained() -> Iterator[None]:
    """A failed exchange with another process, as one sentence."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        reason = str(error).splitlines()[0][:200]
        raise LostProcessError(
            f"Another process of this run has ended ({reason}); start all of them again with --resume: the run goes on"
            " from its last checkpoint."
        ) from error


def _tell_of(divergence: guard.Divergence, progress: Progress, run: RunFolder | None) -> None:
    """Log what was found, for people and for the record."""
    stopped = not progress.active[divergence.chain]
    scale = 0.5 ** int(progress.num_halvings[divergence.chain])
    good = int(progress.good_states.step[divergence.chain])
    action = "it is stopped there" if stopped else f"it goes on from there with {scale:g} times the step size"
    _log.warning("%s; its last sound state is that of step %d, and %s.", _sentence(divergence), good, action)
    if run is None:
        return
    event = {
        "event": "stop" if stopped else "halve-step",
        "step": good,
        "chain": divergence.chain,
        "found_at_step": divergence.step,
        "cause": guard.CAUSES[divergence.cause].text,
        "step_scale": scale,
        "num_events": progress.num_events,
    }
    append_jsonl(run.path / LOG_FILE, event)


def _sentence(divergence: guard.Divergence) -> str:
    return f"Chain {divergence.chain} diverged at step {divergence.step}: {guard.CAUSES[divergence.cause].text}"


def _epitaph(progress: Progress, run: RunFolder | None) -> str:
    last = int(np.argmax(progress.stopped_step))
    found = guard.Divergence(last, int(progress.stopped_step[last]), int(progress.stopped_cause[last]))
    first_cure, second_cure = guard.CAUSES[found.cause].cures
    others = "" if len(progress.active) == 1 else f", the last of {len(progress.active)} chains to do so"
    kept = f" The last checkpoint in {run.path} is sound." if run is not None and has_checkpoint(run) else ""
    return f"{_sentence(found)}{others}; {first_cure}, or {second_cure}.{kept}"


def _log_row(progress: Progress, infos: chain.StepInfo, valid_error: dict[str, np.ndarray]) -> dict[str, Any]:
    """Means over the steps since the last row and over the chains that go on."""
    return {
        "step": int(progress.step),
        "num_samples": int(progress.num_samples),
        "loss": -float(infos.estimate.log_likelihood.mean()),
        "log_prior": float(infos.estimate.log_prior[-1].mean()),
        "train_forces_rmse": float(np.sqrt(infos.estimate.forces_square_error.mean())),
        **{name: float(values[progress.active].mean()) for name, values in valid_error.items()},
        "step_size": float(infos.step_size[-1].mean()),
        "temperature": float(infos.temperature[-1, 0]),
        "kinetic_temperature": float(infos.sghmc.kinetic_temperature.mean()),
        "configurational_temperature": float(infos.configurational_temperature.mean()),
        "gradient_norm": float(infos.sghmc.grad_norm.mean()),
        "noise_scale": float(infos.sghmc.noise_scale[-1].mean()),
        "num_chains": int(progress.active.sum()),
        "num_events": progress.num_events,
    }
