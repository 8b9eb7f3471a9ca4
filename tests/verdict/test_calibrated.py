"""Errors against stds on held-out labels: what is right is left alone, what is wrong is found and named."""

import dataclasses
import re

import numpy as np
import pytest
from verdict.synthetic import drawn, labelled, predictive_of, waters

from bnn_jax.verdict.calibrated import judge_calibration, ratio

NUM = 20


def case(seed: int, number: int = NUM, factor=1.0, spread=0.0):
    """Predictions of six samples with stds about 0.1 and labels that err by ``factor`` stds."""
    rng, dataset = np.random.default_rng(seed), waters(number)
    forces = drawn(dataset, rng, 2, 3, 0.05, 0.05)
    std = 0.1 * np.exp(spread * rng.normal(size=(1, len(dataset.numbers)))) * np.ones((6, 1))
    predictive = predictive_of(dataset, forces, std)
    return predictive, labelled(dataset, predictive, rng, factor)


@pytest.mark.parametrize("number", [4, 8, NUM])
def test_right_stds_are_rarely_suspected(number):
    """Of 100 sound validation sets: eight figures, each off by chance in 0.3 %, and then beyond bounds too."""
    refused = [seed for seed in range(100) if judge_calibration(*case(seed, number)).holds is not True]
    assert len(refused) <= 2, refused


def test_figures_of_right_stds():
    predictive, held_out = case(0, spread=0.5)
    found = judge_calibration(predictive, held_out)
    assert found.holds and not found.advice
    z = (predictive.forces - held_out.forces) / predictive.forces_std
    assert found.figures["forces_rms_z"] == pytest.approx(np.sqrt(np.mean(z**2)))
    assert found.figures["forces_coverage_68"] == pytest.approx(np.mean(np.abs(z) <= 1))
    assert abs(found.figures["forces_coverage_95"] - 0.9545) < 4 * found.figures["forces_coverage_95_error"]
    of_oxygen = z[held_out.numbers == 8]
    assert found.figures["forces_of_O_rms_z"] == pytest.approx(np.sqrt(np.mean(of_oxygen**2)))
    small = predictive.forces_std <= np.quantile(predictive.forces_std, 1 / 3)
    assert found.figures["forces_with_small_stds_rms_z"] == pytest.approx(np.sqrt(np.mean(z[small] ** 2)), rel=0.05)
    percent = f"{100 * found.figures['forces_coverage_68']:.0f} %"
    assert f"{percent} and " in found.sentence and " % of the forces within one and two stds" in found.sentence


@pytest.mark.parametrize(
    ("factor", "words"),
    [(3.0, r"errors of the forces are [23]\.\d\d times their stds"), (0.1, r"stds of the forces are \d+\.\d\d times")],
)
def test_stds_of_the_wrong_size(factor, words):
    found = judge_calibration(*case(1, factor=factor))
    assert found.holds is False and re.search(words, found.sentence), found.sentence
    assert "calibrate the run" in found.advice


def test_stds_that_are_somewhat_too_large_are_conservative():
    found = judge_calibration(*case(1, factor=0.5))
    assert found.holds and re.search(r"conservative by a factor of [12]\.", found.sentence), found.sentence
    assert not re.search("conservative", judge_calibration(*case(1, factor=0.8)).sentence)


def test_one_element_whose_stds_are_wrong():
    """Right on the whole, too small for oxygen and so much too large for hydrogen."""
    dataset = waters(NUM)
    factor = np.where(dataset.numbers == 8, 2.5, 0.1)[:, None]
    found = judge_calibration(*case(2, factor=factor))
    assert found.figures["forces_rms_z"] < 1.6
    assert found.holds is False
    assert "errors of the forces of O are" in found.sentence and "stds of the forces of H are" in found.sentence


def test_stds_that_are_right_on_the_whole_and_wrong_in_size():
    """Stds that differ by a factor of ten where the errors do not."""
    rng, dataset = np.random.default_rng(3), waters(NUM)
    std = np.where(rng.random(len(dataset.numbers)) < 0.3, 0.3, 0.03)[None] * np.ones((6, 1))
    predictive = predictive_of(dataset, np.zeros((6, len(dataset.numbers), 3)), std)
    errors = 0.04 * rng.normal(size=predictive.forces.shape)
    held_out = dataclasses.replace(dataset, forces=errors, energy=0.1 * rng.normal(size=len(dataset)))
    found = judge_calibration(predictive, held_out)
    assert found.figures["forces_rms_z"] < 1.5
    assert found.holds is False and "stds of the forces with large stds are" in found.sentence, found.sentence


def test_a_few_wild_errors_are_found_by_what_lies_inside():
    """A quarter of the atoms errs by 2.5 to 3 stds, the rest by little: the mean square is right."""
    rng, dataset = np.random.default_rng(4), waters(3 * NUM)
    predictive = predictive_of(dataset, np.zeros((6, len(dataset.numbers), 3)), np.full((6, len(dataset.numbers)), 0.1))
    sizes = np.where(rng.random(len(dataset.numbers)) < 0.25, 2.6, 0.1)[:, None]
    errors = 0.1 * sizes * rng.choice([-1, 1], size=predictive.forces.shape)
    found = judge_calibration(predictive, dataclasses.replace(dataset, forces=errors))
    assert found.figures["forces_rms_z"] < 1.5
    assert found.holds is False and "errors of the forces" in found.sentence, found.sentence


def test_energies_are_judged_too():
    predictive, held_out = case(5)
    wrong = dataclasses.replace(held_out, energy=predictive.energy + 5 * (held_out.energy - predictive.energy))
    found = judge_calibration(predictive, wrong)
    assert found.holds is False and "errors of the energies are" in found.sentence
    without = dataclasses.replace(held_out, energy=np.full(NUM, np.nan))
    assert judge_calibration(predictive, without).holds
    assert not any("energies" in name for name in judge_calibration(predictive, without).figures)


@pytest.mark.parametrize("number", [4, NUM])
@pytest.mark.parametrize("sign", [1, -1])
def test_energies_that_are_wrong_alike(number, sign):
    """Root mean square and coverage of two stds are right, and the energies are not."""
    predictive, held_out = case(9, number)
    std, noise = predictive.energy_std, np.random.default_rng(9).normal(size=number)
    alike = dataclasses.replace(held_out, energy=predictive.energy + std * (sign * 0.9 + 0.01 * noise))
    found = judge_calibration(predictive, alike)
    assert found.figures["energies_rms_z"] == pytest.approx(0.9, abs=0.02)
    assert found.figures["energies_coverage_95"] == 1
    assert found.figures["energies_mean_z"] == pytest.approx(-sign * 0.9, abs=0.02)
    assert found.figures["energies_scatter_of_z"] == pytest.approx(0.01 * noise.std(ddof=1), rel=1e-3)
    assert found.holds is False
    assert re.search(r"all energies are wrong alike, by 0\.\d\d stds, and these \d+ times the", found.sentence)


def test_energies_with_an_offset_within_their_scatter():
    """An offset that the samples know of counts in their stds, and is one draw for all structures."""
    predictive, held_out = case(10)
    noise = np.random.default_rng(10).normal(size=NUM)
    shifted = dataclasses.replace(held_out, energy=predictive.energy + predictive.energy_std * (0.8 + 0.5 * noise))
    found = judge_calibration(predictive, shifted)
    assert found.holds and abs(found.figures["energies_mean_z"]) > found.figures["energies_scatter_of_z"]


def test_too_few_labels_tell_nothing():
    predictive, held_out = case(6, number=3)
    found = judge_calibration(predictive, held_out)
    assert found.holds is None and "fewer than 4 structures" in found.sentence and "--valid" in found.advice
    predictive, held_out = case(7)
    unlabelled = dataclasses.replace(
        held_out, forces=np.full_like(held_out.forces, np.nan), energy=np.full(NUM, np.nan)
    )
    assert judge_calibration(predictive, unlabelled).holds is None


def test_standard_error_counts_structures_and_not_elements():
    """Elements of a structure are all alike: the error is that of as many numbers as there are structures."""
    rng, errors, means = np.random.default_rng(8), [], []
    structure = np.repeat(np.arange(30), 12)
    for _ in range(300):
        found = ratio(rng.normal(size=30)[structure], structure)
        errors.append(found.error)
        means.append(found.mean)
    # Both estimate 1 / sqrt(30): the one to 1 / sqrt(2 * 30 * 300), the other to 1 / sqrt(2 * 300).
    assert np.mean(errors) * np.sqrt(30) == pytest.approx(1.0, abs=0.03)
    assert np.std(means) * np.sqrt(30) == pytest.approx(1.0, abs=4 / np.sqrt(600))
    assert ratio(np.ones(5), np.zeros(5, int)).error == np.inf
