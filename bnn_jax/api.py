"""The one call of a script: from structures to a posterior."""

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.environments import Environments, environments
from bnn_jax.atoms.graph import pack
from bnn_jax.atoms.parts import check_parts
from bnn_jax.atoms.sources import Structures, load
from bnn_jax.checkpoint import open_run, refuse_occupied
from bnn_jax.config import Config
from bnn_jax.devices import agreed, is_first
from bnn_jax.methods import Posterior, registry, sghmc
from bnn_jax.planning import Timing, further, group_steps, planned
from bnn_jax.sampling.progress import OnDivergence
from bnn_jax.types import InputError
from bnn_jax.validated import EnvironmentRange, ValidatedRange
from bnn_jax.verdict import judge_predictive, monitored, settling

FIRST_SHARE = 0.5
"""Of the minutes, for the first judgement of a run that goes on until it is trusted."""


def fit(
    train: Structures,
    valid: Structures | None = None,
    config: Config | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    progress: bool = True,
    on_divergence: OnDivergence = "stop",
    devices_per_chain: int = 1,
    metadata: Mapping[str, Any] | None = None,
    allow_missing_labels: bool = False,
    checked: bool = False,
    minutes: float | None = None,
    until: Literal["trusted"] | None = None,
    on_verdict: Callable[[Posterior], None] = lambda _: None,
) -> Posterior:
    """A potential with error bars by ``config.method``, given labelled structures: by default samples of the posterior.

    Args:
        train: training set as :func:`bnn_jax.load` takes it, with energies (eV), forces (eV/Angstrom), stresses, or
            some of them.
        valid: validation set. The log shows its force error; samples of the posterior do not depend on it,
            networks that are trained stop early by it.
        config: of the run; the preset ``small`` if none.
        seed: every random number of the run follows from it.
        out: run folder for configuration, log, checkpoints and posterior; nothing is written without one.
        resume: continue the run in ``out``; its samples equal those of an uninterrupted one bit for bit.
        progress: show a progress bar on a terminal.
        on_divergence: what to do with a chain that diverges: ``stop`` it and leave its samples out, or ``halve-step``:
            repeat from its last sound state with half its step size.
        devices_per_chain: devices that share the minibatches of each chain, which is worth it where there are more
            devices than chains; the samples are the same to rounding.
        metadata: further plain values for the record of a new run, ``run.json``.
        allow_missing_labels: consent to structures that lack labels which others of their set have.
        checked: :func:`bnn_jax.atoms.check_parts` was asked about these sets already.
        minutes: that the run may take on this machine. A new run stretches or shrinks the steps before its first sample
            and between samples so that it fills them, or half of them with ``until``.
        until: ``trusted`` extends the run by samples or chains until its verdict trusts the error bars or the
            ``minutes`` are over; without ``minutes`` it goes on until then.
        on_verdict: called with the posterior each time that one was judged.

    Returns:
        The posterior with a verdict on it, which ``out`` then holds too.

    Raises:
        InputError: the data or the configuration cannot be used, labels are missing without consent, ``out`` holds
            another run, or memory or disk will not suffice.
        DivergenceError: every chain diverged.
        LostProcessError: another process of the run (``jax.distributed``) has ended.
    """
    train = load(train)
    valid = None if valid is None else load(valid)
    config = config or Config.preset("small")
    if not checked:
        check_parts(train, {} if valid is None else {"valid": valid}, allow_missing_labels)
    options: dict[str, Any] = {"on_divergence": on_divergence, "devices_per_chain": devices_per_chain}
    options |= {} if valid is None else {"figures_fn": settling(valid)}
    if config.method != "sghmc":
        if (on_divergence, devices_per_chain, minutes, until) != ("stop", 1, None, None):
            raise InputError(
                "on_divergence, devices_per_chain, minutes and until are for sghmc, not for"
                f" {config.method}; leave them out."
            )
        options = {}
    if until is not None and valid is None:
        raise InputError("until='trusted' needs a validation set, on which trust is found out; give valid (--valid).")
    start, rng_key = time.monotonic(), jax.random.key(seed)
    is_new = out is None or not (resume and (Path(out) / "run.json").exists())
    record, step_seconds = dict(metadata or {}), 0.0
    if not is_new and out is not None and (minutes, until) != (None, None):
        config = _as_planned(config, out)
    if minutes is not None and (is_new or until is not None):
        if is_new and out is not None:
            refuse_occupied(out, config)
        timing = Timing(*sghmc.time_steps(rng_key, train, config, devices_per_chain))
        step_seconds = timing.step_seconds
        if is_new:
            share = 1.0 if until is None else FIRST_SHARE
            config = planned(config, share * minutes, timing, share * agreed(time.monotonic() - start))
            record |= {"plan": {"minutes": minutes, **timing._asdict()}}

    def fit_and_judge(config: Config, folder: str | Path | None, resume: bool) -> Posterior:
        posterior = registry.get(config.method).fit(
            rng_key,
            train,
            valid,
            config,
            seed=seed,
            out=folder,
            resume=resume,
            progress=progress,
            metadata=record,
            **options,
        )
        posterior = _judged(posterior, train, valid)
        if folder is not None and is_first():
            posterior.save(folder)
        on_verdict(posterior)
        return posterior

    if until is None:
        return fit_and_judge(config, out, resume)
    end = float("inf") if minutes is None else start + 60 * minutes
    with tempfile.TemporaryDirectory() if out is None else contextlib.nullcontext(out) as folder:
        return _until_trusted(fit_and_judge, config, folder, resume, end, step_seconds)


def _until_trusted(
    fit_and_judge: Callable[[Config, str | Path, bool], Posterior],
    config: Config,
    folder: str | Path,
    resume: bool,
    end: float,
    step_seconds: float,
) -> Posterior:
    """Extend the run in the folder until it is trusted, or no extension would be over by ``end`` (monotonic seconds).

    ``step_seconds`` is the measured time of a step of a group of chains; what steps take with all that comes with them
    replaces it where that is more.
    """
    num_done = 0
    while True:
        begun = time.monotonic()
        posterior = fit_and_judge(config, folder, resume)
        if posterior.verdict is not None and posterior.verdict.is_trusted:
            return posterior
        now, num_steps = time.monotonic(), group_steps(posterior.config.sampler)
        step_seconds = max(step_seconds, (now - begun) / max(num_steps - num_done, 1))
        more = further(posterior.config, posterior.verdict, agreed(end - now), agreed(step_seconds))
        if more is None:
            return posterior
        config, resume, num_done = more, True, num_steps


def _as_planned(config: Config, out: str | Path) -> Config:
    """That of the run in the folder, which may have planned and extended itself, where nothing else differs."""
    found = open_run(out).config
    names = ("num_samples", "num_chains", "chains_at_once", "convergence_steps", "cycle_steps")
    own = {name: getattr(found.sampler, name) for name in names}
    data = {name: getattr(found.model, name) for name in ("species", "avg_num_neighbors", "scale")}
    asked = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, **data),
        sampler=dataclasses.replace(config.sampler, **own),
    )
    return found if asked == found else config


def _judged(posterior: Posterior, train: Dataset, valid: Dataset | None) -> Posterior:
    """With its verdict, and the range that labels could check."""
    held_out = monitored(train if valid is None else valid)
    predictive = posterior.predict(held_out)
    verdict = judge_predictive(posterior, predictive, held_out, labels_are_held_out=valid is not None)
    is_labelled = np.asarray(np.isfinite(held_out.forces).all(axis=1))
    validated = None
    if valid is not None:
        met = EnvironmentRange.of([_environments(posterior, each) for each in (train, valid)])
        validated = ValidatedRange.of(predictive, held_out.numbers, is_labelled, met)
    return dataclasses.replace(posterior, verdict=verdict, validated=validated)


def _environments(posterior: Posterior, dataset: Dataset) -> Environments:
    statistics, cutoff = posterior.statistics, posterior.config.model.cutoff
    return environments(pack(dataset, cutoff, statistics.species, statistics.shifts), cutoff, len(statistics.species))
