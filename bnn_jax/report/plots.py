"""Plots of an evaluation: plain arrays in, a matplotlib ``Figure`` out, no global pyplot state."""

from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure

from bnn_jax.metrics import (
    average_cdf,
    calibration_curve,
    mean_absolute_error,
    miscalibration_area,
    nece,
    outlier_auroc,
    outlier_roc_curve,
    root_mean_square_error,
)
from bnn_jax.report._figure import BLUE, GREY, ORANGE, draw_points, new_figure, padded_range, save
from bnn_jax.types import InputError, Predictive


def parity(
    target: Float[np.ndarray, " element"],
    mean: Float[np.ndarray, " element"],
    *,
    quantity: str = "Force component",
    unit: str = "eV/Å",
) -> Figure:
    """Prediction against reference, with the diagonal and the errors in the legend.

    Args:
        target: reference values, in ``unit``.
        mean: predicted means, same unit.
        quantity: what the axes show.
        unit: its unit, for the labels.
    """
    figure, (axes,) = new_figure(height=5.6)
    low, high = padded_range(min(target.min(), mean.min()), max(target.max(), mean.max()))
    axes.plot([low, high], [low, high], color=GREY, linewidth=1, zorder=1, label="prediction = reference")
    draw_points(figure, axes, target, mean, (low, high, low, high))
    mae, rmse = mean_absolute_error(mean, target), root_mean_square_error(mean, target)
    axes.plot([], [], " ", label=f"MAE {mae:.3g} {unit}\nRMSE {rmse:.3g} {unit}")
    axes.set(xlabel=f"Reference {quantity.lower()} ({unit})", ylabel=f"Predicted {quantity.lower()} ({unit})")
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.legend(loc="upper left")
    return figure


def error_vs_std(
    errors: Float[np.ndarray, " element"],
    stds: Float[np.ndarray, " element"],
    *,
    quantity: str = "Force component",
    unit: str = "eV/Å",
    scale: Literal["linear", "log"] = "linear",
) -> Figure:
    """Observed errors over predicted standard deviations, with lines at one and two of them.

    Args:
        errors: predictions minus references, in ``unit``.
        stds: predicted standard deviations, same unit, positive.
        quantity: what the axes show.
        unit: its unit, for the labels.
        scale: ``linear`` shows signed errors; ``log`` their absolute values on logarithmic axes.

    Reference:
        Rensmeyer et al. (2024), figure 6.
    """
    figure, (axes,) = new_figure()
    log = scale == "log"
    shown = np.abs(errors) if log else errors
    if log:
        x_low, x_high = stds.min() / 1.5, stds.max() * 1.5
        y_low, y_high = stds.min() / 30.0, max(shown.max(), 2.0 * x_high) * 1.5
        axes.set(xscale="log", yscale="log")
    else:
        x_low, x_high = 0.0, 1.05 * stds.max()
        y_high = 1.05 * max(np.abs(errors).max(), 2.0 * x_high)
        y_low = -y_high
    draw_points(figure, axes, stds, np.maximum(shown, y_low), (x_low, x_high, y_low, y_high), log=log)
    line = np.array([x_low, x_high])
    for multiple, style, expected in ((1.0, "-", 68), (2.0, "--", 95)):
        inside = 100.0 * np.mean(np.abs(errors) <= multiple * stds)
        label = f"{multiple:.0f}σ: {inside:.0f} % inside ({expected} % expected)"
        axes.plot(line, multiple * line, style, color=ORANGE, linewidth=1.5, label=label)
        if not log:
            axes.plot(line, -multiple * line, style, color=ORANGE, linewidth=1.5)
    name = f"Absolute error of {quantity.lower()}" if log else f"Error of {quantity.lower()}"
    axes.set(xlabel=f"Predicted standard deviation ({unit})", ylabel=f"{name} ({unit})")
    axes.set(xlim=(x_low, x_high), ylim=(y_low, y_high))
    axes.legend(loc="upper left")
    return figure


def calibration(
    mean: Float[np.ndarray, " element"],
    std: Float[np.ndarray, " element"],
    target: Float[np.ndarray, " element"],
    *,
    quantity: str = "Force components",
) -> Figure:
    """Observed against expected coverage of the central intervals, with the miscalibration area.

    Args:
        mean: predicted means.
        std: predicted standard deviations, same unit, positive.
        target: reference values, same unit.
        quantity: what is covered, for the label.
    """
    figure, (axes,) = new_figure(height=5.6)
    levels = np.linspace(0.0, 1.0, 100)
    observed = calibration_curve(mean, std, target, levels)
    area = miscalibration_area(mean, std, target)
    axes.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1, label="calibrated")
    axes.plot(levels, observed, color=BLUE, linewidth=2, label=f"{quantity.lower()} (area {area:.3f})")
    axes.fill_between(levels, levels, observed, color=BLUE, alpha=0.2, linewidth=0)
    note = {"transform": axes.transAxes, "color": GREY, "ha": "center", "style": "italic"}
    axes.text(0.75, 0.12, "stds too small\n(overconfident)", **note)
    axes.text(0.25, 0.72, "stds too large\n(underconfident)", **note)
    axes.set(xlabel="Expected coverage of central interval", ylabel="Observed coverage")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.legend(loc="upper left")
    return figure


def error_density(
    errors: Float[np.ndarray, "*error"],
    stds: Float[np.ndarray, "*#element"],
    means: Float[np.ndarray, "*#element"] | float = 0.0,
    *,
    quantity: str = "Force component",
    unit: str = "eV/Å",
) -> Figure:
    """Observed and predicted density of the errors, on a linear and on a logarithmic axis (for the tails).

    Args:
        errors: predictions minus references, in ``unit``.
        stds: predicted standard deviations, same unit, positive; with a leading sample axis for a mixture.
        means: predicted means of the errors, as in :func:`bnn_jax.metrics.nece`.
        quantity: what the errors are of.
        unit: its unit, for the labels.

    Reference:
        Rensmeyer et al. (2024), figure 4.
    """
    figure, panels = new_figure(height=4.0, num_columns=2)
    num_bins = int(np.clip(2.0 * np.sqrt(errors.size), 11, 81))
    half = 1.05 * max(np.abs(errors).max(), 3.0 * np.sqrt(np.square(stds).mean()))
    bulk = min(half, 2.0 * np.percentile(np.abs(errors), 95))
    for axes, limit, scale in zip(panels, (bulk, half), ("linear", "log"), strict=True):
        edges = np.linspace(-limit, limit, num_bins + 1)
        width = edges[1] - edges[0]
        observed = np.histogram(errors, edges)[0] / (errors.size * width)
        predicted = np.diff(average_cdf(edges, stds, means)) / width
        axes.stairs(observed, edges, fill=True, color=BLUE, alpha=0.45, label="observed")
        axes.plot(0.5 * (edges[1:] + edges[:-1]), predicted, color=ORANGE, linewidth=1.5, label="predicted")
        axes.set(xlabel=f"Error of {quantity.lower()} ({unit})", xlim=(-limit, limit), yscale=scale)
        if scale == "log":  # below the density of one error there is nothing to compare
            axes.set_ylim(0.3 / (errors.size * width), 3.0 * max(observed.max(), predicted.max()))
    value = nece(errors, stds, means)
    panels[0].set(ylabel=f"Density (1/({unit}))", title="Bulk" if np.isnan(value) else f"NECE {value:.3g} per {unit}")
    panels[1].set(title="Whole range, log scale")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure


def roc(
    errors: Float[np.ndarray, " element"],
    scores: Float[np.ndarray, " element"],
    threshold: float,
    *,
    unit: str = "eV/Å",
) -> Figure:
    """Detection of large errors by their predicted spread; says so where the classes leave it undefined.

    Args:
        errors: predictions minus references, in ``unit``.
        scores: predicted standard deviations, or anything that grows with them.
        threshold: error beyond which an element is an outlier, in ``unit``.
        unit: unit of errors, for the labels.

    Reference:
        Rensmeyer et al. (2024), figures 3 and 5.
    """
    figure, (axes,) = new_figure(height=5.6)
    curve, auroc = outlier_roc_curve(errors, scores, threshold), outlier_auroc(errors, scores, threshold)
    num_outliers = int(np.sum(np.abs(errors) > threshold))
    axes.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1, label="chance (AUC 0.5)")
    if np.isnan(auroc):
        reason = f"{'no' if num_outliers == 0 else 'every'} error is larger than {threshold:.3g} {unit}"
        axes.text(0.35, 0.8, f"AUC undefined:\n{reason}", ha="center", transform=axes.transAxes)
    else:
        label = f"|error| > {threshold:.3g} {unit} (AUC {auroc:.3f})\n{num_outliers} of {errors.size} elements"
        axes.plot(curve.false_positive_rate, curve.true_positive_rate, color=BLUE, linewidth=2, label=label)
    axes.set(xlabel="False positive rate", ylabel="True positive rate")
    axes.set(xlim=(-0.01, 1), ylim=(0, 1.01), aspect="equal")
    axes.legend(loc="lower right")
    return figure


def reliability(
    errors: Float[np.ndarray, " element"],
    stds: Float[np.ndarray, " element"],
    is_beyond: Bool[np.ndarray, " element"],
    *,
    quantity: str = "Force component",
    unit: str = "eV/Å",
) -> Figure:
    """Errors over stds, as root mean squares of groups of like stds, within the validated range and beyond it.

    Args:
        errors: predictions minus references, in ``unit``.
        stds: predicted standard deviations, same unit, positive.
        is_beyond: which elements belong to structures beyond the validated range.
        quantity: what the axes show.
        unit: its unit, for the labels.

    Reference:
        Levi et al. (2022), doi:10.3390/s22155540, for the groups of like stds.
    """
    figure, (axes,) = new_figure(height=5.6)
    shown = []
    for chosen, color, marker, name in ((~is_beyond, BLUE, "o", "within"), (is_beyond, ORANGE, "s", "beyond")):
        if not chosen.any():
            continue
        order = np.argsort(stds[chosen])
        groups = np.array_split(order, min(12, max(1, order.size // 20)))
        x, y = (
            np.array([np.sqrt(np.mean(values[chosen][group] ** 2)) for group in groups]) for values in (stds, errors)
        )
        inside = 100 * np.mean(np.abs(errors[chosen]) <= 2 * stds[chosen])
        label = f"{name} the validated range: 95 % intervals hold {inside:.0f} %"
        axes.plot(x, y, marker, color=color, markersize=7, label=label)
        shown += [x, y]
    values = np.concatenate(shown)
    low, high = values[values > 0].min() / 1.5, values.max() * 1.5
    axes.plot([low, high], [low, high], color=GREY, linewidth=1, zorder=1, label="errors as large as their stds")
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    name = quantity.lower()
    axes.set(xlabel=f"Predicted standard deviation of {name} ({unit})", ylabel=f"RMS error of {name} ({unit})")
    figure.legend(loc="outside upper center", frameon=False)
    return figure


def evaluation_figures(
    predictive: Predictive,
    energy: Float[np.ndarray, " structure"] | None,
    forces: Float[np.ndarray, "atom 3"] | None,
    *,
    forces_threshold: float,
) -> dict[str, Figure]:
    """The plots of a test set by name, ``forces_parity`` and so on; those of stds only where the method has them.

    Args:
        predictive: the posterior predictive of the structures.
        energy: reference total energies in eV, NaN where missing; None leaves the energy plots out.
        forces: reference forces in eV/Angstrom, NaN where missing; None leaves the force plots out.
        forces_threshold: error of a force component beyond which it is an outlier, in eV/Angstrom.

    Raises:
        InputError: there is no label at all.
    """
    figures: dict[str, Figure] = {}
    if forces is not None and (keep := np.isfinite(forces)).any():
        target, mean, std = forces[keep], predictive.forces[keep], predictive.forces_std[keep]
        samples = predictive.forces_samples
        stds = np.broadcast_to(predictive.forces_std_samples[..., None], samples.shape)
        errors = mean - target
        figures["forces_parity"] = parity(target, mean)
        if (std > 0).all():  # not every method has error bars in the unit of the forces
            figures["forces_error_vs_std"] = error_vs_std(errors, std, scale="log")
            figures["forces_calibration"] = calibration(mean, std, target)
            if (beyond := predictive.structures_beyond_validated) is not None:
                of_atoms = np.repeat(beyond, predictive.num_atoms)[:, None]
                figures["forces_reliability"] = reliability(errors, std, np.broadcast_to(of_atoms, keep.shape)[keep])
        if (stds[:, keep] > 0).all():
            figures["forces_error_density"] = error_density(errors, stds[:, keep], mean - samples[:, keep])
        figures["forces_roc"] = roc(errors, predictive.forces_score[keep], forces_threshold)
    if energy is not None and (keep := np.isfinite(energy)).any():
        target, mean, std = energy[keep], predictive.energy[keep], predictive.energy_std[keep]
        origin = target.mean()  # total energies reach thousands of eV and differ by a few
        figures["energy_parity"] = parity(target - origin, mean - origin, quantity="Energy above the mean", unit="eV")
        if (std > 0).all():
            figures["energy_error_vs_std"] = error_vs_std(mean - target, std, quantity="Energy", unit="eV")
            figures["energy_calibration"] = calibration(mean, std, target, quantity="Energies")
    if not figures:
        raise InputError("No reference energy or force is finite; give labelled structures to evaluate on.")
    return figures


def write_evaluation(
    out_dir: str | Path,
    predictive: Predictive,
    energy: Float[np.ndarray, " structure"] | None,
    forces: Float[np.ndarray, "atom 3"] | None,
    *,
    forces_threshold: float,
) -> list[Path]:
    """Write the plots of :func:`evaluation_figures`, which has the same arguments, as ``forces_parity.png`` and so on.

    Args:
        out_dir: folder, made if absent.
        predictive: the posterior predictive of the structures.
        energy: reference total energies in eV, NaN where missing, or None.
        forces: reference forces in eV/Angstrom, NaN where missing, or None.
        forces_threshold: error of a force component beyond which it is an outlier, in eV/Angstrom.

    Returns:
        The files written.

    Raises:
        InputError: there is no label at all, or a file cannot be written.
    """
    figures = evaluation_figures(predictive, energy, forces, forces_threshold=forces_threshold)
    out_dir = Path(out_dir)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Folder {out_dir} cannot be made ({error.strerror}); choose another one.") from error
    return [save(figure, out_dir / f"{name}.png") for name, figure in figures.items()]
