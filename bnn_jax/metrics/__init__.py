"""Host arrays to scalars: accuracy, calibration, scores, ranking, and intervals of them. Units follow the arguments."""

from bnn_jax.metrics.accuracy import mean_absolute_error, root_mean_square_error
from bnn_jax.metrics.bootstrap import (
    BootstrapInterval,
    bootstrap_difference,
    bootstrap_interval,
    percentile_interval,
    resamples,
)
from bnn_jax.metrics.calibration import (
    average_cdf,
    calibration_curve,
    ence,
    gaussian_log_likelihood,
    mean_squared_z_score,
    miscalibration_area,
    mixture_log_likelihood,
    nece,
    relative_log_likelihood,
)
from bnn_jax.metrics.grouping import atom_norm, atom_rms, element_masks, structure_of_atom, structure_rms
from bnn_jax.metrics.intervals import interval_coverage, interval_score, normal_half_widths, sharpness
from bnn_jax.metrics.ranking import (
    RocCurve,
    error_percentile,
    outlier_auroc,
    outlier_average_precision,
    outlier_roc_curve,
    spearman,
    swept_auroc,
)
from bnn_jax.metrics.retention import RetentionCurve, prediction_rejection_ratio, retention_area, retention_curve
from bnn_jax.metrics.scoring import gaussian_crps, mixture_crps, mixture_energy_score

__all__ = [
    "BootstrapInterval",
    "RetentionCurve",
    "RocCurve",
    "atom_norm",
    "atom_rms",
    "average_cdf",
    "bootstrap_difference",
    "bootstrap_interval",
    "calibration_curve",
    "element_masks",
    "ence",
    "error_percentile",
    "gaussian_crps",
    "gaussian_log_likelihood",
    "interval_coverage",
    "interval_score",
    "mean_absolute_error",
    "mean_squared_z_score",
    "miscalibration_area",
    "mixture_crps",
    "mixture_energy_score",
    "mixture_log_likelihood",
    "nece",
    "normal_half_widths",
    "outlier_auroc",
    "outlier_average_precision",
    "outlier_roc_curve",
    "percentile_interval",
    "prediction_rejection_ratio",
    "relative_log_likelihood",
    "resamples",
    "retention_area",
    "retention_curve",
    "root_mean_square_error",
    "sharpness",
    "spearman",
    "structure_of_atom",
    "structure_rms",
    "swept_auroc",
]
