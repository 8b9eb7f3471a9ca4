"""Tables and figure of the augmentation experiment."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from pieces import save_small
from scipy.stats import t

COLOURS = {"guided": "#D55E00", "random": "#666666", "low density": "#0072B2", "stratified": "#009E73"}
MARKERS = {"guided": "o", "random": "s", "low density": "^", "stratified": "v"}
NAMES = {"guided": "PR-guided", "random": "random", "low density": "random, low density", "stratified": "stratified"}
TITLES = {
    "carbon-crystals": "carbon: crystals → spheres",
    "carbon-dense": "carbon: crystals and dense liquids → spheres",
    "silica": "silica: 3 frameworks → 5 others",
}
LEVEL = 0.95
SHOWN = (0, 1, 2, 4, 10)
"""Numbers of added structures in the tables."""
MEV = 1e3


class Interval(NamedTuple):
    """Of a mean."""

    mean: float
    lower: float
    upper: float


def t_interval(values: Sequence[float] | Float[np.ndarray, " seed"], level: float = LEVEL) -> Interval:
    """Student's interval of the mean; NaN ends of one value.

    Args:
        values: one for each seed.
        level: probability that the interval covers the mean, were the values independent and normal.
    """
    array = np.asarray(values, float)
    mean, number = float(array.mean()), len(array)
    if number < 2:
        return Interval(mean, float("nan"), float("nan"))
    half = float(t.ppf((1 + level) / 2, number - 1) * array.std(ddof=1) / np.sqrt(number))
    return Interval(mean, mean - half, mean + half)


def by_seed(seeds: Sequence[Mapping[str, Any]], strategy: str, key: str) -> Float[np.ndarray, "seed step"]:
    """One figure of one strategy."""
    return np.array([seed["strategies"][strategy][key] for seed in seeds])


def _spread(values: Float[np.ndarray, " seed"], decimals: int) -> str:
    spread = f" ± {values.std(ddof=1):.{decimals}f}" if len(values) > 1 else ""
    return f"{values.mean():.{decimals}f}{spread}"


def _between(interval: Interval, decimals: int) -> str:
    ends = "" if np.isnan(interval.lower) else f" [{interval.lower:+.{decimals}f}, {interval.upper:+.{decimals}f}]"
    return f"{interval.mean:+.{decimals}f}{ends}"


def _steps(number: int) -> list[int]:
    return sorted({step for step in SHOWN if step <= number} | {number})


def main_table(name: str, seeds: Sequence[Mapping[str, Any]], number: int) -> str:
    """RMSE of each strategy, and how it differs from the guided one's on the same seeds."""
    steps, decimals = _steps(number), 1 if name == "silica" else 0
    guided = by_seed(seeds, "guided", "rmse_ev_per_atom") * MEV
    heads = ["added structures", *map(str, steps), f"eV/cell at {number}", f"mean PR at {number}, over that at 0"]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for strategy in seeds[0]["strategies"]:
        rmse = by_seed(seeds, strategy, "rmse_ev_per_atom") * MEV
        rigidity = by_seed(seeds, strategy, "mean_rigidity")
        cells = [_spread(rmse[:, step], decimals) for step in steps]
        cells.append(_spread(by_seed(seeds, strategy, "rmse_ev_per_cell")[:, -1], 2 if decimals == 0 else 3))
        cells.append(_spread(rigidity[:, -1] / rigidity[:, 0], 1))
        lines.append(f"| {NAMES[strategy]} | {' | '.join(cells)} |")
    for strategy in list(seeds[0]["strategies"])[1:]:
        rmse = by_seed(seeds, strategy, "rmse_ev_per_atom") * MEV
        cells = [_between(t_interval(guided[:, step] - rmse[:, step]), decimals) if step else "" for step in steps]
        lines.append(f"| PR-guided − {NAMES[strategy]} | {' | '.join([*cells, '', ''])} |")
    return "\n".join(lines)


def sweep_table(sweep: Mapping[str, Any], number: int) -> str:
    """Mean RMSE after the first choice and the last one, for each regulariser."""
    found = sweep["rmse_ev_per_atom"]
    strategies = list(next(iter(found.values())))
    heads = ["ζ² over mean diagonal", "0", *(f"{NAMES[s]}, {n}" for n in sorted({1, number}) for s in strategies)]
    heads.append(f"PR-guided − random at {number}")
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for zeta_squared, each in found.items():
        rmse = {strategy: np.array(values) * MEV for strategy, values in each.items()}
        cells = [f"{rmse['guided'][:, 0].mean():.1f}"]
        cells += [f"{rmse[s][:, n].mean():.1f}" for n in sorted({1, number}) for s in strategies]
        cells.append(_between(t_interval(rmse["guided"][:, number] - rmse["random"][:, number]), 1))
        lines.append(f"| {zeta_squared} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tables(results: Mapping[str, Any]) -> str:
    """All tables, as Markdown."""
    number = results["config"]["number"]
    parts = []
    for name, system in results["systems"].items():
        seeds = system["seeds"]
        first = seeds[0]
        parts.append(
            f"{TITLES[name]}: energy RMSE of the targets in meV/atom, mean ± standard deviation over {len(seeds)}"
            f" seeds; below, paired differences with {LEVEL:.0%} intervals (Student's t)."
            f" {first['num_train']} training structures, {first['num_candidates']} candidates a seed, cutoff"
            f" {first['basis']['cutoff']:g} Å."
        )
        parts.append(main_table(name, seeds, number))
        for sweep in system["sweeps"]:
            parts.append(
                f"{TITLES[name]}, other regularisers, cutoff {sweep['basis']['cutoff']:g} Å: mean energy RMSE in"
                f" meV/atom after 0, 1 and {number} added structures."
            )
            parts.append(sweep_table(sweep, number))
    parts.append(f"Measured on: {results['environment']}")
    return "\n\n".join(parts) + "\n"


def figure(results: Mapping[str, Any], path: Path) -> None:
    """Mean rigidity and RMSE of the targets by number of added structures, after figure 4."""
    systems = results["systems"]
    drawing = Figure(figsize=(8.2, 2.7 * len(systems) + 0.3), dpi=100, layout="constrained")
    panels = drawing.subplots(len(systems), 2, squeeze=False)
    for (name, system), (left, right) in zip(systems.items(), panels, strict=True):
        for strategy in system["seeds"][0]["strategies"]:
            style = {"color": COLOURS[strategy], "marker": MARKERS[strategy], "markersize": 4, "label": NAMES[strategy]}
            _draw(left, by_seed(system["seeds"], strategy, "mean_rigidity"), style)
            _draw(right, by_seed(system["seeds"], strategy, "rmse_ev_per_atom") * MEV, style)
        left.set(yscale="log", ylabel="mean PR of targets (atom²/eV²)")
        left.set_title(TITLES[name], fontsize=10)
        right.set(ylabel="energy RMSE (meV/atom)")
        right.set_ylim(bottom=0)
        sizes = system["seeds"][0]["strategies"]["guided"]
        if name.startswith("carbon"):  # all targets have as many atoms
            factor = sizes["rmse_ev_per_cell"][0] / (MEV * sizes["rmse_ev_per_atom"][0])
            right.secondary_yaxis("right", functions=(lambda y, f=factor: y * f, lambda y, f=factor: y / f)).set_ylabel(
                "(eV/cell)"
            )
    for axes in panels.ravel():
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
    for axes in panels[-1]:
        axes.set_xlabel("added structures")
    panels[0, 1].legend(fontsize=8)
    save_small(drawing, path)


def _draw(axes: Any, values: Float[np.ndarray, "seed step"], style: Mapping[str, Any]) -> None:
    steps, mean = np.arange(values.shape[1]), values.mean(axis=0)
    axes.plot(steps, mean, **style)
    if len(values) > 1:
        spread = values.std(axis=0, ddof=1)
        low = np.maximum(mean - spread, values.min(axis=0))  # positive, as a logarithmic axis needs it
        axes.fill_between(steps, low, mean + spread, color=style["color"], alpha=0.15, linewidth=0)
