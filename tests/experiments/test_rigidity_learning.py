"""The learning experiment on rattled ethanols, and its measures in closed form."""

import importlib
import json
import runpy
import sys
from pathlib import Path

import ase.io
import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from systems import ethanol, labelled_series

import bnn_jax
from bnn_jax import Config, Dataset, InputError

FOLDER = Path(__file__).parents[2] / "experiments" / "rigidity"
MODEL = {"num_blocks": 1, "num_features": 3, "l_max": 0, "cutoff": 3.0, "num_bessel": 2, "radial_hidden": []}
ARGUMENTS = "--systems qm9 --steps 50 --structures 24 --valid 6 --features 3 --molecules 4 --train-sizes 10".split()


@pytest.fixture
def learning():
    return importlib.import_module("learning")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder of reference data in miniature, and networks as small."""
    folder = tmp_path / "data" / "qm9_subset"
    folder.mkdir(parents=True)
    ase.io.write(folder / "train.xyz.gz", labelled_series(ethanol(), 24))
    ase.io.write(folder / "test.xyz.gz", labelled_series(ethanol(), 6, seed=100))
    monkeypatch.setattr(importlib.import_module("reference_sets"), "MODEL", MODEL)
    return tmp_path / "data"


def config(num_steps=7):
    trainer = {"num_steps": num_steps, "log_every": 3, "batch_size": 2, "forces_weight": 0.0}
    return Config.from_dict({"method": "least_squares", "model": MODEL, "trainer": trainer})


@pytest.fixture
def train():
    return Dataset.from_atoms(labelled_series(ethanol(), 6))


# --- one trajectory ---


@pytest.mark.slow
def test_networks_along_a_training_are_those_of_one_fit(learning, train, monkeypatch):
    monkeypatch.setattr(learning, "STEPS_PER_CALL", 2)
    found = learning.snapshots(train, config(), 3, (0, 3, 7))
    fitted = bnn_jax.fit(train, None, config(), 3, progress=False)
    for kept, last in zip(jax.tree.leaves(found.samples), jax.tree.leaves(fitted.samples), strict=True):
        assert kept.shape[0] == 3
        assert_array_equal(kept[2], last[0])
    # looking at other steps changes nothing of those that are looked at anyway
    fewer = learning.snapshots(train, config(), 3, (0, 7))
    for kept, few in zip(jax.tree.leaves(found.samples), jax.tree.leaves(fewer.samples), strict=True):
        assert_array_equal(kept[np.array([0, 2])], few)
    readouts = [np.asarray(found.network(i).params["heads"]["energy"]["kernel_0"]) for i in range(3)]
    assert not np.allclose(readouts[0], readouts[1]) and not np.allclose(readouts[1], readouts[2])


@pytest.mark.slow
def test_kept_networks_are_not_trained_again_and_others_are_refused(learning, train, tmp_path, monkeypatch):
    file = tmp_path / "networks.safetensors"
    first = learning.kept_snapshots(train, config(), 0, (0, 7), file)
    monkeypatch.setattr(learning, "snapshots", lambda *_: pytest.fail("trained again"))
    again = learning.kept_snapshots(train, config(), 0, (0, 7), file)
    for old, new in zip(jax.tree.leaves(first.samples), jax.tree.leaves(again.samples), strict=True):
        assert_array_equal(old, new)
    for other in ((train, config(), 1), (train, config(8), 0), (train[:5], config(), 0)):
        with pytest.raises(InputError, match="has another network"):
            learning.kept_snapshots(*other, (0, 7), file)
    with pytest.raises(InputError, match="has 2 networks and not 3"):
        learning.kept_snapshots(train, config(), 0, (0, 3, 7), file)


def test_checkpoints_start_at_random_weights_and_end_with_the_training(learning):
    assert learning.checkpoints(1000) == [0, 20, 50, 100, 200, 400, 600, 800, 1000]
    assert learning.checkpoints(2) == [0, 1, 2]


# --- rigidities ---


def test_local_rigidities_under_some_of_the_training_structures(learning):
    rng = np.random.default_rng(0)
    rows, environments = [rng.normal(size=(2, 3)) for _ in range(4)], rng.normal(size=(5, 3))
    judged = learning.Judged(rows, environments, environments, np.zeros(5))
    for count in (2, None):
        part = np.vstack(rows[:count])
        inverse = np.linalg.inv(part.T @ part + 0.04 * np.eye(3))
        expected = 1 / np.einsum("ij,jk,ik->i", environments, inverse, environments)
        assert_allclose(learning.local_rigidities(judged, 0.2, count), expected)


def test_relative_change_raw_and_normalised(learning):
    final, values = np.array([1.0, 4.0, 2.0]), np.array([1.0, 2.0, 3.0])
    assert learning.relative_change(values, final) == pytest.approx((0 + 0.5 + 0.5) / 3)
    # divided by the values at the second environment: 0.5, 1, 1.5 beside 0.25, 1, 0.5
    assert learning.relative_change(values, final, normalised=True) == pytest.approx((1 + 0 + 2) / 3)
    assert learning.relative_change(7 * final, final, normalised=True) == pytest.approx(0)


def test_comparison_at_several_regularisers(learning):
    rng = np.random.default_rng(0)
    networks = {
        size: learning.Judged(
            [rng.normal(size=(1, 2)) for _ in range(size)],
            rng.normal(size=(6, 2)),
            np.zeros((2, 2)),
            np.array([3, -4.0]),
        )
        for size in (4, 9)
    }
    found = learning.compared(networks, networks[9], 0.5)
    assert found["at"] == [4, 9] and found["energy_mae"] == [3.5, 3.5]
    assert_allclose(found["energy_rmse"], np.sqrt(12.5))
    assert found["spearman"][1] == pytest.approx(1)
    for factor in ("0.1", "1", "10"):
        low, high = (learning.local_rigidities(networks[size], 0.5 * float(factor)) for size in (4, 9))
        assert_allclose(found["change"][factor], [np.mean(np.abs(low / high - 1)), 0], atol=1e-12)
    same = learning.compared(dict.fromkeys((4, 9), networks[9]), networks[9], 0.5, {4: 4, 9: 9})
    assert_allclose(same["lpr"][0], learning.local_rigidities(networks[9], 0.5, 4))
    assert np.all(np.array(same["lpr"][0]) <= same["lpr"][1])  # data only ever make a network stiffer


# --- the command ---


@pytest.mark.slow
def test_whole_experiment_resumes_and_rebuilds_its_table(learning, data, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    arguments = [*ARGUMENTS, "--seeds", "0", "1", "--data", str(data), "--out", str(out)]
    learning.main(arguments)
    text = capsys.readouterr().out
    assert (out / "table.md").read_text() in text
    assert "Other seeds against seed 0" in text
    assert (out / "figure-3-qm9.png").stat().st_size > 5000
    first, second = json.loads((out / "results.json").read_text())["qm9"]
    assert first["trajectory"]["at"] == [0, 1, 2, 5, 10, 20, 30, 40, 50]
    assert first["sizes_of_training_set"]["at"] == [10, 18]
    assert first["zeta"]["absolute"] == first["zeta"]["own_choice"] == second["zeta"]["absolute"]
    for result in (first, second):
        for part in ("trajectory", "sizes_of_training_set", "same_network"):
            assert result[part]["change"]["1"][-1] == 0 and result[part]["change"]["1"][0] > 0
            assert np.shape(result[part]["lpr"]) == (len(result[part]["at"]), 4 * 9)
    assert first["trajectory"]["lpr"][0] != second["trajectory"]["lpr"][0]

    monkeypatch.setattr(learning, "kept_snapshots", lambda *_: pytest.fail("trained again"))
    learning.main(arguments)
    assert capsys.readouterr().out == text
    learning.main(["--table-only", "--out", str(out)])
    assert capsys.readouterr().out == text
    with pytest.raises(InputError, match=r"results-qm9-seed-0\.json has another sizes; choose another --out\."):
        learning.main([*arguments, "--molecules", "5"])


def test_missing_data_end_the_command_with_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BNN_JAX_TEST_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setattr(sys, "argv", ["learning.py", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(FOLDER / "learning.py"), run_name="__main__")
    assert stopped.value.code == 2
    assert "nowhere holds no qm9_subset/train.xyz.gz; check --data." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_table_without_results_says_what_to_do(learning, tmp_path):
    with pytest.raises(InputError, match=r"holds no results-\*\.json; run the experiment without --table-only"):
        learning.main(["--table-only", "--out", str(tmp_path)])
