"""What a run writes as it goes: log, checkpoints, progress bar; and how it goes on after a kill."""

import contextlib
import importlib.metadata
import logging
import operator
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
from tqdm import tqdm

from bnn_jax.checkpoint import (
    RunFolder,
    append_jsonl,
    create_run,
    environment,
    extend_run,
    has_checkpoint,
    latest_checkpoint,
    locked,
    open_run,
    refuse_occupied,
    require_room,
    save_checkpoint,
    tree_bytes,
    truncate_jsonl,
)
from bnn_jax.config import Config
from bnn_jax.devices import in_any_process, is_first, wait_for_all, whole
from bnn_jax.types import InputError

CHECKPOINT_SECONDS = 20.0
LOG_FILE = "log.jsonl"
_log = logging.getLogger(__name__)


class DivergenceError(RuntimeError):
    """Every chain or network left the numbers; the last checkpoint before that is sound."""


class LostProcessError(RuntimeError):
    """One of the processes of a run is gone, and the others cannot go on without it."""


class Report(NamedTuple):
    """What a loop tells of itself after each chunk of steps."""

    progress: Any
    """All that the loop is, as a checkpoint holds it: a pytree with ``step``, and ``num_events`` of its log."""
    rows: Sequence[dict[str, Any]] = ()
    """For the log: events first, then the row of the steps since the last one."""
    shown: Mapping[str, str] = MappingProxyType({})
    """What the progress bar shows."""
    is_milestone: bool = False
    """Whether this progress is to be kept, however long ago the last checkpoint was."""
    is_sound: bool = True
    """Whether the run can go on from here."""


class RunPlan(NamedTuple):
    """What a run is, as its folder says."""

    config: Config
    """With the model's data-dependent fields filled in."""
    seed: int
    fingerprint: str
    """Of the training data."""
    num_steps: int
    out: Path | None
    metadata: Mapping[str, Any]
    """Further plain values for ``run.json``."""
    extent: Mapping[str, str] = MappingProxyType({})
    """What the shapes of its progress follow from, for the checkpoints of runs that can be extended."""


def find(
    path: Path,
    config: Config,
    seed: int,
    fingerprint: str,
    resume: bool,
    extends: Callable[[Config, Config], bool] = operator.eq,
) -> RunFolder | None:
    """The run to continue, or None where a new one can be made; nothing is written.

    Args:
        path: of the folder.
        config: with the model's data-dependent fields filled in.
        seed: of the run.
        fingerprint: of the training data.
        resume: whether a run that is there may be continued.
        extends: whether a run of the first configuration can go on as one of the second.

    Raises:
        InputError: the folder is occupied, holds another run, or one to be extended that another version began.
    """
    if not (resume and (path / "run.json").exists()):
        refuse_occupied(path, config)
        return None
    run = open_run(path)
    if run.record["data_fingerprint"] != fingerprint:
        raise InputError(f"{path} was sampled on other training data; give the same data or choose another --out.")
    if run.record["seed"] != seed or not extends(run.config, config):
        raise InputError(
            f"{path} has another seed or configuration; leave them out to resume, or choose another --out."
        )
    version, present = run.record["versions"].get("bnn_jax"), importlib.metadata.version("bnn_jax")
    if run.config != config and version != present:
        raise InputError(
            f"{path} was begun with bnn_jax {version!s:.20} and this is {present}, whose samples may be others; extend"
            " it with the version that began it, or choose another --out."
        )
    return run


def restore(
    run: RunFolder,
    start: Any,
    like_fn: Callable[[Mapping[str, str]], Any] | None = None,
    extended_fn: Callable[[Any], Any] = lambda progress: progress,
) -> Any:
    """The progress of the newest sound checkpoint, with the log cut back to it; ``start`` where there is none.

    Only the first process of a run touches the log.

    Args:
        run: to go on with.
        start: progress before the first step.
        like_fn: of the extent of a checkpoint, gives a progress of its shapes; those of ``start`` without it.
        extended_fn: makes a progress of the run of it.

    Raises:
        InputError: no checkpoint is sound, or it does not fit the run.
    """
    if not has_checkpoint(run):
        if is_first():
            truncate_jsonl(run.path / LOG_FILE, lambda _: False)
        return start
    step, progress = latest_checkpoint(run, like_fn or (lambda _: start))
    if not is_first():
        return extended_fn(progress)
    truncate_jsonl(
        run.path / LOG_FILE,
        lambda row: row.get("run_step", row["step"]) <= step and row.get("num_events", 0) <= progress.num_events,
    )
    here, there = environment(), run.record["environment"]
    differing = [f"{key} {here[key]} instead of {there.get(key)}" for key in here if here[key] != there.get(key)]
    kind = f"the same to rounding ({', '.join(differing)})" if differing else "the same bit for bit"
    _log.info("%s goes on from step %d: as if it had not stopped, %s.", run.path, step, kind)
    return extended_fn(progress)


def carry_out(
    start: Any,
    reports_fn: Callable[[Any, RunFolder | None], Iterator[Report]],
    run: RunFolder | None,
    plan: RunPlan,
    show_progress: bool,
    like_fn: Callable[[Mapping[str, str]], Any] | None = None,
    extended_fn: Callable[[Any], Any] = lambda progress: progress,
) -> Any:
    """Make, continue or extend the folder of a run, and record the run to its end.

    Args:
        start: progress before the first step.
        reports_fn: the loop from a progress on, for the run of that folder (None where nothing is written).
        run: the folder to continue, from :func:`find`.
        plan: what the run is.
        show_progress: show a progress bar on a terminal.
        like_fn: as :func:`restore` takes it.
        extended_fn: likewise.

    Returns:
        The last progress.

    Raises:
        InputError: there is no room, or the checkpoints do not fit.
        LostProcessError: another process of the run has ended.
    """
    wait_for_all()  # all look at the folder before one writes into it
    if plan.out is not None and run is None and is_first():
        run = create_run(
            plan.out, plan.config, seed=plan.seed, data_fingerprint=plan.fingerprint, metadata=plan.metadata
        )
    with locked(run) if run is not None and is_first() else contextlib.nullcontext():
        if run is not None:
            # Two checkpoints, the next one before it replaces the older, the posterior, and room for plots.
            require_room(run.path, 4 * tree_bytes(start) + 50_000_000, "The checkpoints of this run")
            if run.config != plan.config and is_first():
                run = extend_run(run, plan.config)
            start = restore(run, start, like_fn, extended_fn)
        return record(reports_fn(start, run), start, run if is_first() else None, plan, show_progress and is_first())


def record(reports: Iterator[Report], start: Any, run: RunFolder | None, plan: RunPlan, show_progress: bool) -> Any:
    """Take what a loop reports to its end, and write what it gives.

    Args:
        reports: of the loop that began with ``start``.
        start: progress before the first report.
        run: folder to write log and checkpoints into; nothing is written without one.
        plan: what the run is.
        show_progress: show a progress bar on a terminal.

    Returns:
        The last progress.

    Raises:
        InputError: the disk is full or not writable; the last checkpoint is intact.
        LostProcessError: another process of the run has ended.
        KeyboardInterrupt: Ctrl-C or SIGTERM arrived in some process, after a checkpoint, unless its handler does
            something else.
    """
    progress, saved, leave = start, time.monotonic(), False
    bar = tqdm(
        total=plan.num_steps, initial=int(start.step), unit="step", desc="fit", disable=None if show_progress else True
    )
    with bar, _signals_gathered() as arrived, losses_explained():
        for report in reports:
            progress = report.progress
            if run is not None:
                for row in report.rows:
                    append_jsonl(run.path / LOG_FILE, row)
            if report.shown:
                bar.set_postfix(report.shown)
            bar.update(int(progress.step) - bar.n)
            is_late = time.monotonic() - saved > CHECKPOINT_SECONDS
            leave, is_late = in_any_process([bool(arrived), is_late])
            if (report.is_milestone or leave or is_late) and report.is_sound:
                everything = whole(progress)
                if run is not None:
                    save_checkpoint(run, int(progress.step), everything, plan.extent)
                saved = time.monotonic()
            if leave:
                break
    if leave:
        signal.raise_signal((arrived or [signal.SIGTERM])[0])
        raise KeyboardInterrupt  # where that signal is ignored, or its handler returns
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
def losses_explained() -> Iterator[None]:
    """A failed exchange with another process, as one sentence.

    Raises:
        LostProcessError: another process of the run has ended.
    """
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
