"""Every method on the same data with the same budget, measured by the same figures."""

from bnn_jax.comparison.campaign import Result, check, config_of, run
from bnn_jax.comparison.figures import FIGURES, Figure, Measured, figures, figures_of, measure
from bnn_jax.comparison.table import Cell, marked, summarise

__all__ = [
    "FIGURES",
    "Cell",
    "Figure",
    "Measured",
    "Result",
    "check",
    "config_of",
    "figures",
    "figures_of",
    "marked",
    "measure",
    "run",
    "summarise",
]
