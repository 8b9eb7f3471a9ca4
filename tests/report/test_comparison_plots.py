"""Curves are those of the metrics in one colour a method; the page marks, explains and lists what it should."""

import csv
import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from bnn_jax.comparison import FIGURES, Measured, Result, figures_of, marked, summarise
from bnn_jax.metrics import calibration_curve, outlier_roc_curve, retention_curve
from bnn_jax.report.comparison_page import comparison_csv, comparison_markdown, write_comparison
from bnn_jax.report.comparison_plots import Curves, calibrations, error_vs_score, retentions, rocs

NUMBER = 500


def curves(seed: int, stds: float | None = 1.0) -> Curves:
    """Errors as large as predicted times ``stds``; without it, scores of both signs."""
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.2, 3.0, NUMBER)
    errors = scale * rng.normal(size=NUMBER)
    if stds is None:
        return Curves(errors, np.full(NUMBER, np.nan), np.log(scale))
    return Curves(errors, stds * scale, stds * scale)


METHODS = {"one": curves(0), "ranks": curves(1, None), "bold": curves(2, 0.4), "shy": curves(3, 2.0)}


def drawn(figure: Figure) -> list[Axes]:
    """Panels of a figure that was drawn, whose warnings would be errors here."""
    figure.canvas.draw()
    return figure.axes


def labelled(axes: Axes) -> dict[str, np.ndarray]:
    """Points [2, point] of the lines that have a label, by its first word."""
    found = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    return {re.split(r"[ :]", str(line.get_label()))[0]: np.asarray(line.get_data()) for line in found}


def colours(axes: Axes) -> dict[str, tuple]:
    lines = {re.split(r"[ :]", str(line.get_label()))[0]: line for line in axes.lines}
    return {name: (to_hex(line.get_color()), line.get_linestyle()) for name, line in lines.items() if name in METHODS}


def test_calibrations_are_those_of_the_methods_with_stds() -> None:
    (axes,) = drawn(calibrations(METHODS))
    lines = labelled(axes)
    assert list(lines) == ["one", "bold", "shy"]
    for name, (levels, observed) in lines.items():
        zero, (errors, stds, _) = np.zeros(NUMBER), METHODS[name]
        np.testing.assert_allclose(observed, calibration_curve(zero, stds, errors, levels))
        assert (levels[0], levels[-1]) == (0, 1)
    middle = {name: np.interp(0.5, *points) for name, points in lines.items()}
    assert middle["bold"] < 0.4 < middle["one"] < 0.6 < middle["shy"]


def test_rocs_are_those_of_the_scores() -> None:
    (axes,) = drawn(rocs(METHODS, 1.5))
    lines = labelled(axes)
    assert list(lines) == list(METHODS)
    for name, points in lines.items():
        curve = outlier_roc_curve(METHODS[name].errors, METHODS[name].scores, 1.5)
        np.testing.assert_array_equal(points, [curve.false_positive_rate, curve.true_positive_rate])
    legend = axes.get_legend()
    count = int(np.sum(np.abs(METHODS["one"].errors) > 1.5))
    assert legend.get_texts()[0].get_text() == f"one ({count} outliers)"
    assert legend.get_title().get_text() == "|error| > 1.5 kcal/mol/Å"


@pytest.mark.parametrize(("threshold", "count"), [(100.0, 0), (0.0, NUMBER)])
def test_rocs_name_a_method_whose_curve_is_not_defined(threshold: float, count: int) -> None:
    (axes,) = drawn(rocs({"one": METHODS["one"]}, threshold))
    (text,) = axes.get_legend().get_texts()
    assert text.get_text() == f"one: not defined ({count} outliers)"
    assert labelled(axes)["one"].size == 0


def test_retentions_fall_from_all_of_the_error_to_none() -> None:
    (axes,) = drawn(retentions(METHODS))
    lines = labelled(axes)
    np.testing.assert_array_equal(lines.pop("random"), [[0, 1], [1, 0]])
    assert list(lines) == list(METHODS)
    for name, (handed, left) in lines.items():
        curve = retention_curve(METHODS[name].errors, METHODS[name].scores)
        np.testing.assert_allclose(left, np.interp(1 - handed, curve.fraction, curve.error / curve.error[-1]))
        assert sorted([(handed[0], left[0]), (handed[-1], left[-1])]) == [(0, 1), (1, 0)]
        assert np.interp(0.5, handed[::-1], left[::-1]) < 0.45  # scores that rank beat chance


def test_a_method_has_one_colour_everywhere() -> None:
    """Also those after one that the calibration leaves out."""
    figures = (calibrations(METHODS), rocs(METHODS, 1.0), retentions(METHODS))
    calibration, roc, retention = (colours(figure.axes[0]) for figure in figures)
    assert roc == retention and list(roc) == list(METHODS) and len(set(roc.values())) == len(METHODS)
    assert calibration == {name: style for name, style in roc.items() if name != "ranks"}


def test_a_method_without_scores_has_no_curve() -> None:
    nothing = np.full(NUMBER, np.nan)
    methods = {"silent": Curves(METHODS["one"].errors, nothing, nothing), "one": METHODS["one"]}
    assert len(drawn(error_vs_score(methods))) == 2
    for figure in (calibrations(methods), rocs(methods, 1.0), retentions(methods)):
        assert set(labelled(drawn(figure)[0])) - {"random"} == {"one"}
    assert colours(rocs(methods, 1.0).axes[0])["one"] != colours(rocs(METHODS, 1.0).axes[0])["one"]


@pytest.mark.parametrize("number", [1, 3, 4])
def test_errors_over_scores_have_a_panel_a_method(number: int) -> None:
    methods = dict(list(METHODS.items())[:number])
    panels = drawn(error_vs_score(methods))
    assert [axes.get_title() for axes in panels] == list(methods)
    for axes, (errors, _, scores) in zip(panels, methods.values(), strict=True):
        (hexagons,) = (each for each in axes.collections if isinstance(each, PolyCollection))
        counts = hexagons.get_array()
        assert counts is not None and counts.sum() == NUMBER
        assert axes.get_yscale() == "log" and axes.get_ylabel() == "|error| (kcal/mol/Å)"
        x = np.log10(scores) if axes.get_xscale() == "log" else scores
        y = np.log10(np.maximum(np.abs(errors), axes.get_ylim()[0]))  # centres are in powers of ten, as matplotlib has
        for shown, given in zip(np.asarray(hexagons.get_offsets()).T, (x, y), strict=True):
            ends, step = (shown.min(), shown.max()), np.ptp(given) / 20
            assert ends == pytest.approx((given.min(), given.max()), abs=step)


def test_errors_that_are_all_zero_are_drawn() -> None:
    """As of a test set without forces to speak of: a picture of nothing, but no failure after hours of work."""
    stds = np.linspace(0.1, 1.0, 50)
    methods = {"one": Curves(np.zeros(50), stds, stds)}
    assert labelled(drawn(retentions(methods))[0])["one"][1].tolist() == [0.0] * 200
    assert drawn(error_vs_score(methods))[0].get_ylim() == (1e-4, 1.5)


def test_axes_of_scores_that_are_stds_or_positive_or_neither() -> None:
    errors, stds, scores = METHODS["one"]
    given = {
        "stds": METHODS["one"],
        "other than its stds": Curves(errors, stds, 2 * scores),
        "positive": Curves(errors, np.full(NUMBER, np.nan), scores),
        "with a zero": Curves(errors, np.full(NUMBER, np.nan), scores - scores.min()),
        "of both signs": METHODS["ranks"],
    }
    panels = {axes.get_title(): axes for axes in drawn(error_vs_score(given))}
    scales = {name: axes.get_xscale() for name, axes in panels.items()}
    assert [name for name, scale in scales.items() if scale == "log"] == ["stds", "other than its stds", "positive"]
    assert [name for name, axes in panels.items() if axes.lines] == ["stds"]
    (identity,) = panels["stds"].lines
    np.testing.assert_array_equal(identity.get_data(), [[stds.min(), stds.max()]] * 2)
    assert panels["stds"].get_legend().get_texts()[0].get_text() == "error = std"
    assert {axes.get_xlabel() for name, axes in panels.items() if name != "stds"} == {"score"}
    assert panels["stds"].get_xlabel() == "std (kcal/mol/Å)"


def result(method: str, seed: int = 0, offset: float = 0.0, largest: float = 3.0, draws: float = 0.01) -> Result:
    """Estimates of one plus an offset, on draws that are as hard for each method; errors of up to ``largest``."""
    rng = np.random.default_rng(seed)
    common = np.random.default_rng(99).normal(size=50)
    errors = np.linspace(0.01, largest, 40).astype(np.float32)
    measured = {
        quantity: Measured(
            dict.fromkeys(figures_of(quantity), 1 + offset),
            {name: 1 + offset + common + draws * rng.normal(size=50) for name in figures_of(quantity)},
        )
        for quantity in ("forces", "forces of <H>", "energy")
    }
    cost = {"fit_seconds": 1, "fit_resumed": False, "structure_gradients": 8, "step_bytes": 1, "predict_seconds": 0.1}
    arrays = {"errors": errors, "stds": errors + 0.1, "scores": errors + 0.1}
    return Result(method, seed, cost, {"near": measured}, {"near": {"forces": arrays}})


def page_of(results: list[Result], folder: Path) -> str:
    page, _ = write_comparison(folder, results, {}, ["near"])
    return page.read_text()


def best_cells(page: str, heading: str) -> set[tuple[str, str]]:
    """Method and label of each marked cell of the table under a heading."""
    table = page.split(f"<h3>{heading}", 1)[1].split("</table>", 1)[0]
    head, *rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    labels = [re.sub(r" (↓|↑|→ 1)$", "", unescape(each)) for each in re.findall("<th>(.*?)</th>", head)]
    found = set()
    for row in rows:
        cells = re.findall(r"<td( class=\"best\")?>(.*?)</td>", row)
        found |= {(unescape(cells[0][1]), label) for label, (best, _) in zip(labels, cells, strict=True) if best}
    return found


def test_the_best_is_marked_where_it_is_sure(tmp_path: Path) -> None:
    results = [result("a & b", 0), result("two", 1, offset=0.2)]
    page = page_of(results, tmp_path)
    found = best_cells(page, "Force components")
    table = summarise(results, "near", "forces")
    assert found == {(best, FIGURES[name].label) for name in FIGURES if (best := marked(table, name))}
    assert ("a & b", "MAE") in found and ("two", "Spearman") in found and len(found) < len(FIGURES)
    assert not {"ENCE", "miscalibration area", "mean squared z", "sharpness"} & {label for _, label in found}
    assert ("a & b", "RMSE") in best_cells(page, "Energies")
    rows = csv.DictReader(comparison_csv({"near": {"forces": table}}).splitlines())
    labels = {(row["method"], FIGURES[row["figure"]].label) for row in rows if row["is_best"] == "1"}
    assert labels == found
    ends = {
        (method, name): f"[{row[name].lower:.3g}, {row[name].upper:.3g}]"
        for method, row in table.items()
        for name in ("mae", "spearman")
    }
    assert comparison_markdown(table, ["mae", "spearman"]).splitlines() == [
        "| method | MAE | Spearman |",
        "|---|---:|---:|",
        f"| a & b | **1** {ends['a & b', 'mae']} | 1 {ends['a & b', 'spearman']} |",
        f"| two | 1.2 {ends['two', 'mae']} | **1.2** {ends['two', 'spearman']} |",
    ]


def test_nothing_is_marked_where_the_draws_disagree(tmp_path: Path) -> None:
    page = page_of([result("one", 0, draws=1.0), result("two", 1, offset=0.2, draws=1.0)], tmp_path)
    assert best_cells(page, "Force components") == set() and 'class="best"' not in page


@pytest.mark.parametrize(("largest", "word"), [(0.9, "no"), (1e3, "every"), (3.0, None)])
def test_the_page_says_why_a_roc_is_not_defined(largest: float, word: str | None, tmp_path: Path) -> None:
    one = result("one", 4, largest=largest)
    if word == "every":
        one.arrays["near"]["forces"]["errors"][:] = -1.1  # the sign does not count
    page = page_of([one, result("two", 1)], tmp_path)
    reasons = [unescape(each) for each in re.findall(r"<p>([^<]* not defined\.)</p>", page)]
    expected = f"one, seed 4: {word} error is beyond 1 kcal/mol/Å, so that ROC-AUC and PR-AUC are not defined."
    assert reasons == ([expected] if word else [])


def test_failed_runs_are_listed_and_left_out(tmp_path: Path) -> None:
    failed = Result("two", 3, {}, {}, {}, "All chains left the numbers <quickly>.")
    page = page_of([result("one"), failed], tmp_path)
    listed = re.findall("<li>(.*?)</li>", page)
    assert [unescape(each) for each in listed] == ["two, seed 3: All chains left the numbers <quickly>."]
    assert "<td>two</td>" not in page and page.count("data:image/png") == 4
    assert "Failed" not in page_of([result("one")], tmp_path)
    nothing = page_of([failed], tmp_path)
    assert "Test set: near" in nothing and "data:image/png" not in nothing


def test_a_calibration_is_drawn_where_a_method_has_stds(tmp_path: Path) -> None:
    one = result("one")
    one.arrays["near"]["forces"]["stds"][:] = np.nan
    labels = ["near: |error| (kcal/mol/Å)", "near: True positive rate", "near: Mean |error| left, relative"]
    for results, expected in (
        ([one], labels),
        ([one, result("two", 1)], [labels[0], "near: Observed coverage", *labels[1:]]),
    ):
        found = re.findall('<img alt="(.*?)"', page_of(results, tmp_path))
        assert [unescape(each) for each in found] == expected


def test_curves_of_all_seeds_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    monkeypatch.setattr(
        "bnn_jax.report.comparison_page.retentions", lambda methods: seen.update(methods) or retentions(methods)
    )
    results = [result("one", 0), result("two", 0), result("one", 1, largest=5.0)]
    page_of(results, tmp_path)
    expected = np.concatenate([results[i].arrays["near"]["forces"]["errors"] for i in (0, 2)])
    np.testing.assert_array_equal(seen["one"].errors, expected)
    assert {name: len(each.scores) for name, each in seen.items()} == {"one": 80, "two": 40}
