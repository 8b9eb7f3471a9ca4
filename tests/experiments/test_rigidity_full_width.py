"""The experiment of both Hessians in miniature, and the choice of a regulariser on errors of known spread."""

import dataclasses
import importlib
import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from systems import ethanol, labelled_series

import bnn_jax
from bnn_jax.rigidity import dense_hessian, prediction_rigidity

FOLDER = Path(__file__).parents[2] / "experiments" / "rigidity"


@pytest.fixture
def experiment():
    return importlib.import_module("full_width")


@pytest.fixture
def small(experiment, monkeypatch):
    """With a network of one block and two networks."""
    model = {"num_blocks": 1, "l_max": 0, "cutoff": 3.0, "num_bessel": 2, "std_hidden": ()}
    whole = experiment.configuration

    def configuration(num_steps: int, num_features: int) -> bnn_jax.Config:
        config = whole(num_steps, num_features)
        assert config.model.num_features == num_features
        trainer = dataclasses.replace(config.trainer, batch_size=2)
        return dataclasses.replace(config, model=dataclasses.replace(config.model, **model), trainer=trainer)

    monkeypatch.setattr(experiment, "configuration", configuration)
    monkeypatch.setattr(experiment, "NUM_NETWORKS", 2)
    monkeypatch.setattr(experiment, "NUM_BINS", 2)
    return experiment


@pytest.fixture
def root(tmp_path):
    ase.io.write(tmp_path / "train.xyz", labelled_series(ethanol(), 12))
    ase.io.write(tmp_path / "test.xyz", labelled_series(ethanol(), 5, seed=100))
    return tmp_path


@pytest.mark.slow
def test_whole_experiment_and_what_it_leaves(small, root, capsys) -> None:
    sets = {"ethanol": small.Source("train.xyz", 6, 4, {"ethanol": ("test.xyz", 5)})}
    out = root / "out"
    settings = small.Settings(num_steps=4, num_features=2, seed=0, num_resamples=20)
    first = small.run(sets, root, out, settings, progress=False)
    assert "ethanol, network 1: rigidities" in capsys.readouterr().out
    lines = first.splitlines()
    assert len(lines) == 2 + 2 * 3 and (out / "full_width.png").stat().st_size > 5000
    results = json.loads((out / "results.json").read_text())["results"]
    for name in small.FIGURES:
        by_form = {form: results["ethanol/forces"][name][form][0] for form in (*small.FORMS, "difference")}
        assert by_form["difference"] == pytest.approx(by_form["all weights"] - by_form["last layer"], abs=1e-12)
    kept = (out / "rigidities-ethanol-0.npz").stat().st_mtime_ns
    assert small.run(sets, root, out, settings, progress=False) == first
    assert "rigidities" not in capsys.readouterr().out  # what is finished is read again
    assert (out / "rigidities-ethanol-0.npz").stat().st_mtime_ns == kept


def test_regulariser_and_calibration_are_found_again(experiment) -> None:
    """Errors drawn with the variance of a Hessian of known regulariser; of 2,000 the spread of alpha is 1.6 %."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(30, 12)) * np.geomspace(1, 1e-4, 12)
    targets = rng.normal(size=(2000, 12)) * np.geomspace(1, 1e-4, 12)
    matrix, zeta = rows.T @ rows, experiment.ZETAS[6]
    hessian = dense_hessian([rows], zeta * np.sqrt(np.trace(matrix) / 12))
    errors = rng.normal(size=2000) * 0.3 / np.sqrt(prediction_rigidity(targets, hessian))
    spectrum = experiment.spectrum_of(matrix)
    squares = spectrum.squares(targets)
    found = experiment.choose_estimate(spectrum, squares, errors)
    assert found.zeta == pytest.approx(zeta) and found.alpha == pytest.approx(0.3, rel=0.05)
    np.testing.assert_allclose(spectrum.variances(squares, zeta), 1 / prediction_rigidity(targets, hessian))


def test_bins_have_equal_counts(experiment, monkeypatch) -> None:
    monkeypatch.setattr(experiment, "NUM_BINS", 2)
    stds, errors = experiment.binned(np.array([3.0, -1.0, 1.0, -4.0]), np.array([2.0, 1.0, 1.0, 3.0]))
    np.testing.assert_allclose(stds, [1.0, np.sqrt(6.5)])
    np.testing.assert_allclose(errors, [1.0, np.sqrt(12.5)])


def test_missing_data_are_named_before_any_work(experiment, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("BNN_JAX_TEST_DATA", raising=False)
    out = tmp_path / "out"
    with pytest.raises(bnn_jax.InputError, match="The reference data are needed; give their folder by --data"):
        experiment.main(["--out", str(out)])
    with pytest.raises(bnn_jax.InputError, match=r"holds no 3bpa/train_300K\.xyz\.gz; check --data"):
        experiment.main(["--out", str(out), "--sets", "3BPA", "--data", str(tmp_path)])
    assert not out.exists()
    with pytest.raises(bnn_jax.InputError, match=r"results\.json does not exist; run the experiment without --table"):
        experiment.main(["--out", str(out), "--table-only"])
