"""Plots of several methods side by side: error against uncertainty, calibration, ROC, retention."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from bnn_jax.metrics import calibration_curve, outlier_roc_curve, retention_curve
from bnn_jax.report._figure import GREY, new_figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""Okabe and Ito's, for methods in their order."""
STYLES = ("-", "--", "-.", ":")
NUM_POINTS = 200
"""Of a curve."""


class Curves(NamedTuple):
    """Force components of one method, those of all its seeds together, in kcal/mol/Angstrom."""

    errors: Float[np.ndarray, " element"]
    stds: Float[np.ndarray, " element"]
    scores: Float[np.ndarray, " element"]


def error_vs_score(methods: Mapping[str, Curves]) -> Figure:
    """Hexagons of absolute error over what each method ranks by, a panel a method.

    Both axes are logarithmic; where the scores are no standard deviations (they may be negative) theirs is linear.

    Args:
        methods: by name.

    Reference: Tan et al. (2023), figure 2a.
    """
    columns = min(3, len(methods))
    rows = -(-len(methods) // columns)
    figure, panels = new_figure(4.2 * columns, 3.6 * rows, rows, columns, share_x=False)
    for axes in panels[len(methods) :]:
        axes.remove()
    high = max(float(np.abs(curves.errors).max()) for curves in methods.values()) or 1.0  # all errors may be zero
    for axes, (name, curves) in zip(panels, methods.items(), strict=False):
        errors = np.maximum(np.abs(curves.errors), 1e-4 * high)
        is_std = bool((curves.stds > 0).all()) and np.array_equal(curves.stds, curves.scores)
        scale = "log" if (curves.scores > 0).all() else "linear"
        axes.hexbin(
            curves.scores,
            errors,
            gridsize=45,
            bins="log",
            mincnt=1,
            cmap="cividis_r",
            xscale=scale,
            yscale="log",
            linewidths=0.1,
        )
        if is_std:
            ends = np.array([curves.scores.min(), curves.scores.max()])
            axes.plot(ends, ends, color=PALETTE[1], linewidth=1.5, label="error = std")
            axes.legend(loc="lower right")
        axes.set(title=name, xlabel="std (kcal/mol/Å)" if is_std else "score", ylabel="|error| (kcal/mol/Å)")
        axes.set_ylim(1e-4 * high, 1.5 * high)
        if scale == "log":
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
    return figure


def calibrations(methods: Mapping[str, Curves]) -> Figure:
    """Observed against expected coverage of the methods that have error bars, before any recalibration.

    Args:
        methods: by name; at least one of them with error bars.
    """
    figure, (axes,) = new_figure(height=5.6)
    levels = np.linspace(0, 1, NUM_POINTS)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    for i, (name, curves) in enumerate(methods.items()):
        if (curves.stds > 0).all():
            observed = calibration_curve(np.zeros_like(curves.errors), curves.stds, curves.errors, levels)
            axes.plot(levels, observed, label=name, **_style(i))
    axes.set(xlabel="Expected coverage of central interval", ylabel="Observed coverage", xlim=(0, 1), ylim=(0, 1))
    axes.set_aspect("equal")
    axes.legend(loc="upper left")
    return figure


def rocs(methods: Mapping[str, Curves], threshold: float) -> Figure:
    """Detection of errors beyond a threshold; a method whose classes leave it undefined is named without a curve.

    Args:
        methods: by name.
        threshold: in kcal/mol/Angstrom.
    """
    figure, (axes,) = new_figure(height=5.6)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    for i, (name, curves) in enumerate(methods.items()):
        if not np.isfinite(curves.scores).all():
            continue
        curve = outlier_roc_curve(curves.errors, curves.scores, threshold)
        count = int(np.sum(np.abs(curves.errors) > threshold))
        label = f"{name} ({count} outliers)" if curve.score.size else f"{name}: not defined ({count} outliers)"
        axes.plot(curve.false_positive_rate, curve.true_positive_rate, label=label, **_style(i))
    axes.set(xlabel="False positive rate", ylabel="True positive rate", xlim=(-0.01, 1), ylim=(0, 1.01))
    axes.set_aspect("equal")
    axes.legend(loc="lower right", title=f"|error| > {threshold:g} kcal/mol/Å")
    return figure


def retentions(methods: Mapping[str, Curves]) -> Figure:
    """Mean absolute error left when the most uncertain components are handed to an oracle, over that without one.

    Args:
        methods: by name.
    """
    figure, (axes,) = new_figure()
    axes.plot([0, 1], [1, 0], color=GREY, linewidth=1, label="random")
    for i, (name, curves) in enumerate(methods.items()):
        if not np.isfinite(curves.scores).all():
            continue
        curve = retention_curve(curves.errors, curves.scores)
        chosen = np.linspace(0, len(curve.fraction) - 1, NUM_POINTS).astype(int)
        axes.plot(1 - curve.fraction[chosen], curve.error[chosen] / (curve.error[-1] or 1.0), label=name, **_style(i))
    axes.set(xlabel="Fraction handed to the oracle", ylabel="Mean |error| left, relative", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper right")
    return figure


def _style(index: int) -> dict[str, Any]:
    return {"color": PALETTE[index % len(PALETTE)], "linestyle": STYLES[index % len(STYLES)], "linewidth": 1.8}
