"""How far a figure could have come out otherwise on another test set of as many structures."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class BootstrapInterval(NamedTuple):
    """A figure and the interval that other draws of the structures give it, in the figure's unit."""

    estimate: float
    """The figure of all elements."""
    lower: float
    """Lower end of the interval; NaN if no resample has the figure."""
    upper: float
    """Upper end."""
    num_undefined: int
    """Resamples that were left out because the figure was NaN. With many, the interval is that of the others only."""


def bootstrap_interval(
    metric_fn: Callable[[Int[np.ndarray, " index"]], float],
    structure_of_element: Int[np.ndarray, " element"],
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> BootstrapInterval:
    """Percentile interval of a metric over test sets drawn from the structures, with replacement.

    Whole structures are drawn, because the errors within one go together: three components of an atom, or the atoms
    of a molecule, are no three or so many independent errors, and an interval that took them for such would be too
    narrow. Calls with one seed and the same structures draw the same resamples.

    A sum of absolute deviations (ENCE, NECE, miscalibration area) cannot fall below what noise makes it, and
    resampling adds noise: close to calibration the interval lies too high, and may even leave out the figure.

    Args:
        metric_fn: the metric of the elements with the given indices, of which some occur several times, as in
            ``lambda index: mean_absolute_error(mean[index], target[index])``.
        structure_of_element: the structure that each element belongs to, by any number. Elements are what the metric
            indexes: atoms (:func:`bnn_jax.metrics.structure_of_atom`), force components or structures.
        num_resamples: how often to draw; the ends of the interval settle with its root.
        level: probability that the interval should hold the figure with.
        seed: of the draws.

    Returns:
        The figure and its interval. Resamples in which the metric is NaN, for example because no outlier was drawn,
        are left out and counted.

    Raises:
        ValueError: there are fewer than two structures, or no resamples, or the level is not between zero and one.

    Example:
        >>> energies = np.array([1.0, 2.0, 3.0, 6.0])
        >>> interval = bootstrap_interval(lambda index: energies[index].mean(), np.arange(4))
        >>> interval.estimate, interval.num_undefined
        (3.0, 0)
        >>> bool(1.0 < interval.lower < 3.0 < interval.upper < 6.0)
        True

    Reference:
        Efron (1979), doi:10.1214/aos/1176344552; Davison and Hinkley (1997), section 3.8, for whole groups.
    """
    _check_level(level)
    draws = resamples(structure_of_element, num_resamples, seed)
    values = np.array([metric_fn(index) for index in draws])
    estimate = float(metric_fn(np.arange(len(structure_of_element))))
    return BootstrapInterval(estimate, *percentile_interval(values, level), int(np.isnan(values).sum()))


def bootstrap_difference(
    first_fn: Callable[[Int[np.ndarray, " index"]], float],
    second_fn: Callable[[Int[np.ndarray, " index"]], float],
    structure_of_element: Int[np.ndarray, " element"],
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> BootstrapInterval:
    """Interval of the first metric minus the second over the same resamples: two methods on one test set.

    What is hard for one method is often hard for the other, so that their difference is known better than either. If
    the interval leaves out zero, they differ at this level.

    Args:
        first_fn: as ``metric_fn`` of :func:`bootstrap_interval`.
        second_fn: the same of the other method, with the same elements.
        structure_of_element: the structure that each element belongs to.
        num_resamples: how often to draw.
        level: probability that the interval should hold the difference with.
        seed: of the draws.

    Returns:
        The difference and its interval; resamples in which either metric is NaN are left out and counted.

    Raises:
        ValueError: as for :func:`bootstrap_interval`.
    """
    return bootstrap_interval(
        lambda index: first_fn(index) - second_fn(index), structure_of_element, num_resamples, level, seed
    )


def percentile_interval(values: Float[np.ndarray, " resample"], level: float = 0.95) -> tuple[float, float]:
    """Ends of the central interval that holds a fraction of the values; NaN values are left out.

    Args:
        values: a metric on resampled test sets.
        level: the fraction.

    Returns:
        Lower and upper end; NaN where no value is defined.

    Raises:
        ValueError: the level is not between zero and one.
    """
    _check_level(level)
    defined = values[~np.isnan(values)]
    if not defined.size:
        return float("nan"), float("nan")
    lower, upper = np.quantile(defined, [0.5 - level / 2.0, 0.5 + level / 2.0])
    return float(lower), float(upper)


def _check_level(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}; choose one between 0 and 1.")


def resamples(
    structure_of_element: Int[np.ndarray, " element"], num_resamples: int = 1000, seed: int = 0
) -> Iterator[Int[np.ndarray, " index"]]:
    """Indices of the elements of test sets drawn from the structures, with replacement.

    Args:
        structure_of_element: the structure that each element belongs to.
        num_resamples: how often to draw.
        seed: of the draws; one seed and the same structures give the same resamples.

    Raises:
        ValueError: there are fewer than two structures, or no resamples.
    """
    if np.ndim(structure_of_element) != 1:
        raise ValueError(
            f"structure_of_element has shape {np.shape(structure_of_element)}; give one structure an element."
        )
    structures, of_element = np.unique(structure_of_element, return_inverse=True)
    if len(structures) < 2:
        raise ValueError(f"There are {len(structures)} structures to draw from; an interval needs at least 2.")
    if num_resamples < 1:
        raise ValueError(f"num_resamples is {num_resamples}; draw at least once.")
    rng = np.random.default_rng(seed)
    elements = np.arange(len(of_element))

    def draw() -> Int[np.ndarray, " index"]:
        drawn = np.bincount(rng.integers(len(structures), size=len(structures)), minlength=len(structures))
        return np.repeat(elements, drawn[of_element])

    return (draw() for _ in range(num_resamples))
