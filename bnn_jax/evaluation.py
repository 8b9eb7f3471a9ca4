"""Figures of merit of a posterior on a labelled test set, and the convergence of its chains in function space."""

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from bnn_jax import metrics
from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.sources import Structures, load
from bnn_jax.methods.base import Posterior, num_shared
from bnn_jax.sampling.diagnostics import function_space_ess, function_space_rhat
from bnn_jax.types import InputError, InputWarning, Predictive, TrustWarning
from bnn_jax.units import EV_PER_KCAL_PER_MOL

OUTLIER_THRESHOLD = EV_PER_KCAL_PER_MOL
"""Error of a force component beyond which it is an outlier: 1 kcal/mol/Angstrom (Rensmeyer 2024, section 4.2)."""


COVERAGES = {"68": 1.0, "95": 2.0}
"""Names of central intervals and how many stds they reach: 68.3 and 95.4 % of a normal."""


def evaluate(posterior: Posterior, test: Structures) -> dict[str, float]:
    """Accuracy and quality of the standard deviations on labelled structures, in eV and eV/Angstrom.

    Energies are total energies. ``mll`` is the mean log likelihood of the normal with the predictive mean and total
    variance, ``mll_mixture`` that of the samples' equal mixture, ``mll_aleatoric`` that of the normal with the
    aleatoric variance alone; likewise ``auroc`` and ``auroc_aleatoric``. An AUROC is NaN where no error, or every
    error, is beyond 1 kcal/mol/Angstrom, and so is what needs stds that the method does not have. A posterior that was
    judged not to be trusted warns (:class:`bnn_jax.types.TrustWarning`), and so do structures that it was trained on.
    ``rms_z`` is the root mean square of errors over stds and ``coverage_68`` and ``coverage_95`` the shares of errors
    within one and two stds; of forces also ``_within`` and ``_beyond`` the validated range, beyond which
    ``num_beyond_validated`` structures lie. ``crps`` is the continuous ranked probability score of the normal,
    ``energy_score`` its like for force vectors under the mixture, ``rll`` the log likelihood relative to one std for
    all (0) and to stds that know every error (1), ``auroc_swept`` the mean AUROC over thresholds.
    Of a calibrated posterior ``mll`` is that of the calibrated stds, and where it was calibrated to intervals their
    ``interval_coverage`` and mean ``half_width`` are added.

    Args:
        posterior: the samples.
        test: structures with energies, forces or both, as :func:`bnn_jax.load` takes them.

    Raises:
        InputError: the test set has no label, an element that was not in training, or a structure that the posterior
            was calibrated on, or a prediction overflows.
    """
    if posterior.verdict is not None and not posterior.verdict.is_trusted:
        warnings.warn(posterior.verdict.sentence, TrustWarning, stacklevel=2)
    test = load(test)
    check_shared_structures(posterior, test)
    start = time.perf_counter()
    predictive = posterior.predict(test)
    return score(predictive, test, posterior.num_samples) | {"seconds": time.perf_counter() - start}


def check_shared_structures(posterior: Posterior, test: Dataset) -> None:
    """Warn of test structures that the posterior was trained on: their errors say nothing of new ones.

    Args:
        posterior: the samples.
        test: structures.

    Raises:
        InputError: it was calibrated on some of them, whose error bars are right by construction.
    """
    calibration = posterior.calibration
    if calibration is not None and (count := num_shared(test, calibration.hashes)):
        raise InputError(
            f"The posterior was calibrated on {count} of {len(test)} test structures, so that they cannot test its"
            " error bars; give others."
        )
    if count := num_shared(test, posterior.train_hashes):
        warnings.warn(
            InputWarning(
                f"{count} of {len(test)} test structures were in the training set; leave them out, for their errors say"
                " nothing of new structures."
            ),
            stacklevel=3,
        )


def score(predictive: Predictive, test: Dataset, num_samples: int) -> dict[str, float]:
    """The figures of :func:`evaluate` from a predictive that is at hand."""
    known = np.isfinite(test.energy)
    labelled = np.isfinite(test.forces)
    if not known.any() and not labelled.any():
        raise InputError("The test set has no energy and no forces; give labelled structures or name their keys.")
    _check_finite(predictive)
    result: dict[str, float] = {}
    if known.any():
        result |= _energy_scores(predictive, test.energy, known)
        result |= _interval_scores("energy", predictive.energy - test.energy, predictive.energy_half_width, known)
    if labelled.any():
        result |= _forces_scores(predictive, test.forces, labelled)
        result |= _interval_scores("forces", predictive.forces - test.forces, predictive.forces_half_width, labelled)
        result |= _range_scores(predictive, test, labelled)
    return result | {"num_samples": num_samples, "num_structures": len(test)}


def _check_finite(predictive: Predictive) -> None:
    """Refuse what overflowed: exp(...) of a network's output may, far from all training data."""
    stds = predictive.forces_std, predictive.energy_std
    forces_std, energy_std = (np.where(np.isnan(std).all(), 0.0, std) for std in stds)  # the method has none
    atom_is_finite = np.isfinite(predictive.forces + forces_std).all(axis=1)
    first = np.cumsum(predictive.num_atoms) - predictive.num_atoms
    finite = np.logical_and.reduceat(atom_is_finite, first)
    finite &= np.isfinite(predictive.energy + energy_std)
    if not finite.all():
        raise InputError(
            f"The prediction for structure {int(np.argmin(finite))} of the test set is not finite"
            f" ({int((~finite).sum())} such structures); remove them, or train on data nearer to them."
        )


def _where_defined(metric: Callable[..., float], stds: np.ndarray, *arguments: Any, **options: Any) -> float:
    """A metric that needs positive stds; NaN where the method has none."""
    return metric(*arguments, **options) if (stds > 0).all() else float("nan")


def _energy_scores(predictive: Predictive, target: np.ndarray, known: np.ndarray) -> dict[str, float]:
    mean, std, target = predictive.energy[known], predictive.energy_std[known], target[known]
    aleatoric = predictive.energy_std_aleatoric[known]
    samples, sample_stds = predictive.energy_samples[:, known], predictive.energy_std_samples[:, known]
    likelihood = metrics.gaussian_log_likelihood
    return {
        "energy_mae": metrics.mean_absolute_error(mean, target),
        "energy_rmse": metrics.root_mean_square_error(mean, target),
        "energy_mll": _where_defined(likelihood, std, mean, std, target),
        "energy_mll_mixture": _where_defined(metrics.mixture_log_likelihood, sample_stds, samples, sample_stds, target),
        "energy_mll_aleatoric": _where_defined(likelihood, aleatoric, mean, aleatoric, target),
        "energy_crps": _where_defined(metrics.gaussian_crps, std, mean, std, target),
        "energy_std": float(std.mean()),
        **_width_scores("energy", mean - target, std),
    }


def _energy_score(predictive: Predictive, labels: np.ndarray) -> float:
    """Of the force vectors with all three labels, under the mixture of the samples."""
    whole = np.isfinite(labels).all(axis=1)
    stds = predictive.forces_std_samples[:, whole]
    if not whole.any() or not (stds > 0).all():
        return float("nan")
    return metrics.mixture_energy_score(predictive.forces_samples[:, whole], stds, labels[whole])


def _forces_scores(predictive: Predictive, labels: np.ndarray, labelled: np.ndarray) -> dict[str, float]:
    mean, std, target = predictive.forces[labelled], predictive.forces_std[labelled], labels[labelled]
    shape = predictive.forces_samples.shape
    aleatoric = np.broadcast_to(predictive.forces_std_aleatoric[:, None], shape[1:])[labelled]
    sample_stds = np.broadcast_to(predictive.forces_std_samples[..., None], shape)[:, labelled]
    samples, rank = predictive.forces_samples[:, labelled], predictive.forces_score[labelled]
    errors = mean - target
    likelihood, auroc = metrics.gaussian_log_likelihood, metrics.outlier_auroc
    return {
        "forces_mae": metrics.mean_absolute_error(mean, target),
        "forces_rmse": metrics.root_mean_square_error(mean, target),
        "forces_mll": _where_defined(likelihood, std, mean, std, target),
        "forces_mll_mixture": _where_defined(metrics.mixture_log_likelihood, sample_stds, samples, sample_stds, target),
        "forces_mll_aleatoric": _where_defined(likelihood, aleatoric, mean, aleatoric, target),
        "forces_rll": _where_defined(metrics.relative_log_likelihood, std, errors, std)
        if errors.any()
        else float("nan"),
        "forces_energy_score": _energy_score(predictive, labels),
        "forces_auroc_swept": metrics.swept_auroc(errors, rank),
        "forces_crps": _where_defined(metrics.gaussian_crps, std, mean, std, target),
        **_width_scores("forces", errors, std),
        "forces_auroc": auroc(errors, rank, OUTLIER_THRESHOLD),
        "forces_auroc_aleatoric": _where_defined(auroc, aleatoric, errors, aleatoric, OUTLIER_THRESHOLD),
        "forces_nece": _where_defined(metrics.nece, sample_stds, errors, sample_stds, means=mean - samples),
        "forces_std": float(std.mean()),
        "forces_std_aleatoric": float(aleatoric.mean()),
    }


def _width_scores(name: str, errors: np.ndarray, std: np.ndarray) -> dict[str, float]:
    """Whether stds are as wide as the errors."""
    z = np.abs(errors) / np.where(std > 0, std, np.nan)
    figures = {f"{name}_rms_z": np.sqrt(np.mean(z**2))}
    figures |= {f"{name}_coverage_{level}": np.mean(z <= reach) for level, reach in COVERAGES.items()}
    return {key: float(value) if (std > 0).all() else float("nan") for key, value in figures.items()}


def _range_scores(predictive: Predictive, test: Dataset, labelled: np.ndarray) -> dict[str, float]:
    """How many structures lie beyond the validated range, and the coverage within it and beyond it."""
    beyond = predictive.structures_beyond_validated
    if beyond is None:
        return {}
    is_beyond = np.broadcast_to(beyond[test.structure_index][:, None], labelled.shape)[labelled]
    errors, std = (predictive.forces - test.forces)[labelled], predictive.forces_std[labelled]
    figures: dict[str, float] = {"num_beyond_validated": float(beyond.sum())}
    for where, chosen in (("within", ~is_beyond), ("beyond", is_beyond)):
        scores = _width_scores("forces", errors[chosen], std[chosen]) if chosen.any() else {}
        figures |= {f"{key}_{where}": value for key, value in scores.items()}
    return figures


def _interval_scores(
    name: str, errors: np.ndarray, half_widths: np.ndarray | None, labelled: np.ndarray
) -> dict[str, float]:
    if half_widths is None:
        return {}
    errors, half_widths = errors[labelled], half_widths[labelled]
    return {
        f"{name}_interval_coverage": metrics.interval_coverage(errors, half_widths),
        f"{name}_half_width": float(half_widths.mean()),
    }


def convergence(posterior: Posterior, held_out: Dataset) -> dict[str, Float[np.ndarray, " quantity"]]:
    """R-hat and effective sample size of the predicted energies and force components of held-out structures.

    Args:
        posterior: the samples, at least four a chain.
        held_out: structures; labels are ignored.

    Returns:
        ``rhat`` and ``ess``, energies first, then force components; NaN where the samples are too few.

    Reference: Vehtari et al. (2021), doi:10.1214/20-BA1221, on functions of the weights rather than the weights, which
    permutations of hidden units leave unidentified.
    """
    return convergence_of(posterior.predict(held_out), posterior.num_chains, posterior.statistics.labels)


def convergence_of(
    predictive: Predictive, num_chains: int, labels: Sequence[str]
) -> dict[str, Float[np.ndarray, " quantity"]]:
    """The figures of :func:`convergence` from a predictive that is at hand; arguments as of :func:`quantities`."""
    draws = quantities(predictive, num_chains, labels)
    return {"rhat": np.asarray(function_space_rhat(draws)), "ess": np.asarray(function_space_ess(draws))}


def quantities(
    predictive: Predictive, num_chains: int, labels: Sequence[str]
) -> Float[np.ndarray, "chain sample quantity"]:
    """What is monitored: energies, then force components, of each sample, less their mean over all samples.

    Args:
        predictive: of held-out structures.
        num_chains: of its samples.
        labels: of the training set. Where it had no energies, chains cannot agree on them, and they are left out.
    """
    forces = predictive.forces_samples.reshape(len(predictive.energy_samples), -1)
    draws = np.concatenate([predictive.energy_samples, forces], axis=1) if "energy" in labels else forces
    draws = draws - draws.mean(axis=0)  # float32 inside: total energies would lose their spread
    return draws.reshape(num_chains, -1, draws.shape[1])
