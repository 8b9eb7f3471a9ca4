"""Plots of a chain: its course, and how well its samples mix."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from bnn_jax.report._figure import BLUE, GREY, ORANGE, new_figure
from bnn_jax.types import InputError

TRAINING_PANELS: tuple[tuple[str, tuple[tuple[str, str], ...], bool], ...] = (
    ("Loss", (("loss", "training"), ("valid_loss", "validation")), False),
    (
        "Validation\nforce error (eV/Å)",
        (("valid_forces_mae", "MAE"), ("valid_forces_rmse", "RMSE")),
        True,
    ),
    ("Step size", (("step_size", "step size"),), True),
    ("Learning rate", (("learning_rate", "learning rate"),), True),
    (
        "Temperature",
        (
            ("kinetic_temperature", "kinetic"),
            ("temperature", "target"),
            ("configurational_temperature", "configurational"),
        ),
        False,
    ),
)
"""Axis label, (key, legend) of each line, and whether values are positive, of the panels of :func:`training`."""


def training(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Course of a chain: a panel for each group of ``TRAINING_PANELS`` that the log has.

    Args:
        rows: log rows, each with ``step`` and any of ``loss``, ``valid_forces_mae`` and ``valid_forces_rmse``
            (eV/Angstrom), ``step_size``, ``temperature`` and ``kinetic_temperature`` (dimensionless). Where steps begin
            anew, with the next group of chains, so does the line. A row may lack a key; values that are not finite, or
            not positive where they should be, are left out.

    Raises:
        InputError: no row holds a step and a value.
    """
    lines = {key: _series(rows, key, positive) for _, keys, positive in TRAINING_PANELS for key, _ in keys}
    panels = [panel for panel in TRAINING_PANELS if any(lines[key][0].size for key, _ in panel[1])]
    if not panels:
        wanted = ", ".join(lines)
        raise InputError(f"The log has no row with a step and one of {wanted}; pass the rows that the chain logged.")
    figure, column = new_figure(height=0.8 + 1.6 * len(panels), num_rows=len(panels))
    for axes, (label, keys, positive) in zip(column, panels, strict=True):
        for (key, name), color, style in zip(keys, (BLUE, ORANGE, GREY), ("-", "--", ":"), strict=False):
            steps, values = (np.insert(line, _starts(lines[key][0]), np.nan) for line in lines[key])
            axes.plot(
                steps, values, style, marker="o" if steps.size < 30 else "", markersize=3, color=color, label=name
            )
        axes.set(ylabel=label, yscale=_scale([lines[key][1] for key, _ in keys], positive))
        if len(keys) > 1:
            axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.98), ncols=len(keys), frameon=False)
    column[-1].set_xlabel("Step")
    figure.align_ylabels()
    return figure


def rhat(
    values: Float[np.ndarray, " quantity"],
    *,
    limit: float = 1.05,
    quantity: str = "Predicted quantities",
) -> Figure:
    """Histogram of split R-hat over many scalars, with the share beyond a limit.

    Args:
        values: R-hat of each scalar (a force component, an energy, a parameter); what is not finite is counted apart.
        limit: value above which chains count as not mixed; 1.01 is the strict choice of Vehtari et al. (2021).
        quantity: what was monitored, for the label.

    Raises:
        InputError: no value is finite.
    """
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        raise InputError("No R-hat is finite; draw at least two samples in each of two half-chains.")
    figure, (axes,) = new_figure()
    high = max(float(finite.max()), limit + 0.2 * (limit - 1.0))
    low = min(float(finite.min()), 1.0)
    above = 100.0 * np.mean(finite > limit)
    axes.hist(finite, bins=min(60, 10 + int(np.sqrt(finite.size))), range=(low, high), color=BLUE, alpha=0.7)
    axes.axvline(1.0, color=GREY, linewidth=1, label="mixed (1)")
    axes.axvline(limit, color=ORANGE, linestyle="--", linewidth=2, label=f"{above:.1f} % above {limit:g}")
    if finite.size < values.size:
        axes.plot([], [], " ", label=f"{values.size - finite.size} not finite, not shown")
    axes.set(xlabel="Split R-hat", ylabel=f"Number of {quantity.lower()}")
    axes.legend(loc="upper right")
    return figure


def _series(rows: Sequence[Mapping[str, Any]], key: str, positive: bool) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(row["step"], row[key]) for row in rows if "step" in row and row.get(key) is not None]
    array = np.asarray(pairs, dtype=np.float64).reshape(-1, 2)
    lowest = 0.0 if positive else -np.inf
    steps, values = array[np.isfinite(array).all(axis=1) & (array[:, 1] > lowest)].T
    return steps, values


def _starts(steps: np.ndarray) -> np.ndarray:
    """Where another group of chains begins, or goes on."""
    return np.flatnonzero(np.diff(steps) < 0) + 1


def _scale(lines: Sequence[np.ndarray], positive: bool) -> Literal["linear", "log", "symlog"]:
    values = np.concatenate(lines)
    if positive:
        return "log" if values.max() > 10.0 * values.min() else "linear"
    # A transient that would flatten all that follows it.
    settled = max(np.ptp(line[line.size // 2 :]) for line in lines if line.size)
    return "symlog" if np.ptp(values) > max(20.0 * settled, 10.0) else "linear"
