"""Tables and figures of the embedding experiment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
from ase.visualize.plot import plot_atoms
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pieces import save_small

COLOURS = {"original": "#666666", "cluster": "#E69F00", "periodic": "#0072B2", "crystal": "#D55E00"}
MARKERS = {"original": "s", "cluster": "v", "periodic": "o", "crystal": "^"}
NAMES = {
    "original": "original structure",
    "cluster": "cluster carving",
    "periodic": "periodic embedding",
    "crystal": "HS embedding (diamond)",
}
KINDS = {"environment": "#4477CC", "crystal's environment": "#CC3333", "buffer": "#CCCCCC"}
"""Colours of the atoms drawn, in the order of the array ``kind``."""
PERCENT = 100.0


def by_environment(model: Mapping[str, Any], strategy: str) -> Float[np.ndarray, "environment count"]:
    """Enhancements in percent."""
    return PERCENT * np.array([each["enhancement"][strategy] for each in model["environments"]])


def _significant(values: Float[np.ndarray, " environment"]) -> str:
    spread = f" ± {values.std(ddof=1):.2g}" if len(values) > 1 else ""
    return f"{values.mean():.3g}{spread}"


def enhancement_table(model: Mapping[str, Any]) -> str:
    """Enhancements by number of added structures, and what the structures are."""
    counts, environments = model["counts"], model["environments"]
    shown = [count for count in (1, 3, 10, 30, 100) if count in counts]
    heads = ["", "atoms", "of them buffer", "change of the central atom's features", *(f"{n} added, %" for n in shown)]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for strategy, name in NAMES.items():
        sizes = np.array([each["num_atoms"].get(strategy, model["num_atoms"]) for each in environments])
        buffers = [each["num_buffer"].get(strategy) for each in environments]
        changes = [each["feature_change"].get(strategy) for each in environments]
        cells = [_range(sizes)]
        cells.append("" if buffers[0] is None else _range(np.array(buffers)))
        cells.append("" if changes[0] is None else f"{max(changes):.1g}")
        values = by_environment(model, strategy)
        cells += [_significant(values[:, counts.index(count)]) for count in shown]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _range(sizes: np.ndarray) -> str:
    low, high = int(sizes.min()), int(sizes.max())
    return f"{low}" if low == high else f"{low}–{high}"


def wins(model: Mapping[str, Any], count: int) -> dict[str, int]:
    """In how many environments each strategy is the best after ``count`` added structures."""
    place = model["counts"].index(count)
    values = np.array([by_environment(model, strategy)[:, place] for strategy in NAMES])
    return dict(zip(NAMES, np.bincount(values.argmax(axis=0), minlength=len(NAMES)).tolist(), strict=True))


def tables(results: Mapping[str, Any]) -> str:
    """All tables, as Markdown."""
    found = results["dynamics"]
    parts = [
        "Network: errors on structures kept out (valid) and on each file, most of which it was trained on.",
        errors_table(results["network_errors"]),
        f"Dynamics, {found['num_atoms']} atoms in the end (edge {found['edge']:.2f} Å):",
        dynamics_table(found["rows"]),
        "Share of atoms by number of neighbours within 1.9 Å: "
        + ", ".join(f"{number}: {share:.1%}" for number, share in found["coordination"].items() if share >= 5e-4)
        + ".",
    ]
    for name, model in results["models"].items():
        low, first, median, last, high = model["rigidity_quantiles"]
        parts.append(
            f"{name.capitalize()}, radius {model['radius']:g} Å: enhancement of the LPR in percent, mean ± standard"
            f" deviation over {len(model['environments'])} environments ({len(model['refused'])} others had atoms in"
            f" close contact). LPR of all atoms: lowest {low:.3g}, median"
            f" {median:.3g}, highest {high:.3g} (1% quantile {first:.3g}, 99% quantile {last:.3g})."
        )
        parts.append(enhancement_table(model))
        best = "; ".join(
            f"after {count}: " + ", ".join(f"{NAMES[s]} {n}" for s, n in wins(model, count).items() if n)
            for count in model["counts"]
            if count in (1, 10, 100)
        )
        parts.append(f"Environments in which a strategy is the best, {best}.")
    parts.append(f"Measured on: {results['environment']}")
    return "\n\n".join(parts) + "\n"


def errors_table(errors: Mapping[str, Mapping[str, float]]) -> str:
    """Of the network, by file."""
    lines = [
        "| | structures | energy, mean error ± standard deviation, eV/atom | forces, RMSE, eV/Å | forces, rms, eV/Å |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, each in errors.items():
        lines.append(
            f"| {name} | {each['num_structures']}"
            f" | {each['energy_mean_error']:+.3f} ± {each['energy_std_of_error']:.3f}"
            f" | {each['forces_rmse']:.2f} | {each['forces_rms']:.2f} |"
        )
    return "\n".join(lines)


def dynamics_table(stages: Mapping[str, list[Mapping[str, float]]]) -> str:
    """Of the second half of each stage; the displacement at its end."""
    lines = [
        "| stage | steps of 1 fs | temperature, K | energy, eV/atom | shortest distance, Å |"
        " mean square displacement, Å² |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, rows in stages.items():
        late = rows[len(rows) // 2 :]
        temperature, energy = (np.array([row[key] for row in late]) for key in ("temperature", "energy_per_atom"))
        lines.append(
            f"| {name} | {rows[-1]['step']} | {temperature.mean():.0f} ± {temperature.std():.0f}"
            f" | {energy.mean():.3f} |"
            f" {min(row['min_distance'] for row in late):.2f} | {rows[-1]['msd']:.2f} |"
        )
    return "\n".join(lines)


def figures(results: Mapping[str, Any], out: Path) -> None:
    """Everything that can be drawn."""
    enhancement_figure(results, out / "embedding.png")
    liquid_figure(results["dynamics"], out / "embedding-liquid.png")


def enhancement_figure(results: Mapping[str, Any], path: Path) -> None:
    """The structures drawn, and what they do for the rigidity, after figure 5."""
    models = results["models"]
    drawing = Figure(figsize=(9.0, 3.4 + 3.0 * len(models)), dpi=100, layout="constrained")
    upper, *lower = drawing.subfigures(1 + len(models), 1, height_ratios=[1.1] + [1.0] * len(models))
    for axes, name in zip(upper.subplots(1, 3), ("cluster", "periodic", "crystal"), strict=True):
        _draw_structure(axes, path.parent / f"drawn-{name}.extxyz", NAMES[name])
    handles = [
        Line2D([], [], marker="o", color=colour, linestyle="", markeredgecolor="k", label=kind)
        for kind, colour in KINDS.items()
    ]
    upper.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    for part, (name, model) in zip(lower, models.items(), strict=True):
        left, right = part.subplots(1, 2, width_ratios=[1, 1.5])
        _bars(left, model)
        _curves(right, model)
        left.set_title(f"{name}, radius {model['radius']:g} Å", fontsize=10)
    save_small(drawing, path)


def _draw_structure(axes: Any, path: Path, title: str) -> None:
    structure = ase.io.read(path)
    assert isinstance(structure, ase.Atoms)
    colours = [list(KINDS.values())[kind] for kind in structure.arrays["kind"].astype(int)]
    plot_atoms(structure, axes, radii=0.45, colors=colours, rotation="-82x,12y,5z")
    axes.set_title(f"{title}, {len(structure)} atoms", fontsize=10)
    axes.set_axis_off()


def _bars(axes: Any, model: Mapping[str, Any]) -> None:
    """One added structure."""
    place = model["counts"].index(1)
    for i, strategy in enumerate(NAMES):
        values = by_environment(model, strategy)[:, place]
        axes.bar(i, values.mean(), color=COLOURS[strategy], alpha=0.6, width=0.7)
        axes.plot(np.full(len(values), i), values, "k.", markersize=4)
    axes.set_xticks(range(len(NAMES)), ["original", "cluster", "periodic", "HS"])
    axes.set(ylabel="LPR enhancement (%)", yscale="log", xlabel="strategy, one structure")
    _grid(axes)


def _curves(axes: Any, model: Mapping[str, Any]) -> None:
    for strategy, name in NAMES.items():
        values, colour = by_environment(model, strategy), COLOURS[strategy]
        axes.plot(
            model["counts"], values.mean(axis=0), color=colour, marker=MARKERS[strategy], markersize=4, label=name
        )
        low, high = values.min(axis=0), values.max(axis=0)
        axes.fill_between(model["counts"], low, high, color=colour, alpha=0.12, linewidth=0)
    axes.set(xscale="log", yscale="log", xlabel="added structures", ylabel="LPR enhancement (%)")
    axes.legend(fontsize=7)
    _grid(axes)


def _grid(axes: Any) -> None:
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def liquid_figure(found: Mapping[str, Any], path: Path) -> None:
    """That the large structure is a liquid: radial distribution, and temperature and displacement in time."""
    drawing = Figure(figsize=(9.0, 2.8), dpi=100, layout="constrained")
    first, second, third = drawing.subplots(1, 3)
    radial = found["radial_distribution"]
    first.plot(radial["distance"], radial["g"], color="#0072B2")
    first.set(xlabel="distance (Å)", ylabel=f"g(r), {found['num_atoms']} atoms", ylim=(0, None))
    before = 0
    for name, rows in found["rows"].items():
        times = (before + np.array([row["step"] for row in rows])) / 1000
        before += rows[-1]["step"]
        second.plot(times, [row["temperature"] for row in rows], label=name)
        third.plot(times, [row["msd"] for row in rows], label=name)
    second.set(xlabel="time (ps)", ylabel="temperature (K)")
    third.set(xlabel="time (ps)", ylabel="mean square displacement\nin the stage (Å²)")
    third.legend(fontsize=8)
    for axes in (first, second, third):
        _grid(axes)
    save_small(drawing, path)
