"""Halves of the chains foretell how much another run would differ, as two real runs of the same law do."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from verdict.synthetic import drawn, predictive_of, waters

from bnn_jax.verdict.reproducible import _splits, halves, judge_reproducibility

DATASET = waters(40)


def run(seed: int, num_chains: int, between: float, within: float, num_samples: int = 4, scatter: float = 0.0):
    """Samples and stds [sample, quantity]; the stds of each chain are off by a factor of their own."""
    rng = np.random.default_rng(seed)
    sizes = np.exp(0.7 * np.random.default_rng(99).normal(size=(1, 1, len(DATASET.numbers))))
    factors = np.exp(scatter * rng.normal(size=(num_chains, 1, len(DATASET.numbers))))
    std = 0.1 * sizes * factors * np.ones((1, num_samples, 1))
    return drawn(DATASET, rng, num_chains, num_samples, between, within), std.reshape(-1, len(DATASET.numbers))


def as_quantities(forces, std):
    spread = np.broadcast_to(std[..., None], forces.shape)
    return forces.reshape(len(forces), -1), spread.reshape(len(forces), -1)


@pytest.mark.parametrize(
    ("num_chains", "between", "scatter"), [(4, 0.1, 0.5), (4, 0.02, 0.0), (6, 0.2, 0.3), (8, 0.1, 1.0)]
)
def test_halves_foretell_two_runs(num_chains, between, scatter):
    foretold = [
        halves(*as_quantities(*run(seed, num_chains, between, 0.05, scatter=scatter)), num_chains) for seed in range(8)
    ]
    shifts, factors, ranks = [], [], []
    for seed in range(8):
        one, other = (
            predictive_of(DATASET, *run(2 * seed + i + 100, num_chains, between, 0.05, scatter=scatter)) for i in (0, 1)
        )
        both = (one.forces_std**2 + other.forces_std**2) / 2
        shifts.append(np.sqrt(np.mean((one.forces - other.forces) ** 2 / both)))
        factors.append(np.exp(np.median(np.abs(np.log(one.forces_std / other.forces_std)))))
        ranks.append(spearmanr(one.forces_std.ravel(), other.forces_std.ravel()).statistic)
    # Scatter over seeds of some percent; stds of a half of the chains are not quite those of all with more noise.
    assert np.mean([each.shift for each in foretold]) == pytest.approx(np.mean(shifts), rel=0.15)
    assert np.log(np.mean([each.factor for each in foretold])) == pytest.approx(
        np.log(np.mean(factors)), rel=0.25, abs=0.02
    )
    assert np.mean([each.rank for each in foretold]) == pytest.approx(np.mean(ranks), abs=0.08)


def test_shift_of_chains_that_do_not_differ_and_of_chains_that_do():
    r"""Means of C chains of K samples scatter by :math:`b^2 / C + w^2 / (C K)` against a variance of
    :math:`a^2 + b^2 + w^2`."""
    for between, within in ((0.0, 0.1), (0.3, 0.0)):
        forces, _ = run(1, 8, between, within, num_samples=16)
        found = halves(*as_quantities(forces, np.full(forces.shape[:2], 0.1)), 8)
        expected = np.sqrt(2 * (between**2 / 8 + within**2 / 128) / (0.01 + between**2 + within**2))
        assert found.shift == pytest.approx(expected, rel=0.15)
        # Stds of four chains scatter by 1 / sqrt(6) where these are all that they tell.
        assert found.factor < 1.35


@pytest.mark.parametrize(("num_chains", "num_splits"), [(2, 1), (3, 3), (4, 3), (5, 10), (6, 10), (9, 12)])
def test_ways_to_halve(num_chains, num_splits):
    splits = _splits(num_chains)
    assert len(splits) == num_splits
    for left, right in splits:
        assert len(left) == len(right) == num_chains // 2
        assert not set(left.tolist()) & set(right.tolist())


def test_two_chains_that_say_different_things():
    forces, std = run(2, 2, 0.5, 0.02)
    found = judge_reproducibility(predictive_of(DATASET, forces, std), 2, ("energy", "forces"))
    assert found.holds is False
    assert found.sentence.startswith("another run's forces would differ by ")
    assert "--chains" in found.advice
    assert judge_reproducibility(predictive_of(DATASET, *run(2, 2, 0.02, 0.02)), 2, ("energy", "forces")).holds


def test_stds_that_each_chain_makes_up_for_itself():
    found = judge_reproducibility(predictive_of(DATASET, *run(3, 4, 0.0, 0.01, scatter=1.5)), 4, ("forces",))
    assert found.holds is False and found.figures["forces_factor_of_another_run"] > 1.5
    assert found.figures["forces_shift_of_another_run"] < 0.5


def test_one_network_cannot_tell():
    found = judge_reproducibility(predictive_of(DATASET, *run(4, 1, 0.0, 0.1)), 1, ("energy", "forces"))
    assert found.holds is None and "cannot be told from one network" in found.sentence
