"""From results to a table: means over seeds with intervals over structures, and which method is best."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bnn_jax.comparison.campaign import Result
from bnn_jax.comparison.figures import FIGURES, figures_of
from bnn_jax.metrics import percentile_interval

LEVEL = 0.95


class Cell(NamedTuple):
    """A figure of a method: the mean over its seeds."""

    estimate: float
    lower: float
    """Ends of the interval over test sets drawn from the structures; NaN where there is none."""
    upper: float
    spread: float
    """Standard deviation over seeds; NaN for one seed."""
    resampled: Float[np.ndarray, " resample"]
    num_seeds: int
    """That it is the mean over: those that did not fail."""


def summarise(results: Sequence[Result], test: str, quantity: str) -> dict[str, dict[str, Cell]]:
    """Cells by method and figure.

    Args:
        results: of all methods and seeds.
        test: name of the test set.
        quantity: one of :func:`bnn_jax.comparison.elements.quantities`.
    """
    table: dict[str, dict[str, Cell]] = {}
    for method in dict.fromkeys(result.method for result in results):
        measured = [
            result.measured[test][quantity]
            for result in results
            if result.method == method and quantity in result.measured.get(test, {})
        ]
        if measured:
            table[method] = {
                name: _cell([(each.estimates[name], each.resampled[name]) for each in measured])
                for name in figures_of(quantity)
            }
    return table


def _cell(values: Sequence[tuple[float, Float[np.ndarray, " resample"]]]) -> Cell:
    estimates = np.array([estimate for estimate, _ in values])
    resampled = np.mean([each for _, each in values], axis=0)
    spread = float(estimates.std(ddof=1)) if len(estimates) > 1 else float("nan")
    return Cell(float(estimates.mean()), *percentile_interval(resampled, LEVEL), spread, resampled, len(values))


def marked(table: Mapping[str, Mapping[str, Cell]], figure: str) -> str | None:
    """The method that is best by a figure, if it is so on nearly all resampled test sets; else None.

    Its difference to every other method, over the same resamples, must leave out zero at 95 %, and no two seeds may
    overlap: the gap to each other method must exceed the spreads over seeds, added in squares.

    Args:
        table: from :func:`summarise`.
        figure: one of :data:`FIGURES`.
    """
    better = FIGURES[figure].better
    cells = {method: row[figure] for method, row in table.items() if np.isfinite(row[figure].estimate)}
    if not FIGURES[figure].is_marked or better not in ("lower", "higher") or len(cells) < 2:
        return None
    sign = 1.0 if better == "higher" else -1.0
    best = max(cells, key=lambda method: sign * cells[method].estimate)
    for method, cell in cells.items():
        if method == best:
            continue
        lower, _ = percentile_interval(sign * (cells[best].resampled - cell.resampled), LEVEL)
        if not lower > 0:  # NaN neither
            return None
        gap = sign * (cells[best].estimate - cell.estimate)
        if gap <= np.hypot(np.nan_to_num(cells[best].spread), np.nan_to_num(cell.spread)):
            return None
    return best
