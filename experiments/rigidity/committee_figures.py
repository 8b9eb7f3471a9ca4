"""Figures and table of the committee experiment, after figures 1 and 2 of Chong et al. (2024)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter
from scipy.optimize import brentq
from scipy.stats import norm

from bnn_jax.report import save

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#888888"
FRACTIONS = tuple(2 * norm.cdf(z) - 1 for z in (1, 2, 3))
"""Of the probability: those of one, two and three standard deviations."""
MAX_SHOWN = 220
"""Structures of a test set in the upper panels of figure 1; of more, evenly spaced ones are drawn."""
SET_NAMES = {"test": "test set", "unseen": "unseen frameworks"}
SET_COLOURS = {"test": BLUE, "unseen": ORANGE}


def isolines(fraction: float) -> tuple[float, float]:
    r"""Where, in units of the std, a fraction of the sizes of normal errors lies, at the highest density of their log.

    On a logarithmic axis the size u of a standard normal variable has the density :math:`\propto u e^{-u^2 / 2}`, with
    its maximum at one; the two ends have equal density and enclose the fraction.

    Args:
        fraction: between zero and one.

    Reference: Chong et al. (2024), figure 1; Bigi et al. (2024), doi:10.1088/2632-2153/ad805f.
    """

    def ends(log_density: float) -> tuple[float, float]:
        def above(log_size: float) -> float:
            return log_size - np.exp(2 * log_size) / 2 - log_density

        return float(np.exp(brentq(above, -60, 0))), float(np.exp(brentq(above, 0, 5)))

    def excess(log_density: float) -> float:
        low, high = ends(log_density)
        return 2 * (norm.cdf(high) - norm.cdf(low)) - fraction

    return ends(brentq(excess, -40, -0.5 - 1e-12))


def draw(results: Sequence[dict[str, Any]], out: Path) -> None:
    """Write ``figure-1.png``, ``figure-2.png`` and, where there are forces, ``figure-forces.png``.

    Args:
        results: of the systems.
        out: folder.
    """
    save(figure_one(results), out / "figure-1.png")
    save(figure_two(results), out / "figure-2.png")
    with_forces = [each for each in results if each["forces"]]
    if with_forces:
        save(figure_forces(with_forces), out / "figure-forces.png")


def _panels(num_rows: int, num_columns: int, height: float) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(3.1 * num_columns + 0.4, height), dpi=100, layout="constrained")
    return figure, figure.subplots(num_rows, num_columns, squeeze=False)


def _diagonal(axes: Axes, low: float, high: float, factor: float = 1.0, **style: Any) -> None:
    axes.plot([low, high], [low * factor, high * factor], **({"color": "black", "linewidth": 1} | style))


def _ticks(axes: Axes) -> None:
    """Readable numbers where an axis has few powers of ten."""
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        if high / low < 50:
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FormatStrFormatter("%g"))
            axis.set_minor_formatter(NullFormatter())


def figure_one(results: Sequence[dict[str, Any]]) -> Figure:
    """Errors against estimated errors, and binned squares against variances.

    Args:
        results: of the systems.
    """
    figure, panels = _panels(2, len(results), 5.6)
    for (above, below), result in zip(panels.T, results, strict=True):
        sets = result["energies"]
        stds = np.concatenate([each["std"] for each in sets.values()])
        errors = np.abs(np.concatenate([each["error"] for each in sets.values()]))
        low, high = stds.min() / 1.3, stds.max() * 1.3
        for name, each in sets.items():
            size = 3 if len(each["std"]) > 300 else 4
            style = {"markersize": size, "alpha": 0.45, "markeredgewidth": 0, "color": SET_COLOURS[name]}
            some = slice(None, None, -(-len(each["std"]) // MAX_SHOWN))
            above.plot(each["std"][some], np.abs(each["error"])[some], "o", label=SET_NAMES[name], **style)
            style = {"color": SET_COLOURS[name], "markersize": 5}
            below.plot(each["bins"]["variance"], each["bins"]["squared_error"], "o", label=SET_NAMES[name], **style)
        for fraction in FRACTIONS:
            for factor in isolines(fraction):
                _diagonal(above, low, high, factor, color=GREY, linewidth=0.8)
        _diagonal(above, low, high)
        above.set(xscale="log", yscale="log", xlim=(low, high), title=result["title"])
        above.set_ylim(max(errors.min(), low / 300), max(errors.max() * 1.5, high * 3))
        variances, squares = (
            np.concatenate([each["bins"][key] for each in sets.values()]) for key in ("variance", "squared_error")
        )
        both = np.concatenate([variances, squares])
        _diagonal(below, both.min() / 1.5, both.max() * 1.5)
        below.set(xscale="log", yscale="log", xlabel="estimated variance α²/PR (eV²)")
        above.set_xlabel("estimated error α/√PR (eV)")
        if len(sets) > 1:
            below.legend(fontsize=8)
        for axes in (above, below):
            _ticks(axes)
    panels[0][0].set_ylabel("absolute error (eV)")
    panels[1][0].set_ylabel("mean squared error of a bin (eV²)")
    return figure


def figure_two(results: Sequence[dict[str, Any]]) -> Figure:
    """Variance of local energies over the committee against the local prediction rigidity.

    Args:
        results: of the systems.
    """
    figure, panels = _panels(1, len(results), 3.0)
    for axes, result in zip(panels[0], results, strict=True):
        bins = result["local"]["bins"]
        axes.plot(bins["lpr"], bins["variance"], "o", color=BLUE, markersize=4, alpha=0.7)
        axes.set(xscale="log", yscale="log", title=result["title"], xlabel="LPR / largest LPR")
        _ticks(axes)
    panels[0][0].set_ylabel("variance of local energies (eV²)")
    return figure


def figure_forces(results: Sequence[dict[str, Any]]) -> Figure:
    """Binned squared errors of force components against estimated variances.

    Args:
        results: of the systems that have forces.
    """
    figure, panels = _panels(1, len(results), 3.0)
    for axes, result in zip(panels[0], results, strict=True):
        values = []
        for name, each in result["forces"].items():
            x, y = each["bins"]["variance"], each["bins"]["squared_error"]
            axes.plot(x, y, "o", color=SET_COLOURS[name], markersize=4, label=SET_NAMES[name])
            values += [*x, *y]
        _diagonal(axes, min(values) / 1.5, max(values) * 1.5)
        axes.set(xscale="log", yscale="log", title=result["title"], xlabel="estimated variance α²/R (eV²/Å²)")
        if len(result["forces"]) > 1:
            axes.legend(fontsize=8)
        _ticks(axes)
    panels[0][0].set_ylabel("mean squared error (eV²/Å²)")
    return figure


# --- table ---


def _with_interval(value: dict[str, float]) -> str:
    return f"{value['estimate']:.2f} ({value['lower']:.2f} to {value['upper']:.2f})"


def _range(values: Sequence[float], digits: int = 2) -> str:
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}" if values else "-"


def table(results: Sequence[dict[str, Any]]) -> str:
    """What the figures say in numbers, as Markdown.

    Args:
        results: of the systems.
    """
    return "\n\n".join([_errors(results), _first(results), _others(results), _second(results), _times(results)]) + "\n"


def _errors(results: Sequence[dict[str, Any]]) -> str:
    lines = [
        "Errors of the network that was trained on the whole training set",
        "",
        "| data | training structures | energy MAE, meV | per atom, meV | force MAE, meV/Å | relative ζ | ζ | α |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for each in results:
        for name, energies in each["energies"].items():
            forces = each["forces"].get(name)
            cells = [
                f"{each['title']}, {SET_NAMES[name]}",
                str(each["num_structures"]["train"]),
                f"{1e3 * energies['mae']:.0f}",
                f"{1e3 * energies['mae_per_atom']:.1f}",
                "-" if forces is None else f"{1e3 * forces['mae']:.0f}",
                f"{each['zeta']['relative']:.0e}",
                f"{each['zeta']['absolute']:.2g}",
                f"{each['alpha']:.2f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _first(results: Sequence[dict[str, Any]]) -> str:
    lines = [
        "Figure 1: rank correlation of error and estimated error (95 % interval over structures)",
        "",
        "| data | of | Spearman | if perfect | mean z² | MLL | above constant σ | slope of bins |"
        " σ, 95th over 5th percentile |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for each in results:
        for kind in ("energies", "forces"):
            for name, figures in each[kind].items():
                cells = [
                    f"{each['title']}, {SET_NAMES[name]}",
                    kind,
                    _with_interval(figures["spearman"]),
                    f"{figures['attainable_spearman']:.2f}",
                    f"{figures['mean_squared_z']:.2f}",
                    f"{figures['log_likelihood']:.2f}",
                    f"{figures['gain_over_constant']:+.2f}",
                    f"{figures['slope']:.2f}",
                    f"{figures['std_ratio_95_5']:.1f}",
                ]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _others(results: Sequence[dict[str, Any]]) -> str:
    lines = [
        "The same of energies for other networks (trained on nine tenths, with seeds of their own): lowest to highest;"
        " and the committee's own spread",
        "",
        "| data | networks | Spearman | mean z² | above constant σ | slope of bins | Spearman of the committee's std |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for each in results:
        for name in each["energies"]:
            figures = [other["energies"][name] for other in each["other_networks"]]
            cells = [
                f"{each['title']}, {SET_NAMES[name]}",
                str(len(figures)),
                _range([other["spearman"]["estimate"] for other in figures]),
                _range([other["mean_squared_z"] for other in figures]),
                _range([other["gain_over_constant"] for other in figures]),
                _range([other["slope"] for other in figures]),
                _with_interval(each["committee"][name]["spearman"]),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _second(results: Sequence[dict[str, Any]]) -> str:
    lines = [
        "Figure 2: rank correlation of the committee's variance of local energies with 1/LPR",
        "",
        "| data | networks | Spearman | slope of bins | within an element |",
        "|---|---:|---:|---:|---|",
    ]
    for each in results:
        found = each["local"]
        by_element = ", ".join(f"{key} {value['estimate']:.2f}" for key, value in found["spearman_by_element"].items())
        cells = [
            each["title"],
            str(each["sizes"]["folds"]),
            _with_interval(found["spearman"]),
            f"{found['slope']:.2f}",
            by_element,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _times(results: Sequence[dict[str, Any]]) -> str:
    lines = [
        f"{each['title']}: {each['training_seconds'] / 60:.0f} min of training,"
        f" {each['analysis_seconds'] / 60:.1f} min of analysis, on {each['environment']}"
        for each in results
    ]
    return "\n".join(f"- {line}" for line in lines)
