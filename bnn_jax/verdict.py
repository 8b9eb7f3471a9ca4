"""Whether the samples of a run can be taken for the posterior: diagnostics turned into words and an advice."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.energies import atomic_energy_residuals
from bnn_jax.evaluation import convergence_of, quantities
from bnn_jax.methods.base import Posterior, SamplingRecord
from bnn_jax.sampling.diagnostics import MIN_DRAWS, agreement
from bnn_jax.types import Predictive, Verdict

MAX_MONITORED = 100
"""Structures that a verdict looks at, at most."""
MAX_HEATING = 0.1
"""Relative deviation of the mean kinetic temperature from the target that is still called right."""
MAX_Z = 1.5
"""Root mean square of error over std, or its inverse, up to which error bars are called right."""
MAX_ERROR_RATIO = 2.0
"""A sample with more than so many times the median force error of all samples disagrees with them."""
MAX_SLOPE = 2.0
"""Labels that are more than so many times the predictions, or less than the inverse, are in another unit."""
MIN_CORRELATION = 0.5
"""Between labels and predictions that are said to follow them."""
LEVEL = 0.05
"""P value of agreement below which chains are said to disagree: one in twenty sound runs is suspected wrongly."""


class Finding(NamedTuple):
    """One thing that was noticed."""

    is_grave: bool
    text: str


def judge(posterior: Posterior, held_out: Dataset, labels_are_held_out: bool) -> Verdict:
    """Look at agreement of the chains, temperature, labels against predictions, calibration and single samples.

    Args:
        posterior: the samples.
        held_out: structures to predict; the first hundred are used.
        labels_are_held_out: whether their labels were kept from the training, so that errors mean something.

    Raises:
        InputError: a structure holds an element that was not in training.
    """
    held_out = monitored(held_out)
    predictive = posterior.predict(held_out)
    findings = [*_stopped(posterior), *(_agreement(posterior, predictive) if posterior.is_sampled else [])]
    findings += _temperature(posterior.sampling)
    if labels_are_held_out:
        findings += _slopes(predictive, held_out)
    if labels_are_held_out and np.isfinite(held_out.forces).any():
        findings += [*_calibration(predictive, held_out), *_samples(predictive, held_out, posterior.num_chains)]
    findings += [*_unlabelled(posterior), *_halvings(posterior.sampling)]
    texts = tuple(finding.text for finding in sorted(findings, key=lambda finding: not finding.is_grave))
    grave = [finding.text for finding in findings if finding.is_grave]
    if grave:
        more = "" if len(grave) == 1 else f" ({len(grave) - 1} more such findings)"
        return Verdict(False, f"Do not trust the error bars of this run yet: {grave[0]}{more}.", texts)
    return Verdict(True, "No reason was found to distrust the error bars of this run.", texts)


def monitored(dataset: Dataset) -> Dataset:
    """The structures that diagnostics look at: the first hundred."""
    return dataset.take(np.arange(min(len(dataset), MAX_MONITORED)))


def summary(posterior: Posterior, held_out: Dataset) -> tuple[dict[str, float], Float[np.ndarray, " quantity"]]:
    """Summary of R-hat and effective sample size of the predictions for held-out structures, and every R-hat.

    Args:
        posterior: the samples, at least four a chain.
        held_out: structures; the first hundred are used.
    """
    held_out = monitored(held_out)
    predictive = posterior.predict(held_out)
    labels = posterior.statistics.labels
    result = convergence_of(predictive, posterior.num_chains, labels)
    rhats, sizes = (result[name][np.isfinite(result[name])] for name in ("rhat", "ess"))
    numbers = {
        "rhat_median": _median(rhats),
        "rhat_max": float(rhats.max(initial=-np.inf)),
        "rhat_fraction_above_1.05": float(np.mean(rhats > 1.05)) if rhats.size else float("nan"),
        "agreement_p_value": agreement(quantities(predictive, posterior.num_chains, labels)),
        "ess_median": _median(sizes),
        "ess_min": float(sizes.min(initial=np.inf)),
        "num_quantities": result["rhat"].size,
        "num_structures": len(held_out),
        "num_chains": posterior.num_chains,
        "num_samples": posterior.num_samples,
    }
    return numbers, result["rhat"]


def _stopped(posterior: Posterior) -> list[Finding]:
    stopped = () if posterior.sampling is None else posterior.sampling.stopped
    return [
        Finding(
            True,
            f"chain {chain} diverged at step {step} ({cause}) and its samples are left out: lower the step size,"
            " and look for wrong labels",
        )
        for chain, step, cause in stopped
    ]


def _agreement(posterior: Posterior, predictive: Predictive) -> list[Finding]:
    num_chains, num_samples = posterior.num_chains, posterior.num_samples
    labels = posterior.statistics.labels
    draws = quantities(predictive, num_chains, labels)
    rhat = convergence_of(predictive, num_chains, labels)["rhat"]
    num_energies = len(predictive.energy) if "energy" in labels else 0
    p_values = {"energies": agreement(draws[..., :num_energies])} if num_energies else {}
    p_values["forces"] = agreement(draws[..., num_energies:])
    if np.isnan(p_values["forces"]):
        text = f"{num_samples} samples of {num_chains} chain{'s' if num_chains > 1 else ''} are too few to see whether"
        return [
            Finding(
                True,
                f"{text} they agree: sample 8 in all or more in a new run (sampler.num_samples, --samples, --chains)",
            )
        ]
    apart = [name for name, value in p_values.items() if value < LEVEL]
    if not apart:
        return []
    who = f"the {num_chains} chains do" if num_chains > 1 else "the two halves of the chain do"
    p_value = min(p_values[name] for name in apart)
    return [
        Finding(
            True,
            f"{who} not agree on {' and '.join(apart)} (p value {p_value:.2g}, median R-hat {_median(rhat):.2f}): run"
            " longer (sampler.convergence_steps, sampler.cycle_steps) or lower the step size",
        )
    ]


def _temperature(sampling: SamplingRecord | None) -> list[Finding]:
    if sampling is None or sampling.temperature == 0:
        return []
    ratios = np.array(sampling.kinetic_temperature) / sampling.temperature
    ratios = ratios[np.isfinite(ratios)]
    if not ratios.size or np.abs(ratios - 1).max() <= MAX_HEATING:
        return []
    worst = ratios[np.argmax(np.abs(ratios - 1))]
    cure = "raise sampler.batch_size or lower sampler.cycle_step_size" if worst > 1 else "lower sampler.cycle_step_size"
    return [Finding(True, f"the chains move at {worst:.2f} times the temperature that was asked for: {cure}")]


def _slopes(predictive: Predictive, held_out: Dataset) -> list[Finding]:
    """Least squares slopes of labels by predictions: one where both mean the same, however noisy the labels are."""
    wrong, loose = [], []
    for name, label, predicted, std, num_free in _compared(predictive, held_out):
        product, squares = np.sum(label * predicted), np.sum(predicted**2)
        if num_free < MIN_DRAWS or not (squares > 0 and label.any()):
            continue
        slope, correlation = product / squares, product / np.sqrt(squares * np.sum(label**2))
        error = np.sqrt(max(1 - correlation**2, 0.0) / num_free) * np.sqrt(np.sum(label**2) / squares)  # of the slope
        surely = slope - 3 * error, slope + 3 * error
        if 3 * error < abs(slope) and (surely[1] < 1 / MAX_SLOPE or surely[0] > MAX_SLOPE):
            wrong.append(
                f"the {name} of the validation set are {slope:.2g} times the predicted ones (correlation"
                f" {correlation:.2f})"
            )
        elif correlation < MIN_CORRELATION and np.mean(std**2) < np.mean(label**2) / 4:
            loose.append(
                f"the {name} of the validation set hardly follow the predicted ones (correlation {correlation:.2f}),"
                " which claim to know them better"
            )
    cure = "look for a wrong unit or sign of energies, forces or stress, in both sets"
    findings = [Finding(True, f"{' and '.join(wrong)}: {cure}")] if wrong else []
    return findings + [Finding(False, text) for text in loose]


def _compared(
    predictive: Predictive, held_out: Dataset
) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray, int]]:
    """Name, labels, predictions and their std, and how many structures tell, of each labelled quantity.

    Energies are without the best atomic energies, stresses without the mean pressure.
    """
    known = np.isfinite(held_out.energy)
    if known.any():
        composition = held_out.composition[known]
        energies = (held_out.energy[known], predictive.energy[known].astype(np.float64))
        label, predicted = (atomic_energy_residuals(composition, energy) for energy in energies)
        num_free = int(known.sum() - np.linalg.matrix_rank(composition))
        yield "energies", label, predicted, predictive.energy_std[known], num_free
    known = np.isfinite(held_out.forces).all(axis=1)
    if known.any():
        num_free = len(np.unique(held_out.structure_index[known]))
        yield "forces", held_out.forces[known], predictive.forces[known], predictive.forces_std[known], num_free
    known = np.isfinite(held_out.stress).all(axis=(1, 2)) & held_out.pbc.all(axis=1)
    if known.any() and predictive.stress is not None and predictive.stress_std_epistemic is not None:
        label, predicted = (
            stress[known] - np.eye(3) * np.trace(stress[known].mean(axis=0)) / 3
            for stress in (held_out.stress, predictive.stress)
        )
        yield "stresses", label, predicted, predictive.stress_std_epistemic[known], int(known.sum())


def _calibration(predictive: Predictive, held_out: Dataset) -> list[Finding]:
    """Root mean square of error over std, judged where its scatter over structures allows."""
    labelled = np.isfinite(held_out.forces)
    if not (predictive.forces_std > 0).all():
        return []  # a method without error bars in the unit of the forces
    z = np.where(labelled, (predictive.forces - held_out.forces) / predictive.forces_std, 0.0)
    first = held_out.offsets[:-1]
    counts = np.add.reduceat(labelled.sum(axis=1), first)
    squares = np.add.reduceat((z**2).sum(axis=1), first)[counts > 0] / counts[counts > 0]
    if len(squares) < MIN_DRAWS:
        return []
    mean, error = squares.mean(), squares.std(ddof=1) / np.sqrt(len(squares))
    factor = np.sqrt(mean)
    if 1 / MAX_Z <= factor <= MAX_Z or abs(mean - 1) < 3 * error:
        return []
    if factor > 1:
        text = f"errors of forces on the validation set are {factor:.2f} times their error bars"
        return [Finding(True, f"{text}: validate on data like those you will use, or train on more")]
    text = f"error bars of forces on the validation set are {1 / factor:.2f} times the errors"
    return [Finding(True, f"{text}: run longer, so that the predicted noise has settled")]


def _samples(predictive: Predictive, held_out: Dataset, num_chains: int) -> list[Finding]:
    labelled = np.isfinite(held_out.forces)
    errors = np.where(labelled, predictive.forces_samples - held_out.forces, 0.0)
    rmse = np.sqrt((errors**2).sum(axis=(1, 2)) / labelled.sum())
    if len(rmse) < 3:
        return []
    bad = np.flatnonzero(rmse > MAX_ERROR_RATIO * np.median(rmse))
    if not bad.size:
        return []
    per_chain = len(rmse) // num_chains
    named = ", ".join(f"number {i % per_chain} of chain {i // per_chain}" for i in bad[:4].tolist())
    more = "" if bad.size <= 4 else " and others"
    text = f"{bad.size} of {len(rmse)} samples ({named}{more}) have more than {MAX_ERROR_RATIO:g} times the usual error"
    return [Finding(True, f"{text} on the validation set: run longer before the first sample")]


def _unlabelled(posterior: Posterior) -> list[Finding]:
    labels = posterior.statistics.labels
    findings = []
    if "energy" not in labels:
        text = "the training set had no energies: only differences of energies between structures of the same atoms"
        findings.append(Finding(False, f"{text} mean something, and energy_std is NaN"))
    if "forces" not in labels:
        text = "the training set had no forces: how wrong they are nothing has taught, and forces_std is NaN"
        findings.append(Finding(False, f"{text} (forces_std_epistemic tells the spread of the samples)"))
    return findings


def _halvings(sampling: SamplingRecord | None) -> list[Finding]:
    halvings = () if sampling is None else sampling.num_halvings
    return [
        Finding(False, f"chain {chain} ran with {0.5**count:g} times the step size, after {count} divergences")
        for chain, count in enumerate(halvings)
        if count
    ]


def _median(values: Float[np.ndarray, " value"]) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else float("nan")
