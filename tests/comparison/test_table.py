"""Means over seeds, intervals over structures, and a best that is one."""

import numpy as np
import pytest

from bnn_jax.comparison import FIGURES, Measured, Result, marked, summarise

RNG = np.random.default_rng(0)
COMMON = RNG.normal(scale=0.5, size=100)
"""What is hard in a draw is hard for all methods."""


def result(method: str, seed: int, mae: float, noise: float = 0.01) -> Result:
    resampled = {name: np.full(100, np.nan) for name in FIGURES}
    for name in ("mae", "auroc", "ence"):
        resampled[name] = mae + COMMON + noise * np.random.default_rng(seed + 10).normal(size=100)
    estimates = dict.fromkeys(FIGURES, float("nan")) | dict.fromkeys(("mae", "auroc", "ence", "mll_mixture"), mae)
    return Result(method, seed, {}, {"near": {"forces": Measured(estimates, resampled)}}, {})


def test_cells_are_means_over_seeds() -> None:
    table = summarise([result("one", 0, 1.0), result("one", 1, 2.0)], "near", "forces")
    cell = table["one"]["mae"]
    assert cell.estimate == 1.5 and cell.spread == pytest.approx(np.sqrt(0.5))
    assert (cell.lower, cell.upper) == pytest.approx(tuple(np.quantile(cell.resampled, [0.025, 0.975])))
    assert summarise([result("one", 0, 1.0)], "near", "energy") == {}


def test_the_best_is_marked_where_the_difference_is_sure() -> None:
    """Their intervals overlap widely, but on each draw the second is better."""
    table = summarise([result("one", 0, 1.0), result("two", 0, 0.9)], "near", "forces")
    assert table["two"]["mae"].upper > table["one"]["mae"].lower
    assert marked(table, "mae") == "two"
    assert marked(table, "auroc") == "one"  # higher is better


def test_no_best_where_the_draws_disagree() -> None:
    table = summarise([result("one", 0, 1.0), result("two", 1, 0.9, noise=1.0)], "near", "forces")
    assert marked(table, "mae") is None


def test_no_best_where_seeds_overlap() -> None:
    seeds = [result("one", 0, 1.0), result("one", 1, 1.2), result("two", 0, 0.9), result("two", 1, 1.1)]
    assert marked(summarise(seeds, "near", "forces"), "mae") is None


@pytest.mark.parametrize("best", [[0.9], [0.899, 0.901]])
def test_the_spread_of_the_other_counts_also_against_one_seed(best: list[float]) -> None:
    """A gap of 0.25; the other's spread is 0.28."""
    runs = [result("one", 0, 0.95), result("one", 1, 1.35), *(result("two", i, mae) for i, mae in enumerate(best))]
    assert marked(summarise(runs, "near", "forces"), "mae") is None
    runs[:2] = [result("one", 0, 1.05), result("one", 1, 1.25)]
    assert marked(summarise(runs, "near", "forces"), "mae") == "two"


def test_a_method_without_the_figure_has_no_say() -> None:
    runs = [result("none", 0, float("nan")), result("one", 0, 1.0), result("two", 0, 0.9)]
    table = summarise(runs, "near", "forces")
    assert marked(table, "mae") == "two" and marked({name: table[name] for name in ("none", "two")}, "mae") is None


def test_no_best_of_one_or_by_what_resampling_biases() -> None:
    assert marked(summarise([result("one", 0, 1.0)], "near", "forces"), "mae") is None
    table = summarise([result("one", 0, 1.0), result("two", 0, 0.5)], "near", "forces")
    assert marked(table, "ence") is None and marked(table, "crps") is None
    assert table["one"]["mll_mixture"].estimate == 1 and marked(table, "mll_mixture") is None  # it is not resampled
