"""A plot of what replicas went through in molecular dynamics."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnn_jax.atoms.graph import AnyArray
from bnn_jax.dynamics import Bounds, Trajectory
from bnn_jax.report._figure import BLUE, GREY, ORANGE, new_figure


def trajectory_plot(found: Trajectory, bounds: Bounds | None = None) -> Figure:
    """Temperature, energies and the largest std of a force of every replica over time.

    Frames with atoms beyond the validated range are marked, and so is the end of a replica that left its bounds, which
    are drawn where they are those of a panel.

    Args:
        found: of :func:`bnn_jax.dynamics.simulate`.
        bounds: it was given.
    """
    figure, (temperature, energy, std) = new_figure(height=7.2, num_rows=3)
    bounds, frames = bounds or Bounds(), found.frames
    total = frames.potential_energy + frames.kinetic_energy
    _draw(temperature, found, frames.kelvin)
    temperature.set(ylabel="Temperature (K)")
    _limit(temperature, bounds.kelvin)
    origin = frames.potential_energy[:1]
    _draw(energy, found, frames.potential_energy - origin, label="potential")
    _draw(energy, found, total - origin, GREY, label="total")
    energy.set(ylabel="Energy from first frame (eV)")
    largest = frames.estimate.forces_std.max(axis=(-2, -1))
    _draw(std, found, largest)
    std.set(xlabel="Time (ps)", ylabel="Largest force std (eV/Å)")
    _limit(std, bounds.forces_std)
    beyond = frames.estimate.beyond_validated
    if beyond is not None:
        is_beyond = beyond.any(axis=-1) & _counted(found)
        if is_beyond.any():
            times = np.broadcast_to(found.times_fs[:, None] / 1000, is_beyond.shape)
            std.plot(
                times[is_beyond],
                largest[is_beyond],
                ".",
                color=ORANGE,
                markersize=3,
                label="beyond the validated range",
            )
    for axes in (energy, std):
        if axes.get_legend_handles_labels()[0]:
            legend = axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
            for line in legend.get_lines():
                line.set(linewidth=2, alpha=1)
    std.set_ylim(bottom=0.0)
    figure.align_ylabels()
    return figure


def _counted(found: Trajectory) -> np.ndarray:
    return np.arange(len(found.times_fs))[:, None] < found.num_frames


def _draw(axes: Axes, found: Trajectory, values: AnyArray, color: str = BLUE, label: str | None = None) -> None:
    """A line for each replica, thinner the more there are, and a cross where one left its bounds."""
    num_replicas = len(found.reasons)
    style = {"color": color, "linewidth": max(0.6, 1.6 / num_replicas**0.5), "alpha": max(0.4, num_replicas**-0.5)}
    for k, (number, reason) in enumerate(zip(found.num_frames, found.reasons, strict=True)):
        times = found.times_fs[:number] / 1000
        axes.plot(times, values[:number, k], **style, label=label if k == 0 else None)
        if reason and number:
            axes.plot(times[-1], values[number - 1, k], "x", color=ORANGE, markersize=6)


def _limit(axes: Axes, limit: float | None) -> None:
    if limit is not None:
        axes.axhline(limit, color=ORANGE, linewidth=1, linestyle="--")
