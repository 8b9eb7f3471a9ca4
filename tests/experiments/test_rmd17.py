"""The rMD17 experiment on a dozen rattled ethanols, and its tables on figures that are known."""

import importlib
import json
import math
from pathlib import Path

import ase.io
import numpy as np
import pytest
from numpy.testing import assert_allclose
from systems import ethanol, labelled_series

from bnn_jax import Config, InputError, Posterior, evaluate
from bnn_jax.atoms import Statistics
from bnn_jax.units import EV_PER_KCAL_PER_MOL

FOLDER = Path(__file__).parents[2] / "experiments" / "rmd17"
CONFIG = {
    "model": {
        "num_blocks": 1,
        "num_features": 2,
        "l_max": 0,
        "cutoff": 3.0,
        "num_bessel": 2,
        "radial_hidden": [],
        "std_hidden": [],
    },
    "sampler": {"convergence_steps": 6, "cycle_steps": 3, "num_samples": 3, "batch_size": 2, "log_every": 3},
}
DESCRIPTION = {"molecule": "ethanol", "preset": "small"}


@pytest.fixture
def experiment():
    return importlib.import_module("run")


@pytest.fixture
def tables():
    return importlib.import_module("tables")


@pytest.fixture
def folder(tmp_path):
    """``train`` and ``test`` files in miniature."""
    folder = tmp_path / "data"
    folder.mkdir()
    ase.io.write(folder / "train.xyz", labelled_series(ethanol(), 8))
    ase.io.write(folder / "test.xyz", labelled_series(ethanol(), 6, seed=100))
    return folder


def result(seed, scores, **fields):
    known = {"seed": seed, "fit_seconds": 60.0, "fit_resumed": False, "environment": "a machine", "scores": scores}
    return DESCRIPTION | {"num_train": 970, "num_valid": 30, "num_test": 1000} | known | fields


def cells(text, start):
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_parts_are_disjoint_of_the_size_asked_for_and_the_same_each_time(experiment, folder):
    parts = experiment.read_parts("ethanol", folder, 5, 3, 4)
    assert [len(part) for part in parts] == [5, 3, 4]
    frames = {positions.tobytes() for part in parts for positions in part.positions.reshape(-1, 9, 3)}
    assert len(frames) == 12
    again = experiment.read_parts("ethanol", folder, 5, 3, 4)
    assert [part.fingerprint() for part in again] == [part.fingerprint() for part in parts]


def test_public_data_are_split_without_a_folder(experiment, folder, monkeypatch):
    whole = experiment.bnn_jax.load(folder / "train.xyz")
    monkeypatch.setattr(experiment.bnn_jax, "load", {"rmd17/ethanol": whole}.__getitem__)
    parts = experiment.read_parts("ethanol", None, 4, 2, 2)
    assert [len(part) for part in parts] == [4, 2, 2]
    assert sorted(energy for part in parts for energy in part.energy) == sorted(whole.energy)


def test_folder_comes_from_the_environment_where_it_holds_the_molecule(experiment, tmp_path, monkeypatch):
    monkeypatch.delenv("BNN_JAX_TEST_DATA", raising=False)
    assert experiment.default_folder("ethanol") is None
    monkeypatch.setenv("BNN_JAX_TEST_DATA", str(tmp_path))
    assert experiment.default_folder("ethanol") is None
    (tmp_path / "rmd17" / "ethanol").mkdir(parents=True)
    assert experiment.default_folder("ethanol") == tmp_path / "rmd17" / "ethanol"


def test_missing_file_is_named(experiment, folder):
    (folder / "test.xyz").unlink()
    with pytest.raises(InputError, match=r"data holds no test\.\{xyz\.gz,xyz,extxyz,npz\}; check --data\."):
        experiment.read_parts("ethanol", folder, 5, 3, 4)


@pytest.mark.slow
def test_whole_experiment_resumes_and_rebuilds_its_tables(experiment, folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    parts = experiment.read_parts("ethanol", folder, 5, 3, 4)
    config = Config.from_dict(CONFIG)
    text = experiment.run([0, 1], parts, config, out, DESCRIPTION, progress=False)
    assert (out / "table.md").read_text() == text
    assert (out / "seed-1" / "plots" / "forces_parity.png").exists()

    posterior = Posterior.load(out / "seed-1")
    scores = json.loads((out / "results-seed-1.json").read_text())["scores"]
    assert list(scores) == ["1", "2", "3"]
    assert scores["3"]["forces_mae"] == pytest.approx(evaluate(posterior, parts.test)["forces_mae"], rel=1e-5)
    assert float(cells(text, "seed 1")[0]) == pytest.approx(scores["3"]["forces_mae"] / EV_PER_KCAL_PER_MOL, abs=5.1e-4)
    # one sample's own error, not that of the mean over samples
    first = posterior.predict(parts.test).forces_samples[0]
    assert scores["1"]["forces_mae"] == pytest.approx(abs(first - parts.test.forces).mean(), rel=1e-4)

    def no_fit(*_, **__):
        raise AssertionError("a finished seed was fitted again")

    monkeypatch.setattr(experiment.bnn_jax, "fit", no_fit)
    (out / "table.md").unlink()
    assert experiment.run([0, 1], parts, config, out, DESCRIPTION, progress=False) == text
    capsys.readouterr()
    experiment.main(["--table-only", "--out", str(out)])
    assert capsys.readouterr().out == text + "\n"
    with pytest.raises(InputError, match=r"results-seed-0\.json has another molecule; choose another --out\."):
        experiment.run([0], parts, config, out, DESCRIPTION | {"molecule": "uracil"}, progress=False)


@pytest.mark.slow
def test_time_of_a_fit_outlives_a_kill_during_the_evaluation(experiment, folder, tmp_path, monkeypatch):
    parts = experiment.read_parts("ethanol", folder, 5, 3, 4)
    config = Config.from_dict(CONFIG)
    with monkeypatch.context() as patched:
        patched.setattr(experiment, "score_all", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            experiment.run([0], parts, config, tmp_path, DESCRIPTION, progress=False)
    timing = json.loads((tmp_path / "seed-0" / "fit.json").read_text())
    monkeypatch.setattr(experiment, "score_all", lambda *_: {"1": {}})
    experiment.run([0], parts, config, tmp_path, DESCRIPTION, progress=False)
    written = json.loads((tmp_path / "results-seed-0.json").read_text())
    assert written["fit_seconds"] == timing["fit_seconds"] and not written["fit_resumed"]


def test_samples_are_taken_in_turn_from_the_chains(experiment):
    statistics = Statistics((1,), np.zeros(1), forces_rms=1.0, avg_num_neighbors=1.0)
    samples = {"weight": np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])}
    posterior = Posterior(Config(), statistics, samples, num_chains=2, seed=0)
    first = experiment.first_samples(posterior, 3)
    assert_allclose(first.samples["weight"][:, 0], [0.0, 10.0, 1.0])


def test_units_of_each_figure(tables):
    unit = EV_PER_KCAL_PER_MOL
    converted = tables.in_kcal_per_mol(
        {"forces_mae": 2 * unit, "forces_mll": 1.0, "forces_nece": 3 / unit, "forces_auroc": 0.9, "energy_mae": None}
    )
    assert_allclose(
        [converted[key] for key in ("forces_mae", "forces_mll", "forces_nece", "forces_auroc")],
        [2.0, 1.0 + math.log(unit), 3.0, 0.9],
    )
    assert math.isnan(converted["energy_mae"]) and math.isnan(converted["energy_mll"])


def test_table_has_seeds_their_mean_and_the_papers_rows(tables):
    unit = EV_PER_KCAL_PER_MOL
    results = [
        result(0, {"1": {"forces_mae": 0.9 * unit}, "8": {"forces_mae": 0.1 * unit, "forces_auroc": 0.9}}),
        result(1, {"1": {"forces_mae": 0.5 * unit}, "8": {"forces_mae": 0.3 * unit, "forces_auroc": None}}),
    ]
    text = tables.tables([*results[:1], results[1] | {"fit_resumed": True, "fit_seconds": 30.0}])
    assert text.startswith("rMD17 ethanol, preset small, K = 8 samples, 970 train, 30 valid, 1000 test structures;")
    assert cells(text, "seed 0")[0] == "0.100" and cells(text, "seed 0")[-1] == "60"
    assert cells(text, "seed 1")[4] == "-" and cells(text, "seed 1")[-1] == "> 30"
    assert cells(text, "**mean**")[0] == "0.200" and cells(text, "**mean**")[-1] == "> 45"
    assert cells(text, "paper, proposed algorithm")[:6] == ["0.064", "0.115", "1.03", "-", "0.993", "-"]
    assert cells(text, "paper, dropout")[:5] == ["0.078", "0.147", "0.74", "-", "0.897"]
    assert cells(text, "1")[0] == "0.700" and cells(text, "8")[0] == "0.200"
    assert text.count("Measured on: a machine") == 1


def test_molecule_that_the_paper_lacks_has_no_row_of_it(tables):
    text = tables.tables([result(0, {"8": {"forces_mae": 0.1}}, molecule="azobenzene")])
    assert "paper" not in text


def test_papers_rows_are_whole(tables):
    assert len(tables.PAPER) == 8
    for molecule, rows in tables.PAPER.items():
        for mae, rmse, _, auroc in (rows["dropout"], rows["proposed"]):
            assert 0 < mae < rmse
            assert math.isnan(auroc) == (molecule == "benzene")
        assert rows["proposed"][2] > rows["dropout"][2]  # "consistently outperforms the dropout model" in MLL


def test_table_without_results_says_what_to_do(experiment, tmp_path):
    with pytest.raises(InputError, match=r"holds no results-seed-\*\.json; run the experiment without --table-only"):
        experiment.write_tables(tmp_path)
