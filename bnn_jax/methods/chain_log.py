"""What chains tell of themselves as they run: rows of the log, divergences, and the sentence of the last of them."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from bnn_jax.checkpoint import RunFolder, has_checkpoint
from bnn_jax.config import SamplerConfig
from bnn_jax.devices import whole
from bnn_jax.methods.recorder import DivergenceError, Report
from bnn_jax.methods.watch import Watch
from bnn_jax.sampling import chain, guard, schedule
from bnn_jax.sampling.groups import RunProgress, group_size
from bnn_jax.sampling.progress import Progress, Turn

_log = logging.getLogger(__name__)


def reports(
    drive_fn: Callable[[int, Progress], Iterator[Turn]],
    start: RunProgress,
    config: SamplerConfig,
    watched: Watch,
    run: RunFolder | None,
) -> Iterator[Report]:
    """One group of chains after another to its end (:func:`bnn_jax.sampling.progress.drive`), in words and numbers.

    Args:
        drive_fn: of the number of a group and its progress, the loop from there on.
        start: where the groups stand.
        config: the sampler's settings.
        watched: what the chains say of the validation set, for the log.
        run: the folder of the run, if it has one.

    Raises:
        DivergenceError: all chains were stopped.
    """
    progress, shown = start, {}
    for index in range(len(start.groups)):
        for turn in drive_fn(index, progress.groups[index]):
            progress = progress.at(index, turn.progress)
            report = _report(turn, index, progress, config, watched)
            shown = {**shown, **report.shown}  # figures of samples stay until there are newer ones
            yield report._replace(shown=shown if report.shown else {})
    if not progress.active.any():
        raise DivergenceError(_epitaph(progress, run))


def _report(turn: Turn, index: int, progress: RunProgress, config: SamplerConfig, watched: Watch) -> Report:
    group, first_chain = turn.progress, index * group_size(config)
    where = {"run_step": progress.step, "first_chain": first_chain, "num_events": progress.num_events}
    rows = [_event(divergence, group, first_chain) | where for divergence in turn.divergences]
    shown, is_sample = {}, False
    if turn.row is not None:
        # On one device: what is spread over several would make them wait for each other.
        position = jax.device_get(whole(group.states.sampler.position))
        is_sample = int(group.step) in schedule.sample_steps(config)
        figures = {k: v for k, v in watched.figures(progress).items() if np.isfinite(v)} if is_sample else {}
        row = _log_row(group, turn.row, watched.errors(position)) | where | figures
        shown = {"loss": f"{row['loss']:.2f}", "forces": f"{row.get('valid_forces_mae', np.nan):.4f}"}
        shown |= {name: f"{value:.2f}" for name, value in figures.items()}
        rows.append(row)
    is_milestone = is_sample or bool(turn.divergences)
    return Report(progress, rows, shown, is_milestone, is_sound=bool(progress.active.any()))


def _event(divergence: guard.Divergence, progress: Progress, first_chain: int) -> dict[str, Any]:
    """What was found, for people now and for the record."""
    stopped = not progress.active[divergence.chain]
    scale = 0.5 ** int(progress.num_halvings[divergence.chain])
    good = int(progress.good_states.step[divergence.chain])
    action = "it is stopped there" if stopped else f"it goes on from there with {scale:g} times the step size"
    number = first_chain + divergence.chain
    sentence = _sentence(divergence._replace(chain=number))
    _log.warning("%s; its last sound state is that of step %d, and %s.", sentence, good, action)
    return {
        "event": "stop" if stopped else "halve-step",
        "step": good,
        "chain": number,
        "found_at_step": divergence.step,
        "cause": guard.CAUSES[divergence.cause].text,
        "step_scale": scale,
    }


def _sentence(divergence: guard.Divergence) -> str:
    return f"Chain {divergence.chain} diverged at step {divergence.step}: {guard.CAUSES[divergence.cause].text}"


def _epitaph(progress: RunProgress, run: RunFolder | None) -> str:
    group = progress.groups[-1]
    last = int(np.argmax(group.stopped_step))
    number = len(progress.active) - len(group.active) + last
    found = guard.Divergence(number, int(group.stopped_step[last]), int(group.stopped_cause[last]))
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
    }
