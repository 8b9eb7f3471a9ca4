"""How far figures may be from what they should be before a verdict distrusts the error bars."""

from typing import NamedTuple


class Bounds(NamedTuple):
    """Bounds of the two questions that trust hangs on; ``benchmarks/verdicts.py`` measures what they are worth."""

    factor: float = 1.5
    """Root mean square of error over std up to which stds of forces are large enough."""
    part_factor: float = 2.0
    """The same for the forces of an element, for those with stds of like size, and for energies."""
    width: float = 4.0
    """Its inverse up to which stds that are too large are still of use. Where labels are free of noise, samples at
    temperature 1 scatter about their mean by as much as the noise that they have learnt from that very scatter, and it
    counts twice: stds of well-sampled networks are some two times too large."""
    misses: float = 0.15
    """Share of errors beyond the 95 % interval up to which it holds what it should."""
    shift: float = 1.0
    """Root mean square of the difference of two runs' means over their std, up to which the same is said twice."""
    std_factor: float = 1.5
    """Median factor between two runs' stds up to which the same is said twice."""


BOUNDS = Bounds()
"""Those of every run."""
