"""Bootstrap intervals against standard errors, SciPy's bootstrap and their own coverage."""

import inspect
import re

import numpy as np
import pytest
import scipy.stats

from bnn_jax.metrics import (
    bootstrap_difference,
    bootstrap_interval,
    mean_absolute_error,
    outlier_auroc,
    resamples,
    spearman,
)

# The 2.5 % quantile of R draws of a normal has a standard error of sqrt(0.025 0.975 / R) / pdf(1.96) stds, or
# 2.7 / sqrt(R).
END_ERROR = 2.7


def mean_of(values):
    return lambda index: float(values[index].mean())


def test_interval_of_a_mean_is_that_of_the_standard_error():
    values = np.random.default_rng(0).normal(size=400)
    interval = bootstrap_interval(mean_of(values), np.arange(400), num_resamples=2000)
    standard_error = values.std() / np.sqrt(400)
    tolerance = 4.0 * END_ERROR / np.sqrt(2000) * standard_error
    assert interval.estimate == pytest.approx(values.mean(), rel=1e-14)
    assert interval.lower == pytest.approx(values.mean() - 1.96 * standard_error, abs=tolerance)
    assert interval.upper == pytest.approx(values.mean() + 1.96 * standard_error, abs=tolerance)
    assert interval.num_undefined == 0


def test_a_lower_level_is_narrower():
    values = np.random.default_rng(1).normal(size=100)
    wide, narrow = (bootstrap_interval(mean_of(values), np.arange(100), level=level) for level in (0.95, 0.5))
    # 1.96 and 0.674 standard errors to either side.
    assert (narrow.upper - narrow.lower) / (wide.upper - wide.lower) == pytest.approx(0.344, abs=0.05)


def test_interval_equals_that_of_scipy():
    rng = np.random.default_rng(2)
    stds = rng.uniform(0.1, 1.0, size=80)
    errors = stds * rng.normal(size=80)
    ours = bootstrap_interval(lambda i: spearman(errors[i], stds[i]), np.arange(80), num_resamples=2000)
    theirs = scipy.stats.bootstrap(
        (errors, stds), spearman, paired=True, vectorized=False, n_resamples=2000, method="percentile", rng=rng
    )
    tolerance = 4.0 * np.sqrt(2.0) * END_ERROR / np.sqrt(2000) * theirs.standard_error
    assert ours.lower == pytest.approx(theirs.confidence_interval.low, abs=tolerance)
    assert ours.upper == pytest.approx(theirs.confidence_interval.high, abs=tolerance)


def test_whole_structures_are_drawn():
    structure = np.array([7, 3, 7, 5, 3, 7])  # by any number, in any order
    drawn = []

    def metric(index):
        counts = np.bincount(index, minlength=6)
        drawn.append(counts[[0, 1, 3]])
        assert counts[0] == counts[2] == counts[5]
        assert counts[1] == counts[4]
        return 0.0

    bootstrap_interval(metric, structure, num_resamples=200)
    *resamples, everything = drawn
    assert everything.tolist() == [1, 1, 1]
    assert {int(counts.sum()) for counts in resamples} == {3}  # as many structures as there are
    # Each structure is drawn 200 times on average, with a standard error of sqrt(200 * 3 * 1/3 * 2/3) = 12.
    assert np.sum(resamples, axis=0) == pytest.approx([200, 200, 200], abs=48)


def test_interval_does_not_depend_on_the_order_of_the_elements():
    rng = np.random.default_rng(3)
    structure, values = np.repeat(np.arange(20), 5), rng.normal(size=100)
    order = rng.permutation(100)
    expected = bootstrap_interval(mean_of(values), structure, num_resamples=50)
    shuffled = bootstrap_interval(mean_of(values[order]), 10 * structure[order] - 3, num_resamples=50)
    assert shuffled == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("correlation", "ratio"), [(0.0, 1.0), (1.0, np.sqrt(27.0)), (0.5, np.sqrt(1.0 + 26.0 * 0.5))])
def test_errors_that_go_together_widen_the_interval(correlation, ratio):
    rng = np.random.default_rng(4)
    shared, own = rng.normal(size=(400, 1)), rng.normal(size=(400, 27))
    errors = (np.sqrt(correlation) * shared + np.sqrt(1.0 - correlation) * own).ravel()
    structures = bootstrap_interval(mean_of(errors), np.repeat(np.arange(400), 27), num_resamples=1000)
    components = bootstrap_interval(mean_of(errors), np.arange(400 * 27), num_resamples=1000)
    widths = [interval.upper - interval.lower for interval in (structures, components)]
    # Variance of a mean of 27 with correlation c: (1 + 26 c) / 27. Either width is off by a few per cent (its two
    # ends by 2.7 / sqrt(1000) / 3.92 each), and the std of 400 shared errors by 1 / sqrt(800).
    assert widths[0] / widths[1] == pytest.approx(ratio, rel=0.2)


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(5)
    structure = np.repeat(np.arange(60), 4)
    held = 0
    for seed in range(200):
        errors = np.repeat(rng.normal(size=60), 4)  # a structure's errors are all the same
        interval = bootstrap_interval(mean_of(errors), structure, num_resamples=200, level=0.9, seed=seed)
        held += interval.lower < 0.0 < interval.upper
    # 90 % of 200 with a standard deviation of 4.2; over components it would be 59 %, for the std is half.
    assert held == pytest.approx(180, abs=4.0 * 4.2)


def test_the_seed_determines_the_interval():
    values = np.random.default_rng(6).normal(size=50)
    first, again, other = (
        bootstrap_interval(mean_of(values), np.arange(50), num_resamples=100, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first.lower != other.lower


def test_resamples_without_an_outlier_are_left_out_and_counted():
    errors, scores = np.full(30, 0.1), np.linspace(1.0, 2.0, 30)
    errors[20] = 5.0
    interval = bootstrap_interval(lambda i: outlier_auroc(errors[i], scores[i], 1.0), np.arange(30))
    missed = (29.0 / 30.0) ** 30
    assert interval.num_undefined == pytest.approx(1000 * missed, abs=4.0 * np.sqrt(1000 * missed * (1.0 - missed)))
    assert interval.estimate == pytest.approx(20.0 / 29.0)
    assert 0.0 < interval.lower < 20.0 / 29.0 < interval.upper < 1.0


def test_a_metric_that_is_never_defined():
    interval = bootstrap_interval(
        lambda i: outlier_auroc(np.zeros(4)[i], np.ones(4)[i], 1.0), np.arange(4), num_resamples=10
    )
    assert np.isnan([interval.estimate, interval.lower, interval.upper]).all()
    assert interval.num_undefined == 10


def test_paired_difference_tells_apart_what_single_intervals_do_not():
    rng = np.random.default_rng(7)
    target = rng.normal(size=(100, 3))
    first = target + rng.exponential(size=(100, 1)) * rng.normal(size=(100, 3))
    second = target + 0.9 * (first - target)
    maes = [lambda i, mean=mean: mean_absolute_error(mean[i], target[i]) for mean in (first, second)]
    apart = bootstrap_difference(*maes, np.arange(100))
    single = [bootstrap_interval(mae, np.arange(100)) for mae in maes]
    assert single[1].upper > single[0].lower  # they overlap
    assert apart.lower > 0.0
    assert apart.estimate == pytest.approx(single[0].estimate - single[1].estimate, rel=1e-12)
    # A tenth of the first, resample by resample.
    assert [apart.lower, apart.upper] == pytest.approx([0.1 * single[0].lower, 0.1 * single[0].upper], rel=1e-10)
    assert bootstrap_difference(maes[0], maes[0], np.arange(100), num_resamples=20) == (0.0, 0.0, 0.0, 0)


def test_difference_leaves_out_what_either_lacks():
    def lacks(structure):
        return lambda index: 1.0 if structure in index else float("nan")

    structures = np.arange(20)
    either = bootstrap_difference(lacks(0), lacks(1), structures)
    alone = bootstrap_interval(lacks(0), structures)
    missed = [1000 * 0.95**20, 1000 * (2 * 0.95**20 - 0.9**20)]
    for count, expected in zip((alone.num_undefined, either.num_undefined), missed, strict=True):
        assert count == pytest.approx(expected, abs=4.0 * np.sqrt(expected * (1.0 - expected / 1000)))


def test_bad_arguments():
    mean = mean_of(np.zeros(4))
    with pytest.raises(ValueError, match="There are 1 structures to draw from; an interval needs at least 2"):
        bootstrap_interval(mean, np.zeros(4, dtype=int))
    with pytest.raises(ValueError, match=re.escape("level is 95.0; choose one between 0 and 1")):
        bootstrap_interval(mean, np.arange(4), num_resamples=10, level=95.0)
    with pytest.raises(ValueError, match=re.escape("num_resamples is 0; draw at least once")):
        bootstrap_difference(mean, mean, np.arange(4), num_resamples=0)
    message = "structure_of_element has shape (2, 2); give one structure an element."
    with pytest.raises(ValueError, match=re.escape(message)):
        inspect.unwrap(resamples)(np.zeros((2, 2), dtype=int))
