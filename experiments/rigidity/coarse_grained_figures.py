"""Figures and table of the coarse-grained water, from its stored results."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.utils
import numpy as np
from jaxtyping import Float
from liquid_structure import total_variation
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

import bnn_jax
from bnn_jax.checkpoint import write_text_atomic
from bnn_jax.report import save

ROTATION = "-80x,20y,0z"
BOND = 2.5
"""In Angstrom: beads in close contact (figure 9)."""
DISTANCES = (0.0, 1.0, 1.5, 2.0, BOND, 3.0, 9.0)
"""In Angstrom: classes of the nearest distance."""
WINDOW = 50
"""Frames of the moving average."""
ORDER_RANGE = (0.0, 0.5)
BLUE, RED, BLACK = "#0072B2", "#D55E00", "#222222"
LIGHT = "#9cc9e3"


def draw_all(out: Path) -> str:
    """Figures and ``table.md`` of a folder.

    Raises:
        InputError: it holds no results.
    """
    path = out / "results.json"
    if not path.exists():
        raise bnn_jax.InputError(f"{out} holds no results.json; run the experiment without --table-only.")
    results = json.loads(path.read_text())
    save(trajectories(results), out / "coarse_grained-figure8.png")
    save(beads(results["failure"]), out / "coarse_grained-figure9.png")
    text = table(results)
    write_text_atomic(out / "table.md", text)
    return text


def by_size(networks: Sequence[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """Networks of each size of the training set."""
    sizes = sorted({network["num_train"] for network in networks})
    return {size: [network for network in networks if network["num_train"] == size] for size in sizes}


def moving_average(values: Float[np.ndarray, " frame"], window: int) -> Float[np.ndarray, " average"]:
    """Means over all runs of so many values."""
    window = min(window, len(values))
    return np.convolve(values, np.full(window, 1 / window), mode="valid")


def radii(side: float, num_bins: int) -> np.ndarray:
    """Centres of the bins of g(r)."""
    return (np.arange(num_bins) + 0.5) * side / 2 / num_bins


def orders(num_bins: int) -> np.ndarray:
    """Centres of the bins of the order parameter."""
    return (np.arange(num_bins) + 0.5) * (ORDER_RANGE[1] - ORDER_RANGE[0]) / num_bins


def trajectories(results: dict[str, Any]) -> Figure:
    """Relative rigidity, g(r) and order parameter for each size of the training set (figure 8)."""
    groups, reference = by_size(results["networks"]), results["reference"]
    figure = Figure(figsize=(2.1 * len(groups) + 0.8, 6.4), dpi=100, layout="constrained")
    panels = figure.subplots(3, len(groups), sharex="row", sharey="row", squeeze=False)
    whole = reference["all"]
    r, order = radii(reference["side"], len(whole["pair_correlation"])), orders(len(whole["order"]))
    for (top, middle, bottom), (size, networks) in zip(panels.T, groups.items(), strict=True):
        top.set_title(f"{size:,} configurations".replace(",", "\N{NARROW NO-BREAK SPACE}"), fontsize=10)
        _rigidity_panel(top, networks[0])
        for place, (axes, x, name) in enumerate(
            ((middle, r, "pair_correlation"), (bottom, order, "order")),
        ):
            for i, network in enumerate(networks):
                label = "networks" if i == 0 and place == 0 else None
                axes.plot(x, network["trajectory"][name], color=BLUE, linewidth=0.9, alpha=0.8, label=label)
            axes.plot(x, whole[name], color=BLACK, linestyle="--", linewidth=1.2, label="all atoms")
        middle.set_xlabel("r (Å)")
        bottom.set_xlabel(r"$\bar q_4$")
    for axes, label in zip(panels[:, 0], ("relative PR", "g(r)", r"density of $\bar q_4$"), strict=True):
        axes.set_ylabel(label)
    panels[0, 0].legend(fontsize=7, loc="best")
    panels[1, 0].legend(fontsize=7, loc="best")
    for axes in panels.ravel():
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _rigidity_panel(axes: Axes, network: dict[str, Any]) -> None:
    relative, dynamics = np.array(network["rigidity"]["relative"]), network["dynamics"]
    picoseconds = (1 + np.arange(len(relative))) * dynamics["steps_a_frame"] * dynamics["time_step_fs"] / 1000
    average = moving_average(relative, WINDOW)
    axes.plot(picoseconds, relative, color=LIGHT, linewidth=0.6, label="each frame")
    centre = moving_average(picoseconds, WINDOW)
    axes.plot(centre, average, color=BLUE, linewidth=1.4, label=f"moving average, {WINDOW} frames")
    spread = float(np.std(network["rigidity"]["test_relative"]))
    axes.axhspan(1 - spread, 1 + spread, color=RED, alpha=0.15, linewidth=0)
    axes.axhline(1, color=RED, linewidth=1.2, label="test set, mean and std")
    axes.set_xlabel("time (ps)")


def beads(failure: dict[str, Any]) -> Figure:
    """Beads of two configurations coloured by their rigidities, and all against their distances (figure 9)."""
    frames, relative = np.array(failure["positions"]), np.array(failure["relative"])
    figure = Figure(figsize=(12.6, 4.2), dpi=95, layout="constrained")
    *panels, scatter = figure.subplots(1, 3, width_ratios=(1, 1, 0.95))
    shown = relative[[0, -1]]
    norm = LogNorm(shown.min(), max(shown.max(), shown.min() * 1.001))
    what = "last" if failure["is_stable"] else "unstable"
    titles = ("initial configuration", f"{what} configuration, {failure['picoseconds']:.2f} ps")
    for axes, positions, values, title in zip(panels, frames, shown, titles, strict=True):
        _draw_beads(axes, np.mod(positions, failure["side"]), failure["side"], values, norm)
        axes.set_title(title, fontsize=10)
    bar = figure.colorbar(ScalarMappable(norm, "viridis"), ax=panels, shrink=0.85)
    bar.set_label("LPR relative to the mean\nof the initial configuration")
    _draw_distances(scatter, np.array(failure["nearest"]), relative)
    return figure


def _draw_distances(axes: Axes, nearest: np.ndarray, relative: np.ndarray) -> None:
    parts = ((nearest[1:], relative[1:], RED, "unstable frames"), (nearest[:1], relative[:1], BLUE, "initial"))
    for x, y, colour, label in parts:
        axes.scatter(x, y, s=5, color=colour, alpha=0.5, linewidths=0, label=label)
    axes.axvline(BOND, color=BLACK, linewidth=0.8, linestyle=":")
    axes.set_yscale("log")
    axes.set_xlabel("distance to the nearest bead (Å)")
    axes.set_ylabel("relative LPR")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8)


def contacts(positions: Float[np.ndarray, "bead 3"]) -> np.ndarray:
    """Pairs [pair, 2] closer than :data:`BOND` within the cube, without periodic images."""
    first, second = np.triu_indices(len(positions), 1)
    near = np.linalg.norm(positions[second] - positions[first], axis=1) < BOND
    return np.stack([first[near], second[near]], axis=1)


def _draw_beads(axes: Axes, positions: np.ndarray, side: float, values: np.ndarray, norm: LogNorm) -> None:
    turned = positions @ ase.utils.rotate(ROTATION)
    corners = side * np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    flat = corners @ ase.utils.rotate(ROTATION)
    for i, corner in enumerate(corners):
        for j in range(i):
            if np.count_nonzero(corner - corners[j]) == 1:
                axes.plot(*flat[[i, j], :2].T, color="#aaaaaa", linewidth=0.8, zorder=0)
    order = np.argsort(turned[:, 2])
    for first, second in contacts(positions):
        axes.plot(*turned[[first, second], :2].T, color=BLACK, linewidth=2.2, zorder=1)
    colours = colormaps["viridis"](norm(values[order]))
    axes.scatter(*turned[order, :2].T, s=85, c=colours, edgecolors="#333333", linewidths=0.5, zorder=2)
    axes.set_aspect("equal")
    axes.set_axis_off()


def deviations(found: dict[str, Any], reference: dict[str, Any]) -> tuple[float, float]:
    """Root mean square deviation of g(r) beyond 2.4 Angstrom, and total variation of the order parameter."""
    whole = reference["all"]
    g, order = np.array(found["pair_correlation"]), np.array(found["order"])
    far = radii(reference["side"], len(g)) > 2.4
    width = np.full(len(order), (ORDER_RANGE[1] - ORDER_RANGE[0]) / len(order))
    rms = float(np.sqrt(np.mean((g - np.array(whole["pair_correlation"]))[far] ** 2)))
    return rms, total_variation(order, np.array(whole["order"]), width)


def table(results: dict[str, Any]) -> str:
    """One row for each size of the training set: means over seeds, and their standard deviations."""
    reference = results["reference"]
    header = (
        "configurations",
        "seeds",
        "test force RMSE, meV/Å",
        "relative PR of the trajectory",
        "its lowest frame",
        "g(r), RMS deviation",
        "q4, total variation",
        "closest pair, Å",
        "unstable",
        "temperature, K",
        "NVE drift, µeV a bead and ps",
    )
    lines = ["| " + " | ".join(header) + " |", "|" + "---:|" * len(header)]
    for size, networks in by_size(results["networks"]).items():
        pairs = np.array([deviations(network["trajectory"], reference) for network in networks])
        relative = [np.array(network["rigidity"]["relative"]) for network in networks]
        cells = (
            str(size),
            str(len(networks)),
            spread([1000 * network["errors"]["test_forces_rmse"] for network in networks], 2),
            spread([values.mean() for values in relative], 4),
            spread([values.min() for values in relative], 3),
            spread(pairs[:, 0], 3),
            spread(pairs[:, 1], 3),
            f"{min(network['trajectory']['closest'] for network in networks):.2f}",
            str(sum(not network["trajectory"]["is_stable"] for network in networks)),
            spread([network["trajectory"]["temperature"] for network in networks], 1),
            spread([1000 * network["conservation"]["drift_mev_per_bead_per_ps"] for network in networks], 1),
        )
        lines.append("| " + " | ".join(cells) + " |")
    blocks = np.array([deviations(block, reference) for block in reference["blocks"]])
    first = results["networks"][0]
    failure = results["failure"]
    tried = ", ".join(f"{attempt['time_step_fs']:g}" for attempt in failure["attempts"])
    lines += [
        "",
        f"Blocks of the all-atom simulation as long as a trajectory, against all of it: g(r) {spread(blocks[:, 0], 3)},"
        f" q4 {spread(blocks[:, 1], 3)}; its closest pair {reference['closest']:.2f} Å. Forces of the test set:"
        f" {1000 * first['errors']['test_forces_rms']:.1f} meV/Å (root mean square).",
        "",
        f"Figure 9: {failure['num_train']} configurations, seed {failure['seed']}, time step"
        f" {failure['time_step_fs']:g} fs (tried: {tried or 'none'} fs); {failure['temperature']:.0f} K after"
        f" {failure['picoseconds']:.2f} ps.",
        "",
        *distance_table(failure),
        "",
        f"Measured on: {first['environment']}",
        "",
    ]
    return "\n".join(lines)


def distance_table(failure: dict[str, Any]) -> list[str]:
    """Relative rigidities of beads by the distance to their nearest one: initially, and in all unstable frames."""
    nearest, relative = np.array(failure["nearest"]), np.array(failure["relative"])
    lines = ["| nearest bead, Å | beads | relative LPR: 5 % | median | 95 % |", "|---|---:|---:|---:|---:|"]
    rows = [("initial configuration", relative[0])]
    for low, high in itertools.pairwise(DISTANCES):
        chosen = (nearest[1:] >= low) & (nearest[1:] < high)
        rows.append((f"unstable, {low:g} to {high:g}", relative[1:][chosen]))
    for name, values in rows:
        cells = [f"{value:.2f}" for value in np.quantile(values, (0.05, 0.5, 0.95))] if len(values) else ["-"] * 3
        lines.append("| " + " | ".join([name, str(len(values)), *cells]) + " |")
    return lines


def spread(values: Sequence[float] | np.ndarray, digits: int) -> str:
    """Mean and standard deviation, as text."""
    values = np.asarray(values, np.float64)
    mean = f"{values.mean():.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {values.std(ddof=1):.{digits}f}"
