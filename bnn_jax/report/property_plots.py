"""Plots of properties with the band that the samples of the posterior span."""

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnn_jax.properties import Average, Barrier, ColdCurve, Dispersion, RadialDistribution
from bnn_jax.properties.propagate import Propagated, collected
from bnn_jax.report._figure import BLUE, GREY, ORANGE, new_figure


def cold_curve_plot(curve: ColdCurve, reference: Float[np.ndarray, " volume"] | None = None) -> Figure:
    """Energy over volume, with a band of one and two stds, of every sample from its own lowest energy.

    What samples have in common at all volumes would hide by what their curves differ.

    Args:
        curve: of :func:`bnn_jax.properties.cold_curve`.
        reference: energies at its volumes in eV.
    """
    figure, (axes,) = new_figure()
    draws = curve.energy.draws
    _band(axes, curve.volumes, collected(draws - draws.min(axis=1, keepdims=True)))
    if reference is not None:
        axes.plot(curve.volumes, reference - np.min(reference), "o", color=ORANGE, markersize=4, label="reference")
    axes.set(xlabel="Volume of the cell (Å³)", ylabel="Energy per cell above its lowest (eV)")
    _legend(axes)
    return figure


def barrier_plot(found: Barrier, reference: Float[np.ndarray, " image"] | None = None) -> Figure:
    """Energy along a path, with a band, and the height with its std.

    Args:
        found: of :func:`bnn_jax.properties.barrier`.
        reference: energies of its images in eV, from the first one's.
    """
    figure, (axes,) = new_figure()
    _band(axes, found.curve_distances, found.curve)
    axes.plot(found.distances, found.energies.mean, "o", color=BLUE, markersize=4)
    if reference is not None:
        axes.plot(found.distances, reference, "s", color=ORANGE, markersize=4, label="reference")
    height, std = float(found.forward.mean), float(found.forward.std)
    top = found.curve_distances[int(np.argmax(found.curve.mean))]
    axes.errorbar(
        top, height, yerr=std, color=GREY, capsize=5, fmt="none", label=f"barrier {height:.3f} ± {std:.4f} eV (1 std)"
    )
    axes.set(xlabel="Along the path (Å)", ylabel="Energy (eV)")
    _legend(axes)
    return figure


def dispersion_plot(found: Dispersion, reference: Float[np.ndarray, "point band"] | None = None) -> Figure:
    """Phonon frequencies along a path of wave vectors, with a band for each branch.

    Args:
        found: of :func:`bnn_jax.properties.phonons`.
        reference: frequencies at its points in THz.
    """
    figure, (axes,) = new_figure()
    every = found.frequencies
    for k in range(every.mean.shape[1]):
        branch = Propagated(every.mean[:, k], every.std[:, k], every.draws[:, :, k], every.samples)
        _band(axes, found.distances, branch, with_label=k == 0)
        if reference is not None:
            axes.plot(
                found.distances, reference[:, k], "--", color=ORANGE, linewidth=1, label="reference" if k == 0 else None
            )
    places, names = zip(*found.labels, strict=True)
    axes.set_xticks(places, ["Γ" if name == "G" else name for name in names])
    axes.set_xlim(found.distances[0], found.distances[-1])
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set(ylabel="Frequency (THz)")
    _legend(axes)
    return figure


def radial_distribution_plot(distribution: RadialDistribution, average: Average) -> Figure:
    """g(r), with a band.

    Args:
        distribution: of :func:`bnn_jax.properties.radial_distribution`.
        average: of its values.
    """
    figure, (axes,) = new_figure()
    _band(axes, distribution.distances, average.value)
    axes.plot(distribution.distances, average.as_sampled, ":", color=GREY, linewidth=1, label="as sampled")
    axes.set(xlabel="Distance (Å)", ylabel="g(r)")
    axes.set_ylim(bottom=0.0)
    _legend(axes)
    return figure


def _band(axes: Axes, x: np.ndarray, found: Propagated, *, with_label: bool = True) -> None:
    mean = found.mean
    for multiple, alpha in ((2, 0.18), (1, 0.3)):
        low, high = mean - multiple * found.std, mean + multiple * found.std
        label = f"{multiple} std" if with_label else None
        axes.fill_between(x, low, high, color=BLUE, alpha=alpha, linewidth=0, label=label)
    axes.plot(x, mean, color=BLUE, linewidth=2, label="mean" if with_label else None)


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=5, frameon=False)
