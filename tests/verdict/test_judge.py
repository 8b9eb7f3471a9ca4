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
from bnn_jax.types import TrustWarning
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
    """Labels as the posterior says they scatter: an error of one predicted std in every component and energy."""
    bare = Dataset.from_atoms([rattled(water(), 0.05, seed) for seed in range(12)])
    predictive = sound.predict(bare)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=predictive.forces.shape)
    energy = predictive.energy + signs[:12, 0] * predictive.energy_std
    return dataclasses.replace(bare, energy=energy, forces=predictive.forces + signs * predictive.forces_std)


def with_samples(posterior: Posterior, change) -> Posterior:
    return dataclasses.replace(posterior, samples=jax.tree.map(change, posterior.samples))


def test_a_sound_posterior_is_trusted(sound, held_out):
    verdict = judge(sound, held_out, labels_are_held_out=True)
    assert verdict.is_trusted and not verdict.remarks
    assert [verdict.calibrated.holds, verdict.reproducible.holds, verdict.mixed.holds] == [True, True, True]
    assert verdict.sentence.startswith("The error bars of this run can be trusted on data like the validation set: ")
    assert "; another run's energies would differ by " in verdict.sentence and "mixed" not in verdict.sentence


def test_without_a_validation_set_nothing_is_trusted(sound, held_out):
    verdict = judge(sound, held_out, labels_are_held_out=False)
    assert not verdict.is_trusted and verdict.calibrated.holds is None and verdict.reproducible.holds
    assert "cannot be told without a validation set: hold some structures back (valid, --valid)" in verdict.sentence


def test_structures_that_were_trained_on_say_nothing_of_errors(sound, held_out):
    right = held_out.take(np.arange(8, 12))
    wrong = dataclasses.replace(held_out, forces=held_out.forces + 1000.0 * (held_out.structure_index < 8)[:, None])
    posterior = dataclasses.replace(sound, train_hashes=held_out.take(np.arange(8)).hashes())
    assert judge(sound, wrong, labels_are_held_out=True).calibrated.holds is False
    verdict = judge(posterior, wrong, labels_are_held_out=True)
    expected = judge(sound, right, labels_are_held_out=True).calibrated.figures
    assert verdict.calibrated.holds and verdict.calibrated.figures == pytest.approx(expected, rel=1e-4)
    assert verdict.remarks[-1] == "8 of 12 validation structures were trained on and say nothing of errors"
    nothing = judge(dataclasses.replace(sound, train_hashes=held_out.hashes()), held_out, labels_are_held_out=True)
    assert nothing.calibrated.holds is None and not nothing.is_trusted
    assert "cannot be told from structures that were trained on: hold some structures back" in nothing.sentence


def about_the_first(leaf):
    """Each chain scatters less than the chains lie apart."""
    chains = leaf.reshape(NUM_CHAINS, PER_CHAIN, *leaf.shape[1:])
    return (chains[:, :1] + 0.05 * (chains - chains[:, :1])).reshape(leaf.shape)


def test_chains_that_lie_apart_are_neither_mixed_nor_reproducible(sound, held_out):
    far = with_samples(sound, lambda leaf: leaf[:1] + 10 * (about_the_first(leaf) - leaf[:1]))
    heads = dict(far.samples["heads"])
    for name in ("energy_std", "forces_std"):  # so that it is the chains that tell
        last = max(key for key in heads[name] if key.startswith("bias"))
        heads[name] = heads[name] | {last: heads[name][last] - 6}
    far = dataclasses.replace(far, samples=far.samples | {"heads": heads})
    verdict = judge(far, held_out, labels_are_held_out=True)
    assert not verdict.is_trusted and verdict.reproducible.holds is False and verdict.mixed.holds is False
    assert (
        "another run's forces would differ by" in verdict.sentence and "run more chains (--chains)" in verdict.sentence
    )
    assert "the 2 chains do not agree on energies and forces (p value 0.0" in verdict.mixed.sentence
    assert verdict.mixed.advice == "run longer (sampler.convergence_steps, sampler.cycle_steps)"


def test_an_ensemble_of_chains_can_be_trusted_and_is_called_one(sound, held_out):
    """Twelve chains of one sample each, which agree; chains that do not mix are no reason for distrust."""
    drifting = dataclasses.replace(with_samples(sound, about_the_first), num_chains=NUM_CHAINS * PER_CHAIN)
    apart = dataclasses.replace(
        with_samples(sound, lambda leaf: np.repeat(leaf[:: PER_CHAIN // 2], 3, axis=0)), num_chains=4
    )
    predictive = apart.predict(held_out)
    rng = np.random.default_rng(1)
    labels = predictive.forces + predictive.forces_std * rng.normal(size=predictive.forces.shape)
    energy = predictive.energy + predictive.energy_std * rng.normal(size=predictive.energy.shape)
    verdict = judge(apart, dataclasses.replace(held_out, forces=labels, energy=energy), labels_are_held_out=True)
    assert verdict.is_trusted and verdict.mixed.holds is False, verdict
    assert "Their spread is that of an ensemble of chains, not of the exact posterior, for the chains have not" in (
        verdict.sentence
    )
    assert judge(drifting, held_out, labels_are_held_out=True).mixed.holds is None


def test_two_chains_of_four_that_do_not_agree(sound, held_out):
    """R-hat alone cannot tell these from independent draws."""

    def chains_of_four(leaf):
        chains = leaf.reshape(NUM_CHAINS, PER_CHAIN, *leaf.shape[1:])[:, :4]
        return (chains[:, :1] + 0.1 * (chains - chains[:, :1])).reshape(-1, *leaf.shape[1:])

    verdict = judge(with_samples(sound, chains_of_four), held_out, labels_are_held_out=False)
    assert "the 2 chains do not agree on energies and forces (p value 0.0" in verdict.mixed.sentence


def test_a_chain_whose_halves_do_not_agree(sound, held_out):
    def drifting(leaf):
        drift = np.arange(len(leaf)).reshape(-1, *[1] * (leaf.ndim - 1)) // PER_CHAIN
        return leaf[0] + 0.05 * (leaf - leaf[0]) + drift * (leaf[1] - leaf[0])

    alone = judge(dataclasses.replace(with_samples(sound, drifting), num_chains=1), held_out, labels_are_held_out=False)
    assert "the two halves of the chain do not agree" in alone.mixed.sentence
    assert alone.reproducible.holds is None and "cannot be told from one network" in alone.sentence


def test_too_few_samples(sound, held_out):
    few = dataclasses.replace(with_samples(sound, lambda leaf: leaf[:3]), num_chains=1)
    mixed = judge(few, held_out, labels_are_held_out=True).mixed
    assert mixed.holds is None and mixed.sentence == "3 samples of 1 chain are too few to tell"
    assert mixed.advice == "sample 8 in all or more (--samples, --chains, also with --resume)"


@pytest.mark.parametrize(
    ("kinetic", "words", "advice"),
    [
        ((1.3, 1.0), "1.30 times the temperature that was asked for", "raise sampler.batch_size or lower"),
        ((1.0, 0.8), "0.80 times the temperature that was asked for", "lower sampler.cycle_step_size"),
        ((1.09, 0.91), None, ""),
        ((float("nan"), float("nan")), None, ""),
    ],
    ids=["hot", "cold", "right", "unknown"],
)
def test_temperature(sound, held_out, kinetic, words, advice):
    record = SamplingRecord(2.0, tuple(2.0 * value for value in kinetic), (0, 0), ())
    verdict = judge(dataclasses.replace(sound, sampling=record), held_out, labels_are_held_out=True)
    assert verdict.is_trusted and verdict.mixed.holds == (words is None)
    assert words is None or (words in verdict.sentence and advice in verdict.mixed.advice)


@pytest.mark.parametrize(
    ("factor", "words"),
    [(3.0, "errors of the forces are 3.00 times their stds"), (0.2, "stds of the forces are 5.00 times")],
    ids=["small", "large"],
)
def test_error_bars_of_the_wrong_size(sound, held_out, factor, words):
    mean = sound.predict(held_out).forces
    labels = dataclasses.replace(held_out, forces=mean + factor * (held_out.forces - mean))
    verdict = judge(sound, labels, labels_are_held_out=True)
    assert not verdict.is_trusted and words in verdict.sentence


def test_a_sample_unlike_the_others(sound, held_out):
    verdict = judge(with_samples(sound, lambda leaf: leaf.at[7].multiply(1.5)), held_out, labels_are_held_out=True)
    assert "1 of 12 samples (number 1 of chain 1) have more than 2 times the usual error" in verdict.mixed.sentence


def test_stopped_chains_and_halved_steps(sound, held_out):
    record = SamplingRecord(1.0, (1.0, 1.0), (0, 2), ((2, 417, "its state is not finite"),))
    verdict = judge(dataclasses.replace(sound, sampling=record), held_out, labels_are_held_out=True)
    text = "chain 2 diverged at step 417 (its state is not finite) and its samples are left out"
    assert text in verdict.mixed.sentence and verdict.mixed.advice == "lower the step size, and look for wrong labels"
    assert verdict.remarks == ("chain 1 ran with 0.25 times the step size, after 2 divergences",)


def test_the_file_keeps_it_and_those_who_use_it_are_told(sound, held_out, tmp_path):
    judged = judge(sound, held_out, labels_are_held_out=False)  # some figures are NaN where nothing can be told
    figures = judged.mixed.figures | {"rhat_median": float("nan")}
    bad = judged._replace(sentence="Do not trust it.", mixed=judged.mixed._replace(figures=figures))
    loaded = Posterior.load(dataclasses.replace(sound, verdict=bad).save(tmp_path))
    assert loaded.sampling == sound.sampling and loaded.verdict is not None
    assert repr(loaded.verdict) == repr(bad)
    with pytest.warns(TrustWarning, match="Do not trust it"):
        evaluate(loaded, held_out)
    with pytest.warns(TrustWarning, match="Do not trust it"):
        BNNCalculator(loaded)
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrustWarning)
        evaluate(dataclasses.replace(sound, verdict=bad._replace(is_trusted=True)), held_out)
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
    assert "times the predicted" not in right.sentence and not any("hardly" in text for text in right.remarks)
    wrong = dataclasses.replace(bare, **noisy | {label: FACTORS[label] * noisy[label]})
    text = judge(posterior, wrong, labels_are_held_out=True).calibrated.sentence
    factor = f"{FACTORS[label]:.2g}".rstrip("0").rstrip(".")
    assert text.startswith(f"the {NAMES[label]} of the validation set are {factor}")
    assert text.endswith("look for a wrong unit or sign of energies, forces or stress, in both sets")
    assert "times the predicted" not in judge(posterior, wrong, labels_are_held_out=False).sentence
