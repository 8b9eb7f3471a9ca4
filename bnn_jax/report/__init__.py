"""What a run is shown by: plots of an evaluation and of a chain."""

from bnn_jax.report._figure import save
from bnn_jax.report.chain_plots import rhat, training
from bnn_jax.report.path_plot import energy_path
from bnn_jax.report.plots import (
    calibration,
    error_density,
    error_vs_std,
    evaluation_figures,
    parity,
    reliability,
    roc,
    write_evaluation,
)
from bnn_jax.report.run_report import assess, write_run_report
from bnn_jax.report.table import beyond_note, family_table, score_table, scores_to_json, to_json

__all__ = [
    "assess",
    "beyond_note",
    "calibration",
    "energy_path",
    "error_density",
    "error_vs_std",
    "evaluation_figures",
    "family_table",
    "parity",
    "reliability",
    "rhat",
    "roc",
    "save",
    "score_table",
    "scores_to_json",
    "to_json",
    "training",
    "write_evaluation",
    "write_run_report",
]
