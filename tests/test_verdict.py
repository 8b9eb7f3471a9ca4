"""The verdict says what a posterior suffers from, and nothing of a sound one; those who use a bad one are told."""

import dataclasses
import warnings

import jax
import numpy as np
import pytest
from posteriors import random_posterior
from systems import labelled_series, rattled, triclinic_crystal, water

from bnn_jax import BNNCalculator, Dataset, Posterior, evaluate
from bnn_jax.methods.base import SamplingRecord
from bnn_jax.types import TrustWarning, Verdict
from bnn_jax.verdict import judge

NUM_CHAINS, PER_CHAIN = 2, 6
SEED = 2
"""Some sound posteriors are suspected by chance (three of the seeds 0 to 7); that of this seed is not."""


@pytest.fixture(scope="module")
def sound() -> Posterior:
    """Independent draws about one weight vector."""
    posterior = random_posterior(labelled_series(water(), 6), num_samples=PER_CHAIN, num_chains=NUM_CHAINS, seed=SEED)
    posterior = with_samples(posterior, lambda leaf: leaf[:1] + 0.1 * (leaf - leaf[:1]))
    return dataclasses.replace(posterior, sampling=SamplingRecord(1.0, (1.02, 0.97), (0, 0), ()))


@pytest.fixture(scope="module")
def held_out(sound: Posterior) -> Dataset:
    """Labels as the posterior says they scatter: an error of one predicted std in every component."""
    bare = Dataset.from_atoms([rattled(water(), 0.05, seed) for seed in range(12)])
    predictive = sound.predict(bare)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=predictive.forces.shape)
    return dataclasses.replace(bare, forces=predictive.forces + signs * predictive.forces_std)


def with_samples(posterior: Posterior, change) -> Posterior:
    return dataclasses.replace(posterior, samples=jax.tree.map(change, posterior.samples))


def test_a_sound_posterior_is_trusted(sound, held_out):
    verdict = judge(sound, held_out, labels_are_held_out=True)
    assert verdict == Verdict(True, "No reason was found to distrust the error bars of this run.", ())


def test_two_chains_of_four_that_do_not_agree(sound, held_out):
    """The least that the preset `small` gives: R-hat alone cannot tell these from independent draws."""

    def chains_of_four(leaf):
        chains = leaf.reshape(NUM_CHAINS, PER_CHAIN, *leaf.shape[1:])[:, :4]
        return (chains[:, :1] + 0.1 * (chains - chains[:, :1])).reshape(-1, *leaf.shape[1:])

    verdict = judge(with_samples(sound, chains_of_four), held_out, labels_are_held_out=False)
    assert "the 2 chains do not agree on energies and forces (p value 0.0" in verdict.sentence


def test_chains_that_do_not_agree(sound, held_out):
    """Each chain scatters less than the chains lie apart."""

    def about_the_first(leaf):
        chains = leaf.reshape(NUM_CHAINS, PER_CHAIN, *leaf.shape[1:])
        return (chains[:, :1] + 0.05 * (chains - chains[:, :1])).reshape(leaf.shape)

    verdict = judge(with_samples(sound, about_the_first), held_out, labels_are_held_out=False)
    assert not verdict.is_trusted
    assert verdict.sentence.startswith(
        "Do not trust the error bars of this run yet: the 2 chains do not agree on energies and forces (p value 0.0"
    )
    assert "run longer (sampler.convergence_steps, sampler.cycle_steps) or lower the step size" in verdict.sentence


def test_a_chain_whose_halves_do_not_agree(sound, held_out):
    def drifting(leaf):
        drift = np.arange(len(leaf)).reshape(-1, *[1] * (leaf.ndim - 1)) // PER_CHAIN
        return leaf[0] + 0.05 * (leaf - leaf[0]) + drift * (leaf[1] - leaf[0])

    alone = dataclasses.replace(with_samples(sound, drifting), num_chains=1)
    assert "the two halves of the chain do not agree" in judge(alone, held_out, labels_are_held_out=False).sentence


def test_too_few_samples(sound, held_out):
    few = dataclasses.replace(with_samples(sound, lambda leaf: leaf[:3]), num_chains=1)
    verdict = judge(few, held_out, labels_are_held_out=True)
    assert (
        "3 samples of 1 chain are too few to see whether they agree: sample 8 in all or more in a new run"
        in verdict.sentence
    )


@pytest.mark.parametrize(
    ("kinetic", "words"),
    [
        ((1.3, 1.0), "1.30 times the temperature that was asked for: raise sampler.batch_size"),
        ((1.0, 0.8), "0.80 times the temperature that was asked for: lower sampler.cycle_step_size"),
        ((1.09, 0.91), None),
        ((float("nan"), float("nan")), None),
    ],
)
def test_temperature(sound, held_out, kinetic, words):
    record = SamplingRecord(2.0, tuple(2.0 * value for value in kinetic), (0, 0), ())
    verdict = judge(dataclasses.replace(sound, sampling=record), held_out, labels_are_held_out=True)
    assert verdict.is_trusted == (words is None)
    assert words is None or words in verdict.sentence


@pytest.mark.parametrize(
    "factor, words", [(3.0, "are 3.00 times their error bars"), (0.3, "are 3.33 times the errors")]
)
def test_error_bars_of_the_wrong_size(sound, held_out, factor, words):
    mean = sound.predict(held_out).forces
    labels = dataclasses.replace(held_out, forces=mean + factor * (held_out.forces - mean))
    verdict = judge(sound, labels, labels_are_held_out=True)
    assert not verdict.is_trusted and words in verdict.sentence
    assert judge(sound, labels, labels_are_held_out=False).is_trusted


def test_a_sample_unlike_the_others(sound, held_out):
    def spoilt(leaf):
        return leaf.at[7].multiply(1.5)

    verdict = judge(with_samples(sound, spoilt), held_out, labels_are_held_out=True)
    assert any(
        "1 of 12 samples (number 1 of chain 1) have more than 2 times the usual error" in text
        for text in verdict.findings
    ), verdict


def test_stopped_chains_and_halved_steps(sound, held_out):
    record = SamplingRecord(1.0, (1.0, 1.0), (0, 2), ((2, 417, "its state is not finite"),))
    verdict = judge(dataclasses.replace(sound, sampling=record), held_out, labels_are_held_out=True)
    assert not verdict.is_trusted
    assert "chain 2 diverged at step 417 (its state is not finite) and its samples are left out" in verdict.sentence
    assert verdict.findings[1] == "chain 1 ran with 0.25 times the step size, after 2 divergences"
    halved = dataclasses.replace(sound, sampling=record._replace(stopped=()))
    assert judge(halved, held_out, labels_are_held_out=True).is_trusted


def test_the_file_keeps_it_and_those_who_use_it_are_told(sound, held_out, tmp_path):
    bad = dataclasses.replace(sound, verdict=Verdict(False, "Do not trust it.", ("Do not.", "Never.")))
    loaded = Posterior.load(bad.save(tmp_path))
    assert (loaded.verdict, loaded.sampling) == (bad.verdict, bad.sampling)
    with pytest.warns(TrustWarning, match="Do not trust it"):
        evaluate(loaded, held_out)
    with pytest.warns(TrustWarning, match="Do not trust it"):
        BNNCalculator(loaded)
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrustWarning)
        evaluate(dataclasses.replace(bad, verdict=Verdict(True, "", ())), held_out)
        BNNCalculator(sound)


FACTORS = {"energy": 0.04, "forces": -1.0, "stress": 160.2}
NAMES = {"energy": "energies", "forces": "forces", "stress": "stresses"}


@pytest.mark.parametrize("label", FACTORS)
def test_labels_in_another_unit_or_of_another_sign(label):
    """Labels that are predictions times a factor, with some noise; nothing is said where the factor is one."""
    crystal = [rattled(triclinic_crystal(), 0.1, seed) for seed in range(20)]
    posterior = random_posterior(labelled_series(triclinic_crystal(), 6), num_samples=4, seed=SEED)
    bare = Dataset.from_atoms(crystal)
    predictive, rng = posterior.predict(bare), np.random.default_rng(0)
    predicted = {name: np.asarray(getattr(predictive, name), np.float64) for name in FACTORS}
    predicted["energy"] += 3.0 * bare.num_atoms
    noisy = {name: values + 0.02 * values.std() * rng.normal(size=values.shape) for name, values in predicted.items()}
    right = judge(posterior, dataclasses.replace(bare, **noisy), labels_are_held_out=True)
    assert not any("times the predicted" in text or "hardly" in text for text in right.findings)
    wrong = dataclasses.replace(bare, **noisy | {label: FACTORS[label] * noisy[label]})
    texts = [text for text in judge(posterior, wrong, labels_are_held_out=True).findings if "times the pred" in text]
    factor = f"{FACTORS[label]:.2g}".rstrip("0").rstrip(".")
    assert len(texts) == 1 and texts[0].startswith(f"the {NAMES[label]} of the validation set are {factor}")
    assert texts[0].endswith("look for a wrong unit or sign of energies, forces or stress, in both sets")
    own = judge(posterior, wrong, labels_are_held_out=False)
    assert not any("times the predicted" in text for text in own.findings)
