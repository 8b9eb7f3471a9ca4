"""Fit every method with every seed, measure it on every test set, and keep what is done."""

import dataclasses
import itertools
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from bnn_jax import api
from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.parts import check_parts
from bnn_jax.checkpoint import environment, load_arrays, open_run, save_tree, write_text_atomic
from bnn_jax.comparison.elements import FORCES_OF, quantities
from bnn_jax.comparison.figures import Measured, figures_of, measure
from bnn_jax.config import Config
from bnn_jax.methods import Posterior, registry
from bnn_jax.methods.base import num_shared
from bnn_jax.methods.recorder import DivergenceError
from bnn_jax.recalibration import METHODS, Recalibration, fit_recalibration
from bnn_jax.sampling import schedule
from bnn_jax.types import InputError, Predictive

CALIBRATION = "affine"
"""Of the calibrated figures (Tan et al. 2023, eq. 13)."""
MIN_VALID = METHODS[CALIBRATION].min_structures(0.0)
PLOTTED = ("errors", "stds", "scores")
"""Arrays of the elements that pictures need."""

_log = logging.getLogger(__name__)


class Result(NamedTuple):
    """One method with one seed."""

    method: str
    seed: int
    cost: dict[str, float]
    """``fit_seconds``, ``structure_gradients``, ``step_bytes``, ``predict_seconds`` (of a structure)."""
    measured: dict[str, dict[str, Measured]]
    """By test set and quantity (:func:`bnn_jax.comparison.elements.quantities`)."""
    arrays: dict[str, dict[str, dict[str, np.ndarray]]]
    """By test set, quantity and name of :data:`PLOTTED`."""
    failure: str | None = None
    """Why there are no figures; None where all went well."""


def check(
    train: Dataset,
    valid: Dataset,
    tests: Mapping[str, Dataset],
    config: Config,
    methods: Sequence[str],
    num_seeds: int,
    allow_missing_labels: bool = False,
) -> None:
    """Refuse what cannot be compared, before any work.

    Args:
        train: training set.
        valid: validation set, for early stopping and calibration.
        tests: test sets by name.
        config: of all methods.
        methods: their names.
        num_seeds: of each.
        allow_missing_labels: consent to structures that lack labels which others of their set have.

    Raises:
        InputError: a method is unknown or named twice, there is no seed or test set, the validation set is too small,
            a test set has no forces or structures of the validation set, or as
            :func:`bnn_jax.atoms.parts.check_parts`, which warns of structures that occur twice.
    """
    for method in methods:
        config_of(config, method)
    if len(set(methods)) < len(methods) or not methods:
        raise InputError(f"The methods are {', '.join(methods) or 'none'}; name at least one, and each once.")
    if "sghmc" in methods and config.sampler.num_chains * config.sampler.num_samples < 2:
        raise InputError("The sampler gives one sample, which has no spread; raise sampler.num_samples to 2 at least.")
    if num_seeds < 1:
        raise InputError(f"There are {num_seeds} seeds; give at least 1.")
    if len(valid) < MIN_VALID:
        raise InputError(
            f"The validation set has {len(valid)} structures and calibration needs {MIN_VALID}; give more (--valid)."
        )
    if not tests:
        raise InputError("There is no test set; give one (--test).")
    check_parts(train, {"validation": valid, **tests}, allow_missing_labels)
    for name, test in {"validation": valid, **tests}.items():
        if not np.isfinite(test.forces).any() or len(test) < 2:
            raise InputError(f"The {name} set has fewer than 2 structures with forces; give labelled ones.")
    for name, test in tests.items():
        if count := num_shared(test, valid.hashes()):
            raise InputError(
                f"{count} of {len(test)} structures of the {name} set are in the validation set, by which error bars"
                " are calibrated; leave them out of one."
            )


def config_of(config: Config, method: str) -> Config:
    """The configuration of a method with the budget of the sampler: as many gradients of as many structures.

    Args:
        config: whose sampler sets the budget.
        method: its name.

    Raises:
        InputError: the method is unknown, or the budget leaves a network of it without a step.
    """
    sampler = config.sampler
    num_steps = schedule.total_steps(sampler) * sampler.num_chains // registry.num_networks(method, config)
    if num_steps < 1:
        raise InputError(f"The budget of the sampler leaves no step for the networks of {method}; raise it.")
    trainer = dataclasses.replace(config.trainer, batch_size=sampler.batch_size, num_steps=num_steps)
    return dataclasses.replace(config, method=method, trainer=trainer)


def run(
    train: Dataset,
    valid: Dataset,
    tests: Mapping[str, Dataset],
    config: Config,
    methods: Sequence[str],
    num_seeds: int,
    out: str | Path,
    progress: bool = True,
    allow_missing_labels: bool = False,
) -> Iterator[Result]:
    """Fit and measure what is not there yet, and give all results, seed by seed, as they come.

    Args:
        train: training set.
        valid: validation set, for early stopping and calibration.
        tests: test sets by name.
        config: of all methods; its sampler sets the budget of each (:func:`config_of`).
        methods: their names.
        num_seeds: of each, from 0 on.
        out: folder of the runs and of their results. What it holds of the same comparison is not done again, and a run
            that was killed goes on.
        progress: show progress bars on a terminal.
        allow_missing_labels: as for :func:`check`.

    Raises:
        InputError: as for :func:`check`, or ``out`` holds results of other data or settings.
    """
    check(train, valid, tests, config, methods, num_seeds, allow_missing_labels)
    out = Path(out)
    parts = {"train": train.fingerprint(), "valid": valid.fingerprint()}
    all_data = parts | {f"test {name}": test.fingerprint() for name, test in tests.items()}
    for number, (seed, method) in enumerate(itertools.product(range(num_seeds), methods)):
        fit_settings = {"method": method, "seed": seed, "config": config_of(config, method).to_dict(), "data": parts}
        settings = {**fit_settings, "data": all_data}
        file = out / "results" / f"{method}-seed-{seed}.json"
        if not file.exists():
            _log.info("%d of %d: %s, seed %d.", number + 1, num_seeds * len(methods), method, seed)
            try:
                posterior, cost = _fitted(train, valid, fit_settings, out / f"{method}-seed-{seed}", progress)
                _measure(posterior, cost, valid, tests, settings, file, progress)
            except DivergenceError as error:
                _log.warning("%s, seed %d, has failed, and the others go on: %s", method, seed, error)
                _write(file, {**settings, "failure": str(error)})
        yield _result(file, settings)


def _fitted(
    train: Dataset, valid: Dataset, settings: Mapping[str, Any], folder: Path, progress: bool
) -> tuple[Posterior, dict[str, float]]:
    """The posterior and what it cost: from its folder if it is finished, else made there."""
    file, config = folder / "cost.json", Config.from_dict(settings["config"])
    if file.exists():
        return Posterior.load(folder), _read(file, settings)["cost"]
    resumed, start = (folder / "run.json").exists(), time.perf_counter()
    posterior = api.fit(train, valid, config, settings["seed"], folder, resume=True, progress=progress, checked=True)
    seconds = time.perf_counter() - start
    sampler = config.sampler
    cost = {
        "fit_seconds": seconds,
        "fit_resumed": resumed,
        "structure_gradients": schedule.total_steps(sampler) * sampler.num_chains * sampler.batch_size,
        "step_bytes": open_run(folder).record["metadata"]["step_bytes"],
        "predict_seconds": _predict_seconds(posterior, valid),
    }
    _write(file, {**settings, "cost": cost})
    return posterior, cost


def _measure(
    posterior: Posterior,
    cost: Mapping[str, float],
    valid: Dataset,
    tests: Mapping[str, Dataset],
    settings: Mapping[str, Any],
    file: Path,
    progress: bool,
) -> None:
    """Write the figures and the arrays of one posterior.

    Raises:
        DivergenceError: a prediction is not finite.
    """
    predictive = _predicted(posterior, valid, "validation")
    recalibrations: dict[str, Recalibration] = {}
    for quantity, elements in quantities(predictive, valid).items():
        if elements.has_scores and "cnll" in figures_of(quantity):
            recalibrations[quantity] = fit_recalibration(
                CALIBRATION, elements.errors, elements.scores, elements.structure, score_kind=elements.score_kind
            )
    measured: dict[str, dict[str, Any]] = {}
    arrays: dict[str, np.ndarray] = {}
    described = tqdm(tests.items(), desc="measure", unit="set", delay=5, disable=None if progress else True)
    for name, test in described:
        predictive, measured[name] = _predicted(posterior, test, name), {}
        for quantity, elements in quantities(predictive, test).items():
            result = measure(elements, recalibrations.get(quantity), figures_of(quantity))
            resampled = {figure: values.tolist() for figure, values in result.resampled.items()}
            measured[name][quantity] = {"estimates": result.estimates, "resampled": resampled}
            if not quantity.startswith(FORCES_OF):
                for array in PLOTTED:
                    arrays[f"{name}/{quantity}/{array}"] = getattr(elements, array).astype(np.float32)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_tree(file.with_suffix(".safetensors"), arrays, {})
    _write(file, {**settings, "cost": cost, "measured": measured})  # last: it makes the result


def _predicted(posterior: Posterior, dataset: Dataset, name: str) -> Predictive:
    predictive = posterior.predict(dataset)
    means, stds = (predictive.forces, predictive.energy), (predictive.forces_std, predictive.energy_std)
    if not all(np.isfinite(mean).all() for mean in means) or any(np.isinf(std).any() for std in stds):
        raise DivergenceError(f"Predictions for the {name} set are not finite.")
    return predictive


def _predict_seconds(posterior: Posterior, dataset: Dataset) -> float:
    """Of a structure among many, compilation apart."""
    posterior.predict(dataset)
    start = time.perf_counter()
    posterior.predict(dataset)
    return (time.perf_counter() - start) / len(dataset)


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(file, json.dumps({**content, "environment": environment()}))


def _read(file: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`_write` wrote, if it is of these settings."""
    try:
        found = json.loads(file.read_text())
        differing = [key for key in settings if found[key] != json.loads(json.dumps(settings[key]))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is damaged; remove it, and it is made again.") from error
    if differing:
        raise InputError(f"{file} has another {differing[0]}; choose another --out.")
    return found


def _result(file: Path, settings: Mapping[str, Any]) -> Result:
    found = _read(file, settings)
    if found.get("failure"):
        return Result(settings["method"], settings["seed"], {}, {}, {}, str(found["failure"]))
    try:
        measured = {
            name: {
                quantity: Measured(
                    {figure: float(value) for figure, value in each["estimates"].items()},
                    {figure: np.asarray(values, np.float64) for figure, values in each["resampled"].items()},
                )
                for quantity, each in quantities.items()
            }
            for name, quantities in found["measured"].items()
        }
        cost = found["cost"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is damaged; remove it, and it is made again.") from error
    arrays: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for key, array in load_arrays(file.with_suffix(".safetensors")).items():
        name, quantity, which = key.removeprefix("['").removesuffix("']").rsplit("/", 2)
        arrays.setdefault(name, {}).setdefault(quantity, {})[which] = array
    return Result(settings["method"], settings["seed"], cost, measured, arrays)
