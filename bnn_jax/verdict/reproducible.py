r"""Would another run give the same error bars? The chains tell: each half of them is a smaller run.

Halves A and B of the chains have predictive means and stds of their own. Of a run with as many chains as A and B
together the means scatter less by the root of two, as means of twice as many independent chains do, and likewise the
logarithms of the stds. The chains need not sample one distribution for this: it is enough that each of
them could have been any other, which their seeds ensure.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import rankdata

from bnn_jax.types import Criterion, Predictive
from bnn_jax.verdict.bounds import BOUNDS, Bounds

MAX_SPLITS = 12
"""Ways to halve the chains that are looked at."""


class Halves(NamedTuple):
    """What two halves of the chains say of each other, scaled to runs of all chains."""

    shift: float
    """Root mean square of the difference of two runs' means over their std."""
    factor: float
    """Median factor between two runs' stds, at least 1."""
    rank: float
    """Rank correlation of two runs' stds, by the Spearman-Brown formula."""


def judge_reproducibility(
    predictive: Predictive, num_networks: int, labels: Sequence[str], bounds: Bounds = BOUNDS
) -> Criterion:
    """Split the networks in halves and let each predict the means and stds of the other, of energies and forces.

    Args:
        predictive: of structures, all samples in it: those of the first network, then those of the next.
        num_networks: chains or members that began independently of each other.
        labels: of the training set; what it taught nothing of is left out.
        bounds: of what is called the same.
    """
    if num_networks < 2:
        text = "whether another run would give the same cannot be told from one network"
        return Criterion(None, text, "run two chains or more (sampler.num_chains, --chains)", {})
    found = {}
    if "energy" in labels:
        # Energies of all structures shifted by one number say nothing new of their errors.
        energies, stds = predictive.energy_samples, predictive.energy_std_samples
        found["energies"] = halves(energies, stds, num_networks)
    if "forces" in labels:
        forces = predictive.forces_samples
        stds = np.broadcast_to(predictive.forces_std_samples[..., None], forces.shape)
        found["forces"] = halves(forces.reshape(len(forces), -1), stds.reshape(len(forces), -1), num_networks)
    figures = {
        f"{name}_{key}_of_another_run": value for name, each in found.items() for key, value in each._asdict().items()
    }
    texts = {
        name: f"another run's {name} would differ by {each.shift:.2f} stds and its stds by a factor {each.factor:.2f}"
        for name, each in found.items()
    }
    bad = [
        texts[name]
        for name, each in found.items()
        if not (each.shift <= bounds.shift and each.factor <= bounds.std_factor)
    ]
    if bad:
        return Criterion(False, "; ".join(bad), "run more chains (--chains), or longer ones (--samples)", figures)
    return Criterion(True, "; ".join(texts.values()), "", figures)


def halves(
    samples: Float[np.ndarray, "sample quantity"], stds: Float[np.ndarray, "sample quantity"], num_networks: int
) -> Halves:
    """The figures of this module, the mean over ways to halve the networks.

    Args:
        samples: predicted means of each sample, those of the first network first.
        stds: the samples' own stds.
        num_networks: at least two; one is left out where their number is odd.
    """
    shape = (num_networks, -1, samples.shape[1])
    means, squares = samples.reshape(shape).astype(np.float64), np.square(stds.reshape(shape).astype(np.float64))
    means = means - means.mean(axis=(0, 1))
    _, square = _predictive(means, squares, np.arange(num_networks))
    splits = [
        _compared(_predictive(means, squares, left), _predictive(means, squares, right), square)
        for left, right in _splits(num_networks)
    ]
    shift, log_factor, rank = (np.array(each) for each in zip(*splits, strict=True))
    root, mean_rank = np.sqrt(2.0), float(np.nanmean(rank)) if np.isfinite(rank).any() else float("nan")
    return Halves(
        float(np.sqrt(np.mean(shift**2)) / root),
        float(np.exp(np.mean(log_factor) / root)),
        2 * mean_rank / (1 + mean_rank) if mean_rank > -1 else float("nan"),
    )


def _splits(num_networks: int) -> list[tuple[Int[np.ndarray, " half"], Int[np.ndarray, " half"]]]:
    size, rng = num_networks // 2, np.random.default_rng(0)
    if num_networks <= 6:
        chosen = list(itertools.combinations(range(num_networks), size))
        pairs = [(set(left), set(range(num_networks)) - set(left)) for left in chosen]
        pairs = [(left, right) for left, right in pairs if len(left) < len(right) or min(left) < min(right)]
        return [(np.array(sorted(left)), np.array(sorted(right)[:size])) for left, right in pairs]
    orders = (rng.permutation(num_networks) for _ in range(MAX_SPLITS))
    return [(order[:size], order[size : 2 * size]) for order in orders]


def _predictive(means: np.ndarray, squares: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each quantity of the predictive of some networks."""
    samples, num_samples = means[chosen].reshape(-1, means.shape[2]), len(chosen) * means.shape[1]
    epistemic = samples.var(axis=0, ddof=1) if num_samples > 1 else 0.0
    return samples.mean(axis=0), squares[chosen].mean(axis=(0, 1)) + epistemic


def _compared(
    one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray], whole: np.ndarray
) -> tuple[float, float, float]:
    """Shift of the means in stds of all networks, difference of the logarithms of the stds, and their correlation."""
    (mean, square), (other_mean, other_square) = one, other
    known = (square > 0) & (other_square > 0)
    if not known.any():
        return float("nan"), float("nan"), float("nan")
    shift = np.sqrt(np.mean((mean - other_mean)[known] ** 2 / whole[known]))
    logs = np.log(square[known]) / 2, np.log(other_square[known]) / 2
    varies = all(np.ptp(each) > 0 for each in logs)
    rank = float(np.corrcoef(*(rankdata(each) for each in logs))[0, 1]) if varies else float("nan")
    return float(shift), float(np.median(np.abs(logs[0] - logs[1]))), rank
