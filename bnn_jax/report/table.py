"""The figures of an evaluation as text: a table to read, strict JSON for scripts."""

import json
import math
from collections.abc import Mapping
from typing import Any

from bnn_jax.units import EV_PER_KCAL_PER_MOL

UNITS = {
    "energy": "eV",
    "forces": "eV/Angstrom",
    "mll": "natural logarithm of a density in 1/eV, or 1/(eV/Angstrom)",
    "nece": "1/(eV/Angstrom)",
    "auroc": "dimensionless",
    "interval_coverage": "dimensionless",
    "rms_z": "dimensionless",
    "coverage": "dimensionless",
    "rll": "dimensionless",
    "seconds": "s",
}
"""What the figures of :func:`bnn_jax.evaluate` are in."""

# Row name, key, key of the figure without the epistemic part, and how the figure depends on the unit.
_ROWS = (
    ("energy MAE", "energy_mae", None, "same"),
    ("energy RMSE", "energy_rmse", None, "same"),
    ("energy std, mean", "energy_std", None, "same"),
    ("energy coverage", "energy_interval_coverage", None, "none"),
    ("energy half-width", "energy_half_width", None, "same"),
    ("energy rms z", "energy_rms_z", None, "none"),
    ("energy within 68 %", "energy_coverage_68", None, "none"),
    ("energy within 95 %", "energy_coverage_95", None, "none"),
    ("energy CRPS", "energy_crps", None, "same"),
    ("energy MLL", "energy_mll", "energy_mll_aleatoric", "log density"),
    ("forces MAE", "forces_mae", None, "same"),
    ("forces RMSE", "forces_rmse", None, "same"),
    ("forces std, mean", "forces_std", "forces_std_aleatoric", "same"),
    ("forces coverage", "forces_interval_coverage", None, "none"),
    ("forces half-width", "forces_half_width", None, "same"),
    ("forces rms z", "forces_rms_z", None, "none"),
    ("forces within 68 %", "forces_coverage_68", None, "none"),
    ("forces within 95 %", "forces_coverage_95", None, "none"),
    ("forces CRPS", "forces_crps", None, "same"),
    ("forces energy score", "forces_energy_score", None, "same"),
    ("forces RLL", "forces_rll", None, "none"),
    ("forces MLL", "forces_mll", "forces_mll_aleatoric", "log density"),
    ("forces NECE", "forces_nece", None, "density"),
    ("forces AUROC", "forces_auroc", "forces_auroc_aleatoric", "none"),
    ("forces AUROC, swept", "forces_auroc_swept", None, "none"),
)


def score_table(scores: Mapping[str, float]) -> str:
    """The figures of :func:`bnn_jax.evaluate`, in eV and in kcal/mol, with and without the epistemic part.

    A log likelihood in kcal/mol is that in eV plus the logarithm of the kcal/mol in eV, since a density goes as one
    over its unit.

    Args:
        scores: as ``evaluate`` returns them; a figure that is absent or NaN shows as a dash.
    """
    head = (
        f"{'':<20}{'eV, eV/Å':^24}  {'kcal/mol, kcal/mol/Å':^24}",
        f"{'':<20}" + "  ".join([f"{'total':>10}{'aleatoric':>14}"] * 2),
    )
    lines = [_line(scores, *row) for row in _ROWS if row[1] in scores]
    num_structures, num_samples = int(scores["num_structures"]), int(scores["num_samples"])
    title = f"{num_structures} structures, {num_samples} samples"
    if "seconds" in scores:
        title += f", {scores['seconds']:.1f} s"
    return "\n".join([title, *head, *lines])


def family_table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Whether stds are as wide as the errors, family by family.

    Args:
        scores: figures of :func:`bnn_jax.evaluate` of each family, by its name.
    """
    width = min(max(len(name) for name in ("family", *scores)), 40)
    columns = [("structures", "num_structures"), ("beyond", "num_beyond_validated")]
    for name, short in (("energy", "E"), ("forces", "F")):
        columns += [(f"{short} MAE", f"{name}_mae"), (f"{short} rms z", f"{name}_rms_z")]
        columns += [(f"{short} in {level} %", f"{name}_coverage_{level}") for level in ("68", "95")]
    lines = [f"{'family':<{width}}" + "".join(f"{title:>12}" for title, _ in columns)]
    for name, each in scores.items():
        lines.append(
            f"{name[:width]:<{width}}" + "".join(_cell(float(each.get(key, math.nan)), 12) for _, key in columns)
        )
    note = "beyond: structures beyond the validated range; E in eV, F in eV/Å; shares within one and two stds."
    return "\n".join([*lines, note])


def beyond_note(num_beyond: int, num_structures: int, scores: Mapping[str, float] | None = None) -> str | None:
    """A sentence on the structures beyond the validated range; None where there is none.

    Args:
        num_beyond: of them.
        num_structures: of all.
        scores: as ``evaluate`` returns them, for the coverage within the range and beyond it.
    """
    if num_beyond == 0:
        return None
    text = (
        f"{num_beyond} of {num_structures} structures lie beyond the validated range (an atom's expected error is"
        " larger than any of its element in the validation set, or its neighbours are nearer, further, fewer or more"
        " than any in the labelled structures): no label has checked error bars there."
    )
    shares = [(scores or {}).get(f"forces_coverage_95_{where}") for where in ("within", "beyond")]
    within, beyond = (float("nan") if share is None else 100 * share for share in shares)
    if math.isnan(within) or math.isnan(beyond):
        return text
    return f"{text} Here 95 % intervals of forces hold {within:.0f} % within the range and {beyond:.0f} % beyond it."


def _line(scores: Mapping[str, float], name: str, key: str, aleatoric_key: str | None, kind: str) -> str:
    values = (scores[key], scores.get(aleatoric_key) if aleatoric_key else None)
    cells = "  ".join(
        f"{_cell(first, 10)}{_cell(second, 14)}"
        for first, second in (values, tuple(_in_kcal_per_mol(value, kind) for value in values))
    )
    return f"{name:<20}{cells}".rstrip()


def _in_kcal_per_mol(value: float | None, kind: str) -> float | None:
    if value is None:
        return None
    if kind == "same":
        return value / EV_PER_KCAL_PER_MOL
    if kind == "density":
        return value * EV_PER_KCAL_PER_MOL
    return value + math.log(EV_PER_KCAL_PER_MOL) if kind == "log density" else None


def _cell(value: float | None, width: int) -> str:
    if value is None:
        return " " * width
    return f"{'-' if math.isnan(value) else f'{value:.4g}':>{width}}"


def scores_to_json(scores: Mapping[str, Any]) -> str:
    """The figures and their units as strict JSON, where what is not finite becomes null.

    Args:
        scores: as :func:`bnn_jax.evaluate` returns them, those of families under ``families``.
    """
    return to_json(dict(scores) | {"units": UNITS})


def to_json(values: Mapping[str, object]) -> str:
    """Plain values as strict JSON, where a number that is not finite becomes null.

    Args:
        values: strings, numbers, and lists and dictionaries of them.
    """

    def strict(value: object) -> object:
        if isinstance(value, Mapping):
            return {key: strict(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [strict(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(strict(values), indent=2, allow_nan=False) + "\n"
