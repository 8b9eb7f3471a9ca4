"""Error bars that a validation set has corrected: those of the recalibration room, kept wherever a posterior goes."""

import dataclasses
from pathlib import Path

import ase.io
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import write
from posteriors import random_posterior
from systems import ammonia, labelled_series, water

import bnn_jax
from bnn_jax import BNNCalculator, Dataset, InputError, Posterior, evaluate
from bnn_jax.calibration import Calibration, calibrate
from bnn_jax.cli import main
from bnn_jax.recalibration import fit_recalibration

TRAIN = labelled_series(ammonia(), 6)
VALID = Dataset.from_atoms(labelled_series(ammonia(), 20, seed=100))
TEST = Dataset.from_atoms(labelled_series(ammonia(), 5, seed=200))


@pytest.fixture(scope="module")
def posterior() -> Posterior:
    found = random_posterior(TRAIN)
    return dataclasses.replace(found, train_hashes=Dataset.from_atoms(TRAIN).hashes())


@pytest.mark.parametrize("method", ["variance", "affine", "isotonic"])
@pytest.mark.parametrize("per_element", [False, True])
def test_predictions_have_the_recalibrated_stds(posterior, method, per_element) -> None:
    valid, test = posterior.predict(VALID), posterior.predict(TEST)
    found = posterior.calibrated(VALID, method, per_element=per_element).predict(TEST)
    energy = fit_recalibration(method, valid.energy - VALID.energy, valid.energy_std, np.arange(20))
    np.testing.assert_array_equal(found.energy_std, energy.stds(test.energy_std))
    structure, elements = np.repeat(VALID.structure_index, 3), np.repeat(VALID.numbers, 3)
    errors, stds = (valid.forces - VALID.forces).ravel(), valid.forces_std.ravel()
    for number in (1, 7):
        chosen = elements == number if per_element else np.ones(len(elements), bool)
        forces = fit_recalibration(method, errors[chosen], stds[chosen], structure[chosen])
        atoms = TEST.numbers == number
        np.testing.assert_array_equal(found.forces_std[atoms], forces.stds(test.forces_std[atoms]))
    np.testing.assert_array_equal(found.forces, test.forces)
    np.testing.assert_array_equal(found.forces_std_epistemic, test.forces_std_epistemic)
    assert found.forces_half_width is None


def test_the_default_is_the_likeliest_affine_variance(posterior) -> None:
    assert posterior.calibrated(VALID).calibration.forces.method == "affine"


def test_matched_variances_on_the_validation_set(posterior) -> None:
    predictive = posterior.predict(VALID)
    found = calibrate(predictive, VALID, "variance")(predictive, VALID.numbers)
    assert np.mean(found.forces_std**2) == pytest.approx(np.mean((found.forces - VALID.forces) ** 2))
    assert np.mean(found.energy_std**2) == pytest.approx(np.mean((found.energy - VALID.energy) ** 2))


def test_intervals(posterior) -> None:
    """Half-widths beside the stds, of the quantile that split-conformal prediction takes, everywhere."""
    calibrated = posterior.calibrated(VALID, "conformal", coverage=0.8)
    raw, found = posterior.predict(VALID), calibrated.predict(TEST)
    ratios = np.sort(np.abs(raw.energy - VALID.energy) / raw.energy_std)
    np.testing.assert_allclose(found.energy_half_width, ratios[16] * posterior.predict(TEST).energy_std)  # 17th of 20
    np.testing.assert_array_equal(found.forces_std, posterior.predict(TEST).forces_std)
    scores = evaluate(calibrated, TEST)
    assert scores["forces_half_width"] == pytest.approx(found.forces_half_width.mean())
    inside = np.abs(found.forces - TEST.forces) <= found.forces_half_width
    assert scores["forces_interval_coverage"] == pytest.approx(inside.mean())
    atoms = ammonia()
    atoms.calc = BNNCalculator(calibrated)
    atoms.get_potential_energy()
    expected = calibrated.predict(atoms)
    assert atoms.calc.results["energy_half_width"] == pytest.approx(expected.energy_half_width[0], rel=1e-5)
    np.testing.assert_allclose(atoms.calc.results["forces_half_width"], expected.forces_half_width, rtol=1e-4)


def test_scores_that_are_no_stds_become_stds(posterior) -> None:
    """As for a mixture, which has no stds: a variance affine in its score, from the smallest on."""
    predictive = posterior.predict(VALID)
    none = {name: np.full_like(getattr(predictive, name), np.nan) for name in ("energy_std", "forces_std")}
    ranked = predictive._replace(score=np.random.default_rng(0).normal(size=len(VALID.numbers)), **none)
    found = calibrate(ranked, VALID, "affine")(ranked, VALID.numbers)
    assert np.isfinite(found.forces_std).all() and (found.energy_std > 0).all()
    with pytest.raises(InputError, match="'variance' scales standard deviations"):
        calibrate(ranked, VALID, "variance")
    both = predictive._replace(score=ranked.score)  # as evidence has them: what needs stds takes the stds
    np.testing.assert_array_equal(
        calibrate(both, VALID, "variance")(both, VALID.numbers).forces_std,
        calibrate(predictive, VALID, "variance")(predictive, VALID.numbers).forces_std,
    )
    assert calibrate(both, VALID, "variance").energy == calibrate(predictive, VALID, "variance").energy
    likewise = calibrate(both, VALID, "affine")  # what needs none takes the score
    assert likewise.energy == calibrate(ranked, VALID, "affine").energy
    assert likewise.forces == calibrate(ranked, VALID, "affine").forces


def test_labels_that_are_missing_are_left_out(posterior) -> None:
    """Atoms of both elements and an energy from amid the others, whose scores and elements must not shift."""
    predictive = posterior.predict(VALID)
    forces, energy = VALID.forces.copy(), VALID.energy.copy()
    forces[[0, 5, 6, 30]] = energy[3] = np.nan
    found = calibrate(predictive, dataclasses.replace(VALID, forces=forces, energy=energy), "affine", per_element=True)
    labelled, known = np.isfinite(forces), np.isfinite(energy)
    structure, numbers = (np.repeat(each, 3) for each in (VALID.structure_index, VALID.numbers))
    expected = fit_recalibration(
        "affine",
        (predictive.forces - forces)[labelled],
        predictive.forces_std[labelled],
        structure[labelled.ravel()],
        numbers[labelled.ravel()],
    )
    assert found.forces == expected
    errors, stds = (predictive.energy - energy)[known], predictive.energy_std[known]
    assert found.energy == fit_recalibration("affine", errors, stds, np.flatnonzero(known))


def test_what_the_method_or_the_labels_do_not_say_is_left_out(posterior) -> None:
    predictive = posterior.predict(VALID)
    silent = predictive._replace(energy_std=np.full(20, np.nan))
    found = calibrate(silent, VALID, "affine")
    assert found.energy is None and found.forces is not None
    assert np.isnan(found(silent, VALID.numbers).energy_std).all()
    no_forces = dataclasses.replace(VALID, forces=np.full_like(VALID.forces, np.nan))
    assert calibrate(predictive, no_forces, "affine").forces is None
    bare = dataclasses.replace(no_forces, energy=np.full(20, np.nan))
    with pytest.raises(InputError, match="nothing to calibrate"):
        calibrate(predictive, bare, "affine")


@pytest.mark.parametrize("method", ["affine", "conformal"])
def test_files_keep_it(posterior, method, tmp_path: Path) -> None:
    coverage = 0.7 if method == "conformal" else None
    calibrated = posterior.calibrated(VALID, method, per_element=True, coverage=coverage)
    expected = calibrated.predict(TEST)
    loaded = Posterior.load(calibrated.save(tmp_path / "posterior.safetensors"))
    exported = bnn_jax.load_exported(calibrated.export(tmp_path / "predictor", platforms=["cpu"]))
    assert Posterior.load(posterior.save(tmp_path / "raw.safetensors")).calibration is None
    name = "forces_std" if coverage is None else "forces_half_width"
    for found in (loaded, exported):
        np.testing.assert_array_equal(found.calibration.hashes, VALID.hashes())
        np.testing.assert_allclose(getattr(found.predict(TEST), name), getattr(expected, name), rtol=1e-6)


def test_another_calibration_replaces_the_first(posterior) -> None:
    twice = posterior.calibrated(VALID, "isotonic").calibrated(VALID, "variance")
    once = posterior.calibrated(VALID, "variance")
    np.testing.assert_array_equal(twice.predict(TEST).forces_std, once.predict(TEST).forces_std)


def test_neither_calibrated_on_training_data_nor_tested_on_calibration_data(posterior) -> None:
    with pytest.raises(InputError, match="6 of 6 structures to calibrate on were in the training set"):
        posterior.calibrated(TRAIN)
    calibrated = posterior.calibrated(VALID)
    with pytest.raises(InputError, match="calibrated on 20 of 20 test structures"):
        evaluate(calibrated, VALID)
    assert evaluate(posterior, VALID)["num_structures"] == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "afine"}, "'afine'; the nearest known is 'affine'"),
        ({"method": "conformal"}, "needs the coverage of its intervals"),
        (
            {"method": "conformal", "coverage": 0.96},
            "A coverage of 0.96 needs at least 24 structures and the validation",
        ),
        ({"method": "affine", "coverage": 0.9}, "gives no intervals"),
    ],
    ids=str,
)
def test_what_cannot_be_calibrated(posterior, options, message) -> None:
    with pytest.raises(InputError, match=message):
        posterior.calibrated(VALID, **options)


def test_an_element_that_the_validation_set_lacked() -> None:
    both = random_posterior([*labelled_series(ammonia(), 4), *labelled_series(water(), 4)])
    calibrated = both.calibrated(VALID, per_element=True)
    with pytest.raises(InputError, match="Group 8 was not in the validation set, whose groups are 1, 7"):
        calibrated.predict(water())


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{}", '{"energy": null, "forces": null}', '{"energy": 1, "forces": 2, "hashes": []}']
)
def test_text_that_is_no_calibration(text) -> None:
    with pytest.raises(InputError, match="fit it again"):
        Calibration.from_json(text)


def test_zero_stds_are_refused(posterior) -> None:
    """A single network without a std has nothing that could be scaled."""
    one = jax.tree.map(lambda leaf: leaf[:1], posterior.samples)
    single = dataclasses.replace(posterior, samples=one)
    predictive = single.predict(VALID)._replace(forces_std=jnp.zeros_like(VALID.forces).__array__())
    with pytest.raises(InputError, match=r"scores\[0\] is 0.0, but must be positive"):
        calibrate(predictive, VALID, "affine")


def test_the_command(posterior, tmp_path: Path, capsys) -> None:
    run, out = tmp_path / "run.safetensors", tmp_path / "calibrated.safetensors"
    posterior.save(run)
    files = [write(tmp_path / f"{seed}.xyz", labelled_series(ammonia(), 20, seed=seed)) for seed in (100, 200)]
    arguments = ["calibrate", str(run), files[0], str(out), "--method", "conformal", "--coverage", "0.8"]
    assert main([*arguments, "--per-element"]) == 0
    assert "intervals by conformal from 20 structures" in capsys.readouterr().out
    assert main(["evaluate", str(out), files[1]]) == 0
    assert "forces coverage" in capsys.readouterr().out
    assert main(["evaluate", str(out), files[0]]) == 2
    assert "calibrated on 20 of 20 test structures" in capsys.readouterr().err
    assert main(arguments) == 2
    assert "exists already; give --overwrite" in capsys.readouterr().err
    assert main(["predict", str(out), files[1], str(tmp_path / "out.xyz")]) == 0
    frame = ase.io.read(tmp_path / "out.xyz")
    expected = Posterior.load(out).predict(frame)
    np.testing.assert_allclose(frame.arrays["forces_half_width"], expected.forces_half_width, rtol=1e-4)
    assert frame.info["energy_half_width"] == pytest.approx(expected.energy_half_width[0], rel=1e-4)
