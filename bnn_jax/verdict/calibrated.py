"""Are the error bars right? Errors over stds, and how many errors lie inside, where labels were held back."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Float, Int
from scipy.stats import t

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.evaluation import COVERAGES
from bnn_jax.types import Criterion, Predictive
from bnn_jax.verdict.bounds import BOUNDS, Bounds

MIN_STRUCTURES = 4
"""Labelled structures below which nothing is judged."""
CONSERVATIVE = 1.5
"""Root mean square of std over error from which on it is worth saying."""
CHANCE = 0.00135
"""Probability that a figure is so far from what it should be, on one side, where nothing is wrong: three standard
errors, and more where few structures tell of that error (Student's t)."""


class Ratio(NamedTuple):
    """A mean over elements with its standard error, from the scatter of the structures."""

    mean: float
    error: float
    num_structures: int

    @property
    def reach(self) -> float:
        """How far chance takes the mean."""
        return float(t.ppf(1 - CHANCE, max(self.num_structures - 1, 1))) * self.error


def ratio(values: Float[np.ndarray, " element"], structure: Int[np.ndarray, " element"]) -> Ratio:
    """The mean of the values, whose structures are independent of each other and whose elements within one are not.

    Args:
        values: one of each element.
        structure: that it belongs to.
    """
    _, place = np.unique(structure, return_inverse=True)
    sums, counts = np.bincount(place, values), np.bincount(place)
    mean, num = sums.sum() / counts.sum(), len(counts)
    if num < 2:
        return Ratio(float(mean), float("inf"), num)
    error = np.sqrt(np.sum((sums - mean * counts) ** 2) * num / (num - 1)) / counts.sum()
    return Ratio(float(mean), float(error), num)


def judge_calibration(predictive: Predictive, held_out: Dataset, bounds: Bounds = BOUNDS) -> Criterion:
    """Errors of energies and forces on held-out labels against their stds; forces also by element and by size of std.

    Energies must scatter as their stds say: errors that are all alike may be as large, and are no draws of them.

    Args:
        predictive: of the held-out structures.
        held_out: with labels that were kept from training.
        bounds: of what is called right.
    """
    figures: dict[str, float] = {}
    faults, described = [], []
    for name, z, structure, groups in _standardised(predictive, held_out):
        max_factor = bounds.factor if name == "forces" else bounds.part_factor
        fault, found, text = _judged(name, z, structure, max_factor, bounds)
        figures |= found
        described.append(text)
        parts = [
            _judged(f"{name} {label}", z[chosen], structure[chosen], bounds.part_factor, bounds)
            for label, chosen in groups
        ]
        figures |= {key: value for _, found, _ in parts for key, value in found.items()}
        faults += [fault] if fault else [fault for fault, _, _ in parts if fault]
        if name == "energies":
            fault, found = _alike(z, bounds)
            figures |= found
            faults += [fault] if fault else []
    if not described:
        few = f"fewer than {MIN_STRUCTURES} structures with labels were held back, or the method has no std"
        advice = "give more for validation, which the weights do not learn from (valid, --valid)"
        return Criterion(None, f"whether they are right cannot be told: {few}", advice, {})
    if faults:
        advice = "validate on data like those you will use, run longer, train on more, or calibrate the run"
        return Criterion(False, "; ".join(faults), advice, figures)
    return Criterion(True, "; ".join(described), "", figures)


def _standardised(
    predictive: Predictive, held_out: Dataset
) -> Iterator[tuple[str, np.ndarray, np.ndarray, list[tuple[str, np.ndarray]]]]:
    """Name, errors over stds, structures and parts of energies and forces, as far as they can be judged."""
    std = predictive.energy_std
    known = np.isfinite(held_out.energy) & (std > 0)
    if known.sum() >= MIN_STRUCTURES:
        z = (predictive.energy[known] - held_out.energy[known]) / std[known]
        yield "energies", z, np.flatnonzero(known), []
    std = predictive.forces_std
    labelled = np.isfinite(held_out.forces) & (std > 0)
    structure = np.broadcast_to(held_out.structure_index[:, None], labelled.shape)[labelled]
    if len(np.unique(structure)) >= MIN_STRUCTURES:
        z = (predictive.forces - held_out.forces)[labelled] / std[labelled]
        numbers = np.broadcast_to(held_out.numbers[:, None], labelled.shape)[labelled]
        present = np.unique(numbers).tolist()
        groups = [(f"of {chemical_symbols[number]}", numbers == number) for number in present if len(present) > 1]
        thirds = np.searchsorted(np.quantile(std[labelled], [1 / 3, 2 / 3]), std[labelled])
        groups += [(f"with {size} stds", thirds == i) for i, size in enumerate(("small", "middle", "large"))]
        yield "forces", z, structure, [(name, chosen) for name, chosen in groups if chosen.any()]


def _alike(z: np.ndarray, bounds: Bounds) -> tuple[str | None, dict[str, float]]:
    """What is wrong with energies whose errors hardly differ, if anything, and the figures of that.

    Args:
        z: errors over stds, one of each structure.
        bounds: of what is called right.
    """
    num = len(z)
    square = ratio((z - z.mean()) ** 2 * num / (num - 1), np.arange(num))
    scatter = float(np.sqrt(square.mean))
    figures = {"energies_mean_z": float(z.mean()), "energies_scatter_of_z": scatter}
    is_common = abs(z.mean()) > scatter and scatter < 1 / bounds.width and 1 - square.mean > square.reach
    if not is_common or np.sqrt(np.mean(z**2)) < 1 / bounds.width:
        return None, figures
    text = f"all energies are wrong alike, by {abs(z.mean()):.2f} stds, and these {1 / max(scatter, 1e-300):.0f} times"
    return f"{text} the scatter about that", figures


def _judged(
    name: str, z: np.ndarray, structure: np.ndarray, max_factor: float, bounds: Bounds
) -> tuple[str | None, dict[str, float], str]:
    """What is wrong with them, if anything, the figures, and these in words."""
    square = ratio(z**2, structure)
    inside = {label: ratio((np.abs(z) <= reach).astype(float), structure) for label, reach in COVERAGES.items()}
    factor = np.sqrt(square.mean)
    figures = {f"{name} rms z": float(factor), f"{name} rms z error": square.error / max(2 * float(factor), 1e-300)}
    for label, found in inside.items():
        figures |= {f"{name} coverage {label}": found.mean, f"{name} coverage {label} error": found.error}
    figures = {key.replace(" ", "_"): value for key, value in figures.items()}
    shares = " and ".join(f"{100 * found.mean:.0f} %" for found in inside.values())
    text = f"{shares} of the {name} within one and two stds (68 and 95 % expected)"
    if factor < 1 / CONSERVATIVE and abs(square.mean - 1) > square.reach:
        text += f", conservative by a factor of {1 / factor:.1f}"
    beyond = not 1 / bounds.width <= factor <= max_factor and abs(square.mean - 1) > square.reach
    misses = 1 - inside["95"].mean
    too_many = misses > bounds.misses and misses - inside["95"].reach > 1 - 0.9545
    if square.num_structures < MIN_STRUCTURES or not (beyond or too_many):
        return None, figures, text
    if factor > 1 or too_many:
        return f"errors of the {name} are {factor:.2f} times their stds: {text}", figures, text
    return f"stds of the {name} are {1 / factor:.2f} times the errors: {text}", figures, text
