"""The results of the experiment beside the paper's, in kcal/mol and kcal/mol/Angstrom."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from bnn_jax.types import InputError
from bnn_jax.units import EV_PER_KCAL_PER_MOL

NAN = math.nan
# Force MAE, RMSE, MLL and ROC-AUC in kcal/mol/Angstrom (Rensmeyer et al. 2024, doi:10.1039/d4dd00183d, table 4).
PAPER = {
    "aspirin": {"dropout": (0.215, 0.340, -1.85, 0.800), "proposed": (0.144, 0.229, 0.22, 0.952)},
    "ethanol": {"dropout": (0.078, 0.147, 0.74, 0.897), "proposed": (0.064, 0.115, 1.03, 0.993)},
    "uracil": {"dropout": (0.082, 0.141, 0.71, 0.888), "proposed": (0.085, 0.138, 0.83, 0.986)},
    "malonaldehyde": {"dropout": (0.145, 0.259, -0.18, 0.824), "proposed": (0.099, 0.170, 0.49, 0.983)},
    "salicylic": {"dropout": (0.108, 0.199, 0.14, 0.809), "proposed": (0.109, 0.182, 0.63, 0.977)},
    "naphthalene": {"dropout": (0.044, 0.069, 1.19, 0.902), "proposed": (0.043, 0.069, 1.63, 0.995)},
    "toluene": {"dropout": (0.052, 0.084, 1.11, 0.894), "proposed": (0.051, 0.082, 1.43, 0.995)},
    "benzene": {"dropout": (0.020, 0.032, 1.50, NAN), "proposed": (0.010, 0.016, 3.06, NAN)},
}

# Key of `bnn_jax.evaluate`, heading, decimals.
COLUMNS = (
    ("forces_mae", "force MAE", 3),
    ("forces_rmse", "force RMSE", 3),
    ("forces_mll", "force MLL, normal", 2),
    ("forces_mll_mixture", "force MLL, mixture", 2),
    ("forces_auroc", "ROC-AUC", 3),
    ("forces_nece", "NECE", 3),
    ("energy_mae", "energy MAE", 3),
    ("energy_rmse", "energy RMSE", 3),
    ("energy_mll", "energy MLL, normal", 2),
    ("energy_mll_mixture", "energy MLL, mixture", 2),
)
PAPER_COLUMNS = ("forces_mae", "forces_rmse", "forces_mll", "forces_auroc")


def in_kcal_per_mol(scores: Mapping[str, float | None]) -> dict[str, float]:
    """The figures of ``bnn_jax.evaluate`` that the tables show, converted; what is absent or null becomes NaN.

    A density goes as one over its unit: the NECE, itself a density, is multiplied by the kcal/mol in eV, and a log
    likelihood gains its logarithm.
    """
    converted = {}
    for key, _, _ in COLUMNS:
        value = scores.get(key)
        if value is None:
            converted[key] = NAN
        elif "_mll" in key:
            converted[key] = value + math.log(EV_PER_KCAL_PER_MOL)
        elif key.endswith("_nece"):
            converted[key] = value * EV_PER_KCAL_PER_MOL
        else:
            converted[key] = value if key.endswith("_auroc") else value / EV_PER_KCAL_PER_MOL
    return converted


def read_results(out: Path) -> list[dict[str, Any]]:
    """What the seeds left in the folder, by seed.

    Raises:
        InputError: there is nothing.
    """
    results = [json.loads(path.read_text()) for path in out.glob("results-seed-*.json")]
    if not results:
        raise InputError(f"{out} holds no results-seed-*.json; run the experiment without --table-only first.")
    return sorted(results, key=lambda result: result["seed"])


def _cell(value: float, decimals: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{decimals}f}"


def _row(name: str, values: Mapping[str, float], *more: str) -> str:
    cells = [_cell(values.get(key, NAN), decimals) for key, _, decimals in COLUMNS]
    return f"| {' | '.join([name, *cells, *more])} |"


def _head(first: str, *more: str) -> str:
    names = [first, *(name for _, name, _ in COLUMNS), *more]
    return f"| {' | '.join(names)} |\n|{'---|' + '---:|' * (len(names) - 1)}"


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: mean(row[key] for row in rows) for key, _, _ in COLUMNS}


def results_table(results: Sequence[Mapping[str, Any]]) -> str:
    """One row for each seed, their mean, and the paper's rows; all samples of each fit."""
    num_samples = {max(int(count) for count in result["scores"]) for result in results}
    rows = [in_kcal_per_mol(result["scores"][_last(result)]) for result in results]
    # A resumed fit ran for longer than its last process.
    seconds = [f"{'> ' if result['fit_resumed'] else ''}{result['fit_seconds']:.0f}" for result in results]
    lines = [_head("", "fit, s")]
    lines += [
        _row(f"seed {result['seed']}", row, time) for result, row, time in zip(results, rows, seconds, strict=True)
    ]
    fit_mean = f"{mean(result['fit_seconds'] for result in results):.0f}"
    any_resumed = any(result["fit_resumed"] for result in results)
    lines.append(_row("**mean**", _mean(rows), f"{'> ' if any_resumed else ''}{fit_mean}"))
    published = PAPER.get(results[0]["molecule"], {})
    for kind, name in (("proposed", "paper, proposed algorithm"), ("dropout", "paper, dropout")):
        if kind in published:
            lines.append(_row(name, dict(zip(PAPER_COLUMNS, published[kind], strict=True)), "-"))
    counts = ", ".join(str(count) for count in sorted(num_samples))
    first = results[0]
    sizes = ", ".join(f"{first[f'num_{part}']} {part}" for part in ("train", "valid", "test"))
    title = f"rMD17 {first['molecule']}, preset {first['preset']}, K = {counts} samples, {sizes} structures"
    return f"{title}; kcal/mol and kcal/mol/Å\n\n" + "\n".join(lines)


def samples_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Influence of the number of samples, mean over seeds; the samples take turns over the chains."""
    counts = [int(count) for count in results[0]["scores"]]
    counts = sorted(count for count in counts if all(str(count) in result["scores"] for result in results))
    lines = [_head("K")]
    for count in counts:
        lines.append(_row(str(count), _mean([in_kcal_per_mol(result["scores"][str(count)]) for result in results])))
    return "K samples, taken in turn from the chains, mean over seeds\n\n" + "\n".join(lines)


def _last(result: Mapping[str, Any]) -> str:
    return max(result["scores"], key=int)


def tables(results: Sequence[Mapping[str, Any]]) -> str:
    """Both tables and where they were measured, as Markdown."""
    machines = "\n".join(sorted({f"Measured on: {result['environment']}" for result in results}))
    return f"{results_table(results)}\n\n{samples_table(results)}\n\n{machines}\n"
