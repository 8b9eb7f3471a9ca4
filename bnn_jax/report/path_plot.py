"""A plot of energies and error bars along a path of structures."""

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from bnn_jax.report._figure import BLUE, GREY, ORANGE, new_figure
from bnn_jax.types import Predictive


def energy_path(
    coordinate: Float[np.ndarray, " structure"],
    predictive: Predictive,
    target: Float[np.ndarray, " structure"] | None = None,
    *,
    coordinate_label: str = "Path coordinate",
    known: tuple[float, float] | None = None,
) -> Figure:
    """Predicted energy along a path with its error band, over the reference, and the largest force std below.

    Energies are relative to the lowest reference energy, or to the lowest prediction without one. Where the structures
    lie beyond the validated range the background says so.

    Args:
        coordinate: place of each structure on the path, ascending.
        predictive: of the structures, in path order.
        target: reference energies in eV.
        coordinate_label: what the coordinate is, with its unit.
        known: range of the coordinate that the training set covers, to be shaded.
    """
    figure, (top, bottom) = new_figure(height=6.4, num_rows=2)
    origin = (predictive.energy if target is None else target).min()
    mean, std = predictive.energy - origin, predictive.energy_std
    for multiple, alpha in ((2, 0.18), (1, 0.3)):
        top.fill_between(
            coordinate, mean - multiple * std, mean + multiple * std, color=BLUE, alpha=alpha, linewidth=0,
            label=f"{multiple} std",
        )  # fmt: skip
    top.plot(coordinate, mean, color=BLUE, linewidth=2, label="prediction")
    if target is not None:
        top.plot(coordinate, target - origin, "o", color=ORANGE, markersize=4, label="reference")
    top.set(ylabel="Energy (eV)")
    first = np.cumsum(predictive.num_atoms) - predictive.num_atoms
    for name, values, color, style in (
        ("total", predictive.forces_std, BLUE, "-"),
        ("epistemic", predictive.forces_std_epistemic, ORANGE, "--"),
        ("aleatoric", predictive.forces_std_aleatoric[:, None], GREY, ":"),
    ):
        largest = np.maximum.reduceat(values.max(axis=1), first)
        bottom.plot(coordinate, largest, style, color=color, linewidth=2, label=name)
    bottom.set(xlabel=coordinate_label, ylabel="Largest force std (eV/Å)")
    bottom.set_ylim(bottom=0.0)
    beyond = predictive.structures_beyond_validated
    for axes in (top, bottom):
        if beyond is not None and beyond.any():
            axes.fill_between(
                coordinate, 0, 1, where=beyond.tolist(), step="mid", transform=axes.get_xaxis_transform(), color=ORANGE,
                alpha=0.1, linewidth=0, label="beyond the validated range" if axes is top else None,
            )  # fmt: skip
        if known is not None:
            axes.axvspan(
                *known, color=GREY, alpha=0.12, linewidth=0, label="in the training set" if axes is top else None
            )
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    figure.align_ylabels()
    return figure
