"""The verdict on a run: three questions, each with its figures and advice, and what follows for one who uses it."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.evaluation import convergence_of, quantities
from bnn_jax.methods import registry
from bnn_jax.methods.base import Posterior, SamplingRecord
from bnn_jax.methods.watch import MAX_MONITORED, FiguresFn
from bnn_jax.sampling.diagnostics import agreement
from bnn_jax.types import Criterion, Predictive, Verdict
from bnn_jax.verdict.calibrated import judge_calibration
from bnn_jax.verdict.labels import slopes
from bnn_jax.verdict.mixed import judge_mixing, median
from bnn_jax.verdict.reproducible import judge_reproducibility


def judge(posterior: Posterior, held_out: Dataset, labels_are_held_out: bool) -> Verdict:
    """Are the error bars right on held-out labels, would another run give them, and are they those of the posterior?

    They are trusted if the first two hold. Chains that have not mixed can give error bars that are both; their spread
    is then that of an ensemble of chains, and the verdict says so.

    Args:
        posterior: the samples.
        held_out: structures to predict; the first hundred are used.
        labels_are_held_out: whether their labels were kept from the training, so that errors mean something.

    Raises:
        InputError: a structure holds an element that was not in training.
    """
    held_out = monitored(held_out)
    return judge_predictive(posterior, posterior.predict(held_out), held_out, labels_are_held_out)


def judge_predictive(
    posterior: Posterior, predictive: Predictive, held_out: Dataset, labels_are_held_out: bool
) -> Verdict:
    """:func:`judge` with a predictive that is at hand."""
    wrong, loose = slopes(predictive, held_out) if labels_are_held_out else ([], [])
    known = _trained_on(held_out, posterior)
    if not labels_are_held_out or known.all():
        why = "without a validation set" if not labels_are_held_out else "from structures that were trained on"
        advice = "hold some structures back (valid, --valid)"
        calibrated = Criterion(None, f"whether they are right cannot be told {why}", advice, {})
    else:
        new = np.flatnonzero(~known)
        calibrated = judge_calibration(predictive.take(new), held_out.take(new))
    if wrong:
        calibrated = Criterion(False, wrong[0], "", calibrated.figures)
    num_networks = (
        posterior.num_chains
        if posterior.is_sampled
        else registry.num_networks(posterior.config.method, posterior.config)
    )
    reproducible = judge_reproducibility(predictive, num_networks, posterior.statistics.labels)
    mixed = judge_mixing(posterior, predictive, held_out if labels_are_held_out else None)
    if labels_are_held_out and (count := int(known.sum())):
        loose.append(f"{count} of {len(held_out)} validation structures were trained on and say nothing of errors")
    remarks = (*loose, *_unlabelled(posterior), *_halvings(posterior.sampling))
    is_trusted = bool(calibrated.holds and reproducible.holds)
    return Verdict(is_trusted, _sentence(calibrated, reproducible, mixed), remarks, calibrated, reproducible, mixed)


def _sentence(calibrated: Criterion, reproducible: Criterion, mixed: Criterion) -> str:
    """What to do, and why."""
    lacking = [criterion for criterion in (calibrated, reproducible) if not criterion.holds]
    if lacking:
        reasons = [f"{each.sentence}{': ' if each.advice else ''}{each.advice}" for each in lacking]
        return f"Do not trust the error bars of this run yet: {'; and '.join(reasons)}."
    sentence = (
        f"The error bars of this run can be trusted on data like the validation set: {calibrated.sentence};"
        f" {reproducible.sentence}."
    )
    if mixed.holds is not False:
        return sentence
    return (
        f"{sentence} Their spread is that of an ensemble of chains, not of the exact posterior, for the chains have not"
        f" mixed: {mixed.sentence}."
    )


def settling(held_out: Dataset) -> FiguresFn:
    """What a run's log and progress bar show of the three questions while it samples.

    ``z``: root mean square of errors of forces over stds; ``shift``: of how many stds another run's forces would
    differ (:func:`bnn_jax.verdict.reproducible.halves`); ``R-hat``: median. What cannot be told yet is NaN.

    Args:
        held_out: the validation set.
    """
    held_out = monitored(held_out)

    def figures(predictive: Predictive, num_chains: int, labels: Sequence[str]) -> dict[str, float]:
        calibrated = judge_calibration(predictive, held_out).figures
        reproducible = judge_reproducibility(predictive, num_chains, labels).figures
        return {
            "z": calibrated.get("forces_rms_z", np.nan),
            "shift": reproducible.get("forces_shift_of_another_run", np.nan),
            "R-hat": median(convergence_of(predictive, num_chains, labels)["rhat"]),
        }

    return figures


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
        "rhat_median": median(rhats),
        "rhat_max": float(rhats.max(initial=-np.inf)),
        "rhat_fraction_above_1.05": float(np.mean(rhats > 1.05)) if rhats.size else float("nan"),
        "agreement_p_value": agreement(quantities(predictive, posterior.num_chains, labels)),
        "ess_median": median(sizes),
        "ess_min": float(sizes.min(initial=np.inf)),
        "num_quantities": result["rhat"].size,
        "num_structures": len(held_out),
        "num_chains": posterior.num_chains,
        "num_samples": posterior.num_samples,
    }
    return numbers, result["rhat"]


def _trained_on(held_out: Dataset, posterior: Posterior) -> Bool[np.ndarray, " structure"]:
    hashes = posterior.train_hashes
    return np.zeros(len(held_out), bool) if hashes is None else np.isin(held_out.hashes(), hashes)


def _unlabelled(posterior: Posterior) -> list[str]:
    labels = posterior.statistics.labels
    findings = []
    if "energy" not in labels:
        text = "the training set had no energies: only differences of energies between structures of the same atoms"
        findings.append(f"{text} mean something, and energy_std is NaN")
    if "forces" not in labels:
        text = "the training set had no forces: how wrong they are nothing has taught, and forces_std is NaN"
        findings.append(f"{text} (forces_std_epistemic tells the spread of the samples)")
    return findings


def _halvings(sampling: SamplingRecord | None) -> list[str]:
    halvings = () if sampling is None else sampling.num_halvings
    return [
        f"chain {chain} ran with {0.5**count:g} times the step size, after {count} divergences"
        for chain, count in enumerate(halvings)
        if count
    ]
