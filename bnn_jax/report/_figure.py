"""What all plots share: the palette, a figure of a readable size, points or hexagons, and writing to a file."""

import os
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnn_jax.types import InputError

# Okabe and Ito's palette, which colour-blind readers can tell apart.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
MAX_SCATTER_POINTS = 3000
"""With more points than this a plot shows their density in hexagons."""


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure; a reader sees the old file or the whole new one, never half.

    Args:
        figure: what to write.
        path: where; its suffix names the format.

    Returns:
        The path.

    Raises:
        InputError: the file cannot be written.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        figure.savefig(beside, format=path.suffix.lstrip(".") or "png")
        os.replace(beside, path)
    except OSError as error:
        raise InputError(f"Plot {path} cannot be written ({error.strerror}); check the folder and the disk.") from error
    finally:
        beside.unlink(missing_ok=True)
    return path


def new_figure(
    width: float = 6.4, height: float = 4.8, num_rows: int = 1, num_columns: int = 1, *, share_x: bool = True
) -> tuple[Figure, list[Axes]]:
    """An empty figure (``width`` of 6.4 is 800 pixels) and its panels, row by row, sharing x axes by column."""
    figure = Figure(figsize=(width, height), dpi=125, layout="constrained")
    panels = list(figure.subplots(num_rows, num_columns, sharex="col" if share_x else "none", squeeze=False).ravel())
    for axes in panels:
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def draw_points(
    figure: Figure,
    axes: Axes,
    x: Float[np.ndarray, " element"],
    y: Float[np.ndarray, " element"],
    extent: tuple[float, float, float, float],
    *,
    log: bool = False,
) -> None:
    """Draw a few points as dots, many as hexagons coloured by their number.

    Args:
        figure: where the colour bar goes.
        axes: where the points go.
        x: abscissae.
        y: ordinates.
        extent: low and high x, low and high y, of the axes.
        log: the axes are logarithmic.
    """
    if x.size <= MAX_SCATTER_POINTS:
        alpha = float(np.clip(30.0 / np.sqrt(x.size), 0.35, 0.9))
        axes.plot(x, y, "o", color=BLUE, markersize=6 if x.size < 200 else 4, alpha=alpha, markeredgewidth=0)
        return
    scale = "log" if log else "linear"
    limits = tuple(np.log10(extent)) if log else extent
    hexagons = axes.hexbin(
        x,
        y,
        gridsize=60,
        bins="log",
        mincnt=1,
        cmap="cividis_r",
        extent=limits,
        xscale=scale,
        yscale=scale,
        linewidths=0.1,
    )
    figure.colorbar(hexagons, ax=axes, label="Elements per hexagon", shrink=0.8)


def padded_range(low: float, high: float) -> tuple[float, float]:
    """The range widened by a twentieth on either side; one of no width becomes one of width one."""
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin
