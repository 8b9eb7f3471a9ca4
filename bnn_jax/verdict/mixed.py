"""Are the samples draws of one posterior? Agreement of the chains, their temperature, samples unlike the others."""

import numpy as np
from jaxtyping import Float

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.evaluation import convergence_of, quantities
from bnn_jax.methods.base import Posterior, SamplingRecord
from bnn_jax.sampling.diagnostics import agreement
from bnn_jax.types import Criterion, Predictive

MAX_HEATING = 0.1
"""Relative deviation of the mean kinetic temperature from the target that is still called right."""
MAX_ERROR_RATIO = 2.0
"""A sample with more than so many times the median force error of all samples disagrees with them."""
LEVEL = 0.05
"""P value of agreement below which chains are said to disagree: one in twenty sound runs is suspected wrongly."""


def judge_mixing(posterior: Posterior, predictive: Predictive, held_out: Dataset | None) -> Criterion:
    """Look at the chains of a run.

    Args:
        posterior: the samples.
        predictive: of structures, the same that ``held_out`` has.
        held_out: with labels that were kept from training; None where there are none.
    """
    if posterior.sampling is None:
        return Criterion(None, "no chains were run", "", {})
    agree = _agreement(posterior, predictive)
    faults = [
        *_stopped(posterior.sampling),
        *_temperature(posterior.sampling),
        *([] if held_out is None else _samples(predictive, held_out, posterior.num_chains)),
    ]
    if agree.holds and not faults:
        return agree
    texts = ([] if agree.holds else [agree.sentence]) + [text for text, _ in faults]
    cures = ([] if agree.holds else [agree.advice]) + [cure for _, cure in faults]
    holds = None if agree.holds is None and not faults else False
    return Criterion(holds, "; ".join(texts), "; ".join(dict.fromkeys(cures)), agree.figures)


def _agreement(posterior: Posterior, predictive: Predictive) -> Criterion:
    num_chains, num_samples = posterior.num_chains, posterior.num_samples
    labels = posterior.statistics.labels
    draws = quantities(predictive, num_chains, labels)
    num_energies = len(predictive.energy) if "energy" in labels else 0
    p_values = {"energies": agreement(draws[..., :num_energies])} if num_energies else {}
    p_values["forces"] = agreement(draws[..., num_energies:])
    rhat = median(convergence_of(predictive, num_chains, labels)["rhat"])
    figures = {f"{name}_agreement_p_value": value for name, value in p_values.items()} | {"rhat_median": rhat}
    if np.isnan(p_values["forces"]):
        few = f"{num_samples} samples of {num_chains} chain{'s' if num_chains > 1 else ''} are too few to tell"
        advice = "sample 8 in all or more (--samples, --chains, also with --resume)"
        return Criterion(None, few, advice, figures)
    apart = [name for name, value in p_values.items() if value < LEVEL]
    who = f"the {num_chains} chains" if num_chains > 1 else "the two halves of the chain"
    numbers = f"p value {min(p_values.values()):.2g}, median R-hat {rhat:.2f}"
    if not apart:
        return Criterion(True, f"{who} agree ({numbers})", "", figures)
    advice = "run longer (sampler.convergence_steps, sampler.cycle_steps)"
    return Criterion(False, f"{who} do not agree on {' and '.join(apart)} ({numbers})", advice, figures)


def _stopped(sampling: SamplingRecord) -> list[tuple[str, str]]:
    cure = "lower the step size, and look for wrong labels"
    return [
        (f"chain {chain} diverged at step {step} ({cause}) and its samples are left out", cure)
        for chain, step, cause in sampling.stopped
    ]


def _temperature(sampling: SamplingRecord) -> list[tuple[str, str]]:
    if sampling.temperature == 0:
        return []
    ratios = np.array(sampling.kinetic_temperature) / sampling.temperature
    ratios = ratios[np.isfinite(ratios)]
    if not ratios.size or np.abs(ratios - 1).max() <= MAX_HEATING:
        return []
    worst = ratios[np.argmax(np.abs(ratios - 1))]
    cure = "raise sampler.batch_size or lower sampler.cycle_step_size" if worst > 1 else "lower sampler.cycle_step_size"
    return [(f"the chains move at {worst:.2f} times the temperature that was asked for", cure)]


def _samples(predictive: Predictive, held_out: Dataset, num_chains: int) -> list[tuple[str, str]]:
    labelled = np.isfinite(held_out.forces)
    if not labelled.any():
        return []
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
    return [(f"{text} on the validation set", "run longer before the first sample")]


def median(values: Float[np.ndarray, " value"]) -> float:
    """Of what is finite; NaN where nothing is."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else float("nan")
