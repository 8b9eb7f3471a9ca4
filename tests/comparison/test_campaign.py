"""Equal budgets, resumption, and a page with everything in it, on the smallest networks."""

import csv
import dataclasses
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy import stats

from bnn_jax import Config, Dataset, InputError, Posterior
from bnn_jax.comparison import campaign, check, config_of, measure
from bnn_jax.comparison.campaign import run
from bnn_jax.comparison.elements import quantities
from bnn_jax.methods.recorder import DivergenceError
from bnn_jax.recalibration import fit_recalibration
from bnn_jax.report.comparison_page import write_comparison
from bnn_jax.types import InputWarning
from tests import systems

MODEL = {"num_blocks": 1, "num_features": 2, "l_max": 0, "cutoff": 3.0, "num_bessel": 2, "radial_hidden": []}
CONFIG = Config.from_dict(
    {
        "model": MODEL | {"std_hidden": []},
        "sampler": {
            "convergence_steps": 12,
            "cycle_steps": 6,
            "num_samples": 3,
            "num_chains": 2,
            "batch_size": 2,
            "log_every": 6,
            "step_size_first": 1e-3,
        },
        "trainer": {"log_every": 10},
        "ensemble": {"num_members": 4},
    }
)


def waters(number: int, seed: int) -> Dataset:
    return Dataset.from_atoms(systems.labelled_series(systems.water(), number, seed=seed))


TRAIN, VALID = waters(6, 0), waters(6, 100)
TESTS = {"near": waters(5, 200), "far & wide": waters(4, 300)}
METHODS = ["sghmc", "mixture"]


def compare(out: Path, methods=METHODS, tests=None, config: Config = CONFIG):
    return list(run(TRAIN, VALID, tests or TESTS, config, methods, 2, out, progress=False))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(campaign, "measure", lambda *arguments: measure(*arguments, 20))
        out = tmp_path_factory.mktemp("comparison") / "out"
        return out, compare(out)


def test_budgets_are_equal() -> None:
    """24 steps of two chains: 48 gradients for one network, 12 for each of four."""
    assert config_of(CONFIG, "mixture").trainer.num_steps == 48
    assert config_of(CONFIG, "ensemble").trainer.num_steps == 12
    assert config_of(CONFIG, "ensemble").trainer.batch_size == 2
    with pytest.raises(InputError, match="leaves no step for the networks of ensemble"):
        few = {**CONFIG.to_dict(), "ensemble": {"num_members": 100}}
        config_of(Config.from_dict(few), "ensemble")


def test_results_of_all_methods_and_seeds(finished) -> None:
    _, results = finished
    assert [(result.method, result.seed) for result in results] == [
        ("sghmc", 0),
        ("mixture", 0),
        ("sghmc", 1),
        ("mixture", 1),
    ]
    for result in results:
        assert list(result.measured) == list(TESTS) and list(result.measured["near"]) == [
            "forces",
            "forces of H",
            "forces of O",
            "structures",
            "energy",
        ]
        assert result.cost["structure_gradients"] == 96 and result.cost["step_bytes"] > 0
        assert not result.cost["fit_resumed"]
        assert set(result.arrays["near"]) == {"forces", "structures", "energy"}  # pictures have no elements apart
        errors = result.arrays["far & wide"]["forces"]["errors"]
        assert np.abs(errors).mean() == pytest.approx(
            result.measured["far & wide"]["forces"].estimates["mae"], rel=1e-5
        )
    assert (
        results[0].measured["near"]["forces"].estimates["mae"] != results[2].measured["near"]["forces"].estimates["mae"]
    )


def test_each_quantity_has_a_calibration_of_its_own(finished) -> None:
    out, results = finished
    posterior = Posterior.load(out / "sghmc-seed-0")
    valid, near = (quantities(posterior.predict(each), each) for each in (VALID, TESTS["near"]))
    for quantity in ("forces", "energy"):
        fitted = fit_recalibration("affine", valid[quantity].errors, valid[quantity].scores, valid[quantity].structure)
        stds = fitted.stds(near[quantity].scores)
        expected = -stats.norm.logpdf(near[quantity].errors, 0, stds).mean()
        assert results[0].measured["near"][quantity].estimates["cnll"] == pytest.approx(expected, rel=1e-3)


def test_a_fit_that_goes_on_is_said_to_be_resumed(finished, tmp_path: Path) -> None:
    """Its seconds are those since then only."""
    out, _ = finished
    shutil.copytree(out / "sghmc-seed-0", tmp_path / "sghmc-seed-0")
    (tmp_path / "sghmc-seed-0" / "cost.json").unlink()
    settings = {"method": "sghmc", "seed": 0, "config": config_of(CONFIG, "sghmc").to_dict(), "data": {}}
    _, cost = campaign._fitted(TRAIN, VALID, settings, tmp_path / "sghmc-seed-0", False)
    assert cost["fit_resumed"]


def test_seconds_of_a_prediction_are_those_of_a_structure_without_compilation(
    finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    def predict(*_) -> None:
        clock[0] += 3.0 if clock[0] else 100.0  # the first compiles

    monkeypatch.setattr(campaign.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(Posterior, "predict", predict)
    assert campaign._predict_seconds(Posterior.load(finished[0] / "sghmc-seed-0"), VALID) == 0.5


@pytest.mark.parametrize("name", ["energy_std", "forces_std"])
def test_infinite_error_bars_are_a_divergence(name: str, finished, monkeypatch: pytest.MonkeyPatch) -> None:
    posterior = Posterior.load(finished[0] / "sghmc-seed-0")
    predictive = posterior.predict(VALID)
    wrong = getattr(predictive, name).copy()
    wrong[2] = np.inf
    monkeypatch.setattr(Posterior, "predict", lambda *_: predictive._replace(**{name: wrong}))
    with pytest.raises(DivergenceError, match="Predictions for the far set are not finite"):
        campaign._predicted(posterior, VALID, "far")


def test_what_is_done_is_not_done_again(finished, monkeypatch: pytest.MonkeyPatch) -> None:
    out, results = finished
    monkeypatch.setattr(campaign, "_fitted", lambda *_: pytest.fail("fitted again"))
    again = compare(out)
    assert [each.cost for each in again] == [each.cost for each in results]
    np.testing.assert_array_equal(
        again[1].measured["near"]["forces"].resampled["mae"], results[1].measured["near"]["forces"].resampled["mae"]
    )


def test_measuring_again_needs_no_second_fit(finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results removed, or a further test set: posteriors and costs are those of the first time."""
    out, results = finished
    again = tmp_path / "again"
    shutil.copytree(out, again)
    shutil.rmtree(again / "results")
    monkeypatch.setattr(campaign.api, "fit", lambda *_, **__: pytest.fail("fitted again"))
    monkeypatch.setattr(campaign, "measure", lambda *arguments: measure(*arguments, 20))
    for first, second in zip(results, compare(again, tests=TESTS | {"third": waters(3, 400)}), strict=True):
        assert first.cost == second.cost and list(second.measured) == [*TESTS, "third"]
        assert first.measured["near"]["forces"].estimates == pytest.approx(
            second.measured["near"]["forces"].estimates, nan_ok=True
        )


@pytest.mark.parametrize("where", ["in the fit", "in a prediction"])
def test_a_method_that_fails_is_recorded_and_the_others_go_on(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = campaign.api.fit

    def broken(train, valid, config, *arguments, **options):
        if config.method == "sghmc" and where == "in the fit":
            raise DivergenceError("All chains left the numbers.")
        posterior = fit(train, valid, config, *arguments, **options)
        if config.method == "sghmc":
            nan = jax.tree.map(lambda leaf: leaf * np.nan, posterior.samples)
            return dataclasses.replace(posterior, samples=nan)
        return posterior

    monkeypatch.setattr(campaign.api, "fit", broken)
    monkeypatch.setattr(campaign, "measure", lambda *arguments: measure(*arguments, 20))
    results = list(run(TRAIN, VALID, TESTS, CONFIG, METHODS, 1, tmp_path, progress=False))
    sentence = "All chains left the numbers." if where == "in the fit" else "Predictions for the validation set are not"
    assert results[0].failure is not None and results[0].failure.startswith(sentence)
    assert results[1].failure is None and results[1].measured
    page, table = write_comparison(tmp_path, results, {}, list(TESTS))
    assert f"sghmc, seed 0: {sentence}" in page.read_text()
    assert "sghmc" not in table.read_text() and "mixture" in table.read_text()
    monkeypatch.setattr(campaign.api, "fit", lambda *_, **__: pytest.fail("fitted again"))
    assert next(run(TRAIN, VALID, TESTS, CONFIG, METHODS, 1, tmp_path, progress=False)).failure == results[0].failure


def test_another_comparison_is_refused(finished) -> None:
    out, _ = finished
    with pytest.raises(InputError, match=r"sghmc-seed-0.json has another data; choose another --out"):
        compare(out, tests={"near": waters(4, 500)})
    other = Config.from_dict({**CONFIG.to_dict(), "model": MODEL})
    with pytest.raises(InputError, match=r"has another config"):
        compare(out, config=other)


def test_a_damaged_result_is_named(finished, tmp_path: Path) -> None:
    out, _ = finished
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "sghmc-seed-0.json").write_text((out / "results" / "sghmc-seed-0.json").read_text()[:500])
    with pytest.raises(InputError, match=r"sghmc-seed-0.json is damaged; remove it"):
        compare(tmp_path)


def test_the_page_holds_everything(finished, tmp_path: Path) -> None:
    _, results = finished
    page, table = write_comparison(tmp_path, results, {"data": "<waters>"}, list(TESTS))
    text = page.read_text()
    assert "&lt;waters&gt;" in text and "far &amp; wide" in text and "<waters>" not in text
    assert not re.findall(r'(?:src|href)="(?!data:)', text) and "<script" not in text
    assert text.count("data:image/png;base64,") == 8
    rows = list(csv.DictReader(table.read_text().splitlines()))
    mae = [
        float(row["mean"]) for row in rows if (row["test"], row["method"], row["figure"]) == ("near", "mixture", "mae")
    ]
    expected = np.mean([result.measured["near"]["forces"].estimates["mae"] for result in results[1::2]])
    assert mae[0] == pytest.approx(expected, rel=1e-5)
    assert {row["num_seeds"] for row in rows} == {"2"}


def test_the_smallest_sets_that_can_be_compared() -> None:
    given = {"train": TRAIN, "tests": {"near": waters(2, 600)}, "config": CONFIG, "methods": METHODS, "num_seeds": 1}
    assert check(valid=waters(4, 7), **given) is None
    with pytest.raises(InputError, match="calibration needs 4"):
        check(valid=waters(3, 7), **given)


def test_structures_that_were_trained_on_are_warned_of() -> None:
    with pytest.warns(InputWarning) as found:
        check(TRAIN, VALID, {"seen": TRAIN, "near": TESTS["near"]}, CONFIG, METHODS, 1)
    assert [str(each.message) for each in found] == [
        "6 of 6 structures of the seen set are training structures too (first: structure 0), so that its errors come"
        " out too small; remove them from one of the sets."
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ["sghmc", "bagging"]}, "There is no method 'bagging'; the nearest is"),
        ({"methods": ["sghmc", "sghmc"]}, "name at least one, and each once"),
        ({"num_seeds": 0}, "There are 0 seeds"),
        ({"valid": waters(3, 7)}, r"The validation set has 3 structures and calibration needs 4"),
        (
            {"valid": Dataset.from_atoms([systems.labelled(systems.sodium_chloride())] * 4)},
            "Structure 0 of the validation set holds Na, which no training structure has",
        ),
        ({"tests": {"lone": waters(1, 8)}}, "The lone set has fewer than 2 structures with forces"),
        ({"tests": {}}, "There is no test set"),
        (
            {"tests": {"salty": Dataset.from_atoms([systems.labelled(systems.sodium_chloride())] * 2)}},
            "Structure 0 of the salty set holds Na",
        ),
        (
            {"tests": {"valid": VALID}},
            "6 of 6 structures of the valid set are in the validation set, by which error bars",
        ),
        ({"tests": {"bare": Dataset.from_atoms([systems.water()] * 2)}}, "fewer than 2 structures with forces"),
    ],
    ids=str,
)
def test_what_cannot_be_compared_is_refused(change: dict, message: str) -> None:
    given = {"valid": VALID, "tests": TESTS, "methods": METHODS, "num_seeds": 1} | change
    with pytest.raises(InputError, match=message):
        check(TRAIN, given["valid"], given["tests"], CONFIG, given["methods"], given["num_seeds"])
