"""Figures and table of the learning experiment, after figure 3 of Chong et al. (2024)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnn_jax.metrics import spearman
from bnn_jax.report import save

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
MAX_SHOWN = 100
"""Environments drawn; the numbers are over all of them."""
Results = Sequence[dict[str, Any]]
"""Of one system, one for each seed."""


def relative_change(
    values: Float[np.ndarray, " environment"], final: Float[np.ndarray, " environment"], normalised: bool = False
) -> float:
    r"""Mean of :math:`|LPR_i - LPR_i^\mathrm{final}| / LPR_i^\mathrm{final}`.

    Args:
        values: of some network.
        final: of the network that is compared with.
        normalised: divide either first by its own value at the environment whose final rigidity is the highest.

    Reference: Chong et al. (2024), section 3.2.
    """
    if normalised:
        highest = int(np.argmax(final))
        values, final = values / values[highest], final / final[highest]
    return float(np.mean(np.abs(values - final) / final))


def draw(results: Mapping[str, Results], out: Path) -> None:
    """Write ``figure-3-<system>.png`` for each system.

    Args:
        results: by system.
        out: folder.
    """
    for name, each in results.items():
        save(figure_three(each), out / f"figure-3-{name}.png")


def figure_three(results: Results) -> Figure:
    """Rigidities of the first seed on the left, mean changes over all seeds on the right.

    Args:
        results: of one system.
    """
    figure = Figure(figsize=(8.0, 6.4), dpi=100, layout="constrained")
    ((left, right), (lower_left, lower_right)) = figure.subplots(2, 2, width_ratios=(1.35, 1))
    first = results[0]
    epochs = [step / first["steps_per_epoch"] for step in first["trajectory"]["at"]]
    _distributions(left, first["trajectory"]["lpr"], [f"epoch {epoch:.3g}" for epoch in epochs])
    sizes = first["sizes_of_training_set"]["at"]
    _distributions(lower_left, first["sizes_of_training_set"]["lpr"], [f"{size} structures" for size in sizes])
    left.set_title(f"{first['title']}: along training")
    lower_left.set_title("size of the training set")
    _changes(right, epochs[:-1], _each(results, "trajectory", "change"), "LPR", BLUE)
    _changes(right, epochs[:-1], _each(results, "trajectory", "normalised_change"), "normalised LPR", ORANGE)
    right.set_xscale("symlog", linthresh=max(epochs[1], 1e-9))
    right.set(xlabel="epoch", xlim=(0, epochs[-1]))
    own, same = "sizes_of_training_set", "same_network"
    _changes(lower_right, sizes[:-1], _each(results, own, "normalised_change"), "normalised LPR", ORANGE)
    label = "normalised, final network's features"
    _changes(lower_right, sizes[:-1], _each(results, same, "normalised_change"), label, GREY)
    floors = normalised_floor(results)
    if floors:
        style = {"color": "black", "linestyle": ":", "linewidth": 1}
        lower_right.axhline(float(np.mean(floors)), label="normalised, all data, another seed", **style)
    lower_right.set(xscale="log", xlabel="training structures")
    lower_right.set_xticks(sizes[:-1], [str(size) for size in sizes[:-1]])
    lower_right.minorticks_off()
    for axes in (right, lower_right):
        axes.set_ylabel("mean relative change")
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * (high / low) ** 0.35)  # room for the legend
        axes.legend(fontsize=8, loc="upper right")
    return figure


def _distributions(axes: Axes, values: Sequence[Sequence[float]], labels: Sequence[str]) -> None:
    """Rigidities of all environments in the order of the last network's."""
    order = np.argsort(values[-1])
    shown = np.unique(np.linspace(0, len(order) - 1, MAX_SHOWN).round().astype(int))
    colours = colormaps["viridis_r"](np.linspace(0.05, 0.95, len(values) - 1))
    for each, label, colour in zip(values, labels, colours, strict=False):
        axes.plot(
            shown, np.asarray(each)[order[shown]], "o", color=colour, markersize=2, markeredgewidth=0, label=label
        )
    axes.plot(np.asarray(values[-1])[order], color="black", linewidth=1.5, label=f"{labels[-1]} (final)")
    axes.set(yscale="log", xlabel="environment, by final LPR", ylabel="LPR (1/eV²)")
    axes.legend(fontsize=7, markerscale=4, loc="upper left", ncols=2)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.35)  # room for the legend


def _each(results: Results, what: str, measure: str) -> np.ndarray:
    """Changes [seed, network] but of the final network, which has none."""
    return np.array([result[what][measure]["1"][:-1] for result in results])


def _changes(axes: Axes, x: Sequence[float], values: np.ndarray, label: str, colour: str) -> None:
    """Mean over seeds, with the lowest and the highest."""
    mean = values.mean(axis=0)
    spread = np.abs(np.stack([values.min(axis=0), values.max(axis=0)]) - mean)
    axes.errorbar(x, mean, yerr=spread, fmt="o-", color=colour, label=label, markersize=4, capsize=2, linewidth=1)


def _pairs(results: Results, what: int, normalised: bool) -> list[float]:
    """Changes between the networks of other seeds and those of the first one, all trained on everything."""
    first = np.array(results[0]["trajectory"]["lpr"][what])
    return [relative_change(np.array(each["trajectory"]["lpr"][what]), first, normalised) for each in results[1:]]


def _ranks(results: Results, what: int) -> list[float]:
    """Rank correlations of the rigidities under the networks of other seeds and of the first one."""
    first = np.array(results[0]["trajectory"]["lpr"][what])
    return [spearman(first, np.array(each["trajectory"]["lpr"][what])) for each in results[1:]]


def normalised_floor(results: Results) -> list[float]:
    """What another seed changes in the normalised rigidities of the final network.

    Args:
        results: of one system.
    """
    return _pairs(results, -1, True)


# --- table ---


def _cell(values: Sequence[float]) -> str:
    """Mean and range over seeds, in per cent."""
    percent = 100 * np.asarray(values)
    if len(percent) == 1:
        return f"{percent[0]:.3g}"
    return f"{percent.mean():.3g} ({percent.min():.3g} to {percent.max():.3g})"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def table(results: Mapping[str, Results]) -> str:
    """What the figures say in numbers, as Markdown.

    Args:
        results: by system, one for each seed.
    """
    return "\n\n".join(part for each in results.values() for part in _system(each)) + "\n"


def _system(results: Results) -> list[str]:
    first = results[0]
    zetas = ", ".join(
        f"{each['zeta']['own_choice']:.2g} ({each['zeta']['own_relative_choice']:.0e})" for each in results
    )
    seeds = ", ".join(str(each["seed"]) for each in results)
    head = (
        f"{first['title']}: seeds {seeds}, mean (lowest to highest); ζ = {first['zeta']['absolute']:.2g}, which seed"
        f" {first['seed']} chose (each seed's own choice, absolute and relative: {zetas})"
    )
    lines = [
        "| epoch | validation energy RMSE, meV | change of LPR, % | normalised, % |"
        " change with ζ/10, % | change with 10 ζ, % | Spearman |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for i, step in enumerate(first["trajectory"]["at"]):
        lines.append(_row(f"{step / first['steps_per_epoch']:.3g}", results, "trajectory", i, ("0.1", "10")))
    by_size = [
        "| training structures | validation energy RMSE, meV | change of LPR, % | normalised, % |"
        " normalised, with ζ/10 | normalised, with 10 ζ | Spearman | normalised, final network's features, % |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for i, size in enumerate(first["sizes_of_training_set"]["at"]):
        row = _row(str(size), results, "sizes_of_training_set", i, ("0.1", "10"), "normalised_change")
        same = _cell([each["same_network"]["normalised_change"]["1"][i] for each in results])
        by_size.append(f"{row} {same} |")
    parts = [head, "\n".join(lines), "\n".join(by_size)]
    if len(results) > 1:
        text = "; ".join(
            f"{name}: {_cell(_pairs(results, what, False))} % of the LPR, {_cell(_pairs(results, what, True))} % of the"
            f" normalised, Spearman {_numbers(_ranks(results, what))}"
            for name, what in (("random initial weights", 0), ("final networks", -1))
        )
        parts.append(f"Other seeds against seed {first['seed']}, on the same data: {text}")
    parts.append(
        f"Training of what was not there yet {sum(each['training_seconds'] for each in results) / 60:.0f} min, analysis"
        f" {sum(each['analysis_seconds'] for each in results) / 60:.1f} min, on {first['environment']}"
    )
    return parts


def _row(head: str, results: Results, what: str, i: int, factors: Sequence[str], varied: str = "change") -> str:
    rmse = [1e3 * each[what]["energy_rmse"][i] for each in results]
    rho = [each[what]["spearman"][i] for each in results]
    cells = [
        head,
        f"{np.mean(rmse):.0f} ({min(rmse):.0f} to {max(rmse):.0f})" if len(rmse) > 1 else f"{rmse[0]:.0f}",
        _cell([each[what]["change"]["1"][i] for each in results]),
        _cell([each[what]["normalised_change"]["1"][i] for each in results]),
        *(_cell([each[what][varied][factor][i] for each in results]) for factor in factors),
        f"{np.mean(rho):.3f}",
    ]
    return f"| {' | '.join(cells)} |"
