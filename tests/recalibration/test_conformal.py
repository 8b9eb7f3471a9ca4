"""The conformal quantile against its definition, and its coverage over many validation sets."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from bnn_jax.recalibration import fit_recalibration
from bnn_jax.recalibration.conformal import min_structures


def quantile(errors, structure_index, coverage, scores=None, groups=None):
    scores = np.ones_like(errors) if scores is None else scores
    found = fit_recalibration("conformal", errors, scores, structure_index, groups, "any", coverage)
    return found.curves[0].quantile


@pytest.mark.parametrize(("num", "coverage"), [(9, 0.9), (19, 0.95), (99, 0.99), (20, 0.9), (57, 0.5), (1, 0.5)])
def test_one_element_per_structure_is_plain_split_conformal(num, coverage):
    rng = np.random.default_rng(num)
    errors, scores = rng.normal(size=num), rng.uniform(0.5, 2.0, size=num)
    ratios = np.sort(np.abs(errors) / scores)
    expected = ratios[math.ceil(round((num + 1) * coverage, 9)) - 1]
    assert quantile(errors, rng.permutation(num), coverage, scores) == expected


@pytest.mark.parametrize("size", [1, 3, 7])  # weights that add up to one but for rounding
@pytest.mark.parametrize("num", [9, 19, 48])
def test_a_coverage_that_a_rank_meets_exactly_takes_that_rank(num, size):
    ranks = np.arange(1, num + 1)
    errors = np.repeat(ranks.astype(np.float64), size)
    assert [quantile(errors, np.repeat(ranks, size), rank / (num + 1)) for rank in ranks.tolist()] == ranks.tolist()


def test_every_structure_weighs_the_same():
    # Structures of 1, 2 and 4 elements, with weights of 1/4, 1/8 and 1/16 each; the last quarter is infinite.
    errors = np.array([-8.0, 1.0, 7.0, 2.0, -3.0, 4.0, 5.0])
    structure_index = np.array([5, 9, 9, 3, 3, 3, 3])
    cumulated = {1: 2 / 16, 2: 3 / 16, 3: 4 / 16, 4: 5 / 16, 5: 6 / 16, 7: 8 / 16, 8: 12 / 16}
    for ratio, reached in cumulated.items():
        assert quantile(errors, structure_index, reached) == ratio
        assert quantile(errors, structure_index, reached - 0.01) == ratio


def test_half_widths_are_proportional_to_the_scores():
    rng = np.random.default_rng(0)
    errors, scores = rng.normal(size=40), rng.uniform(0.5, 2.0, size=40)
    found = fit_recalibration("conformal", errors, scores, np.arange(40) // 2, coverage=0.8)
    new = np.array([[0.3, 10.0]])
    assert found.half_widths(new).tolist() == (found.curves[0].quantile * new).tolist()
    assert (found.coverage, found.num_structures) == (0.8, (20,))


@pytest.mark.parametrize(("num", "coverage"), [(10, 0.9), (20, 0.9), (20, 0.6), (39, 0.95)])
def test_coverage_of_plain_split_conformal(num, coverage):
    rng = np.random.default_rng(1)
    index = np.arange(num)
    # The coverage given a quantile is exact for normal errors, and its mean is ceil((n + 1) coverage) / (n + 1).
    covered = np.array([2.0 * norm.cdf(quantile(rng.normal(size=num), index, coverage)) - 1.0 for _ in range(2_000)])
    standard_error = covered.std() / np.sqrt(covered.size)
    assert covered.mean() == pytest.approx(math.ceil((num + 1) * coverage) / (num + 1), abs=4.0 * standard_error)
    assert standard_error < 0.1 / (num + 1)  # enough to tell one rank from the next


def dependent_errors(rng, num_structures):
    """Structures of one atom with large errors and of 30 with small ones, which are nearly equal within a structure."""
    is_large = rng.random(num_structures) < 0.5
    sizes = np.where(is_large, 30, 1)
    structure = np.repeat(np.arange(num_structures), sizes)
    shared = rng.normal(size=num_structures)[structure]
    errors = np.where(is_large, 1.0, 5.0)[structure] * (shared + 0.1 * rng.normal(size=structure.size))
    return errors, structure


def expected_coverage(width):
    """Expected fraction of a new structure's errors below the width."""
    return np.mean([2.0 * norm.cdf(width / scale / np.sqrt(1.01)) - 1.0 for scale in (1.0, 5.0)])


@pytest.mark.parametrize(("num", "coverage"), [(10, 0.9), (20, 0.9), (20, 0.6)])
def test_hierarchical_coverage_lies_within_its_bounds(num, coverage):
    rng = np.random.default_rng(2)
    covered, pooled = [], []
    for _ in range(1_000):
        errors, structure = dependent_errors(rng, num)
        covered.append(expected_coverage(quantile(errors, structure, coverage)))
        pooled.append(expected_coverage(quantile(errors, np.arange(errors.size), coverage)))
    slack = 4.0 * np.std(covered) / np.sqrt(len(covered))
    assert coverage - slack <= np.mean(covered) <= coverage + 1.0 / (num + 1) + slack
    # As if all elements were independent, the many elements of the large structures decide, and the others are missed.
    assert np.mean(pooled) < coverage - 0.1


def test_pooled_elements_fail_even_in_structures_of_equal_size():
    rng = np.random.default_rng(3)
    num, size, coverage = 10, 10, 0.88
    structure = np.repeat(np.arange(num), size)
    covered, pooled = [], []
    for _ in range(1_000):
        errors = rng.normal(size=num)[structure] + 1e-6 * rng.normal(size=num * size)
        for widths, index in ((covered, structure), (pooled, np.arange(num * size))):
            widths.append(2.0 * norm.cdf(quantile(errors, index, coverage)) - 1.0)
    standard_error = np.std(pooled) / np.sqrt(len(pooled))
    # The 89th of 100 elements lies in the 9th structure, which 9/11 of new ones do not exceed; 10/11 are needed.
    assert np.mean(pooled) == pytest.approx(9.0 / 11.0, abs=4.0 * standard_error)
    assert np.mean(covered) == pytest.approx(10.0 / 11.0, abs=4.0 * standard_error)
    assert np.mean(pooled) < coverage - 4.0 * standard_error


def test_coverage_of_each_group():
    rng = np.random.default_rng(4)
    num, coverage = 24, 0.9
    # Every structure has two elements of group 1, every other one has three of group 8 with errors 10 times as large.
    has_both = np.arange(num) % 2 == 0
    structure = np.concatenate([np.repeat(np.arange(num), 2), np.repeat(np.arange(num)[has_both], 3)])
    groups = np.repeat([1, 8], [2 * num, 3 * has_both.sum()])
    scale = np.where(groups == 1, 1.0, 10.0)
    covered = []
    for _ in range(1_000):
        errors = scale * (rng.normal(size=num)[structure] + 0.1 * rng.normal(size=structure.size))
        found = fit_recalibration("conformal", errors, np.ones_like(errors), structure, groups, coverage=coverage)
        widths = found.half_widths(np.ones(2), np.array([1, 8])) / np.array([1.0, 10.0])
        covered.append(2.0 * norm.cdf(widths / np.sqrt(1.01)) - 1.0)
    mean, slack = np.mean(covered, axis=0), 4.0 * np.std(covered, axis=0) / np.sqrt(len(covered))
    assert found.num_structures == (24, 12)
    assert np.all(mean >= coverage - slack)
    assert np.all(mean <= coverage + 1.0 / (np.array(found.num_structures) + 1) + slack)


def test_min_structures_is_the_least_that_reaches_the_coverage():
    for coverage in (0.01, 0.5, 2.0 / 3.0, 0.68, 0.8, 0.9, 1.0 - 0.1, 0.95, 0.99, 0.999):
        least = min_structures(coverage)
        assert least / (least + 1) >= coverage - 1e-8
        assert least == 1 or (least - 1) / least < coverage
    assert [min_structures(coverage) for coverage in (0.9, 0.95, 0.99)] == [9, 19, 99]
