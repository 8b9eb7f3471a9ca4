"""What a finished run leaves in its folder beside the posterior: diagnostics, metrics and plots."""

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.checkpoint import read_jsonl, write_text_atomic
from bnn_jax.evaluation import OUTLIER_THRESHOLD, score
from bnn_jax.methods import Posterior
from bnn_jax.report._figure import save
from bnn_jax.report.bond_scan import bond_scan, scan_bonds
from bnn_jax.report.chain_plots import rhat, training
from bnn_jax.report.plots import write_evaluation
from bnn_jax.report.table import scores_to_json, to_json
from bnn_jax.sampling.diagnostics import MIN_DRAWS
from bnn_jax.types import InputError
from bnn_jax.verdict import summary


def assess(
    posterior: Posterior,
    test: Dataset,
    plots: Path | None = None,
    families: Mapping[str, Int[np.ndarray, " structure"]] | None = None,
) -> dict[str, Any]:
    """The figures of :func:`bnn_jax.evaluate`, and the plots of the same predictions.

    Args:
        posterior: the samples.
        test: labelled structures.
        plots: folder for the plots, made if absent; None for none.
        families: structures whose figures are wanted by themselves too, under ``families`` and their name.

    Raises:
        InputError: the structures have no label or an unknown element, or a plot cannot be written.
    """
    start = time.perf_counter()
    predictive = posterior.predict(test)
    scores: dict[str, Any] = score(predictive, test, posterior.num_samples)
    scores |= {"seconds": time.perf_counter() - start}
    if families is not None:
        parts = {name: (predictive.take(chosen), test.take(chosen)) for name, chosen in families.items()}
        scores |= {"families": {name: score(*part, posterior.num_samples) for name, part in parts.items()}}
    if plots is not None:
        write_evaluation(plots, predictive, test.energy, test.forces, forces_threshold=OUTLIER_THRESHOLD)
    return scores


def write_run_report(
    folder: Path, posterior: Posterior, held_out: Dataset | None, test: Dataset | None
) -> dict[str, dict[str, Any]]:
    """Write what the run's folder still lacks of ``diagnostics.json``, ``metrics.json`` and ``plots/``.

    Args:
        folder: of the run.
        posterior: its samples.
        held_out: unlabelled or labelled structures for the diagnostics; plots of its labels too, where there is no
            test set. None leaves them out.
        test: labelled structures for the metrics; None leaves them out.

    Returns:
        ``diagnostics`` and ``metrics`` as the files have them, as far as there are any.

    Raises:
        InputError: a file cannot be written or read.
    """
    plots, path = folder / "plots", folder / "diagnostics.json"
    size = {"num_chains": posterior.num_chains, "num_samples": posterior.num_samples}
    try:
        if path.exists() and not size.items() <= _read(path).items():  # of the run before it was extended
            for name in ("test", "valid"):
                shutil.rmtree(plots / name, ignore_errors=True)
            plotted = (plots / f"{name}.png" for name in ("training", "rhat", "bond_scan"))
            for old in (*plotted, folder / "metrics.json", path):  # the last one says that the others are its own
                old.unlink(missing_ok=True)
        plots.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"Folder {plots} cannot be made ({error.strerror}); check the disk.") from error
    _plot_training(folder / "log.jsonl", plots / "training.png")
    report = {}
    if not path.exists():
        numbers: dict[str, Any] = {}
        enough = posterior.is_sampled and posterior.num_samples // posterior.num_chains >= MIN_DRAWS
        if held_out is not None and enough:
            numbers, rhats = summary(posterior, held_out)
            if np.isfinite(rhats).any():
                save(rhat(rhats), plots / "rhat.png")
        numbers |= size
        if held_out is not None and (scans := scan_bonds(posterior.predict, held_out)):
            numbers["bond_scan"] = {scan.name: scan.summary() for scan in scans}
            save(bond_scan(scans), plots / "bond_scan.png")
        if posterior.sampling is not None:
            numbers |= {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in posterior.sampling._asdict().items()
            }
        if posterior.verdict is not None:
            numbers |= {"verdict": posterior.verdict.to_dict()}
        write_text_atomic(path, to_json(numbers))
    report["diagnostics"] = json.loads(path.read_text())
    path = folder / "metrics.json"
    if test is not None and not path.exists():
        write_text_atomic(path, scores_to_json(assess(posterior, test, plots / "test")))
    elif test is None and held_out is not None and _is_labelled(held_out) and not (plots / "valid").exists():
        assess(posterior, held_out, plots / "valid")
    if path.exists():
        report["metrics"] = json.loads(path.read_text())
    return report


def _read(diagnostics: Path) -> dict[str, Any]:
    """The plain values of a file, none if it is damaged."""
    try:
        content = json.loads(diagnostics.read_text())
    except ValueError:
        return {}
    return {key: value for key, value in content.items() if not isinstance(value, list | dict)}


def _plot_training(log: Path, path: Path) -> None:
    rows = read_jsonl(log) if log.exists() else []
    if rows and not path.exists():
        save(training(rows), path)


def _is_labelled(dataset: Dataset) -> bool:
    return bool(np.isfinite(dataset.energy).any() or np.isfinite(dataset.forces).any())
