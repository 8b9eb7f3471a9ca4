"""What a run is shown by: plots of an evaluation and of a chain."""

from bnn_jax.report._figure import save
from bnn_jax.report.chain_plots import rhat, training
from bnn_jax.report.plots import (
    calibration,
    error_density,
    error_vs_std,
    evaluation_figures,
    parity,
    roc,
    write_evaluation,
)

__all__ = [
    "calibration",
    "error_density",
    "error_vs_std",
    "evaluation_figures",
    "parity",
    "rhat",
    "roc",
    "save",
    "training",
    "write_evaluation",
]
