"""Labels against predictions: a unit or a sign that differs between training and validation set shows as a slope."""

from collections.abc import Iterator

import numpy as np

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.energies import atomic_energy_residuals
from bnn_jax.types import Predictive

MAX_SLOPE = 2.0
"""Labels that are more than so many times the predictions, or less than the inverse, are in another unit."""
MIN_CORRELATION = 0.5
"""Between labels and predictions that are said to follow them."""
MIN_STRUCTURES = 4
"""Structures below which nothing is said."""


def slopes(predictive: Predictive, held_out: Dataset) -> tuple[list[str], list[str]]:
    """Least squares slopes of labels by predictions: one where both mean the same, however noisy the labels are.

    Args:
        predictive: of the held-out structures.
        held_out: with labels that were kept from training.

    Returns:
        Sentences on labels of another unit or sign, and on predictions that labels hardly follow.
    """
    wrong, loose = [], []
    for name, label, predicted, std, num_free in _compared(predictive, held_out):
        product, squares = np.sum(label * predicted), np.sum(predicted**2)
        if num_free < MIN_STRUCTURES or not (squares > 0 and label.any()):
            continue
        slope, correlation = product / squares, product / np.sqrt(squares * np.sum(label**2))
        error = np.sqrt(max(1 - correlation**2, 0.0) / num_free) * np.sqrt(np.sum(label**2) / squares)  # of the slope
        surely = slope - 3 * error, slope + 3 * error
        if 3 * error < abs(slope) and (surely[1] < 1 / MAX_SLOPE or surely[0] > MAX_SLOPE):
            wrong.append(
                f"the {name} of the validation set are {slope:.2g} times the predicted ones (correlation"
                f" {correlation:.2f})"
            )
        elif correlation < MIN_CORRELATION and np.mean(std**2) < np.mean(label**2) / 4:
            loose.append(
                f"the {name} of the validation set hardly follow the predicted ones (correlation {correlation:.2f}),"
                " which claim to know them better"
            )
    cure = "look for a wrong unit or sign of energies, forces or stress, in both sets"
    return [f"{' and '.join(wrong)}: {cure}"] if wrong else [], loose


def _compared(
    predictive: Predictive, held_out: Dataset
) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray, int]]:
    """Name, labels, predictions and their std, and how many structures tell, of each labelled quantity.

    Energies are without the best atomic energies, stresses without the mean pressure.
    """
    known = np.isfinite(held_out.energy)
    if known.any():
        composition = held_out.composition[known]
        energies = (held_out.energy[known], predictive.energy[known].astype(np.float64))
        label, predicted = (atomic_energy_residuals(composition, energy) for energy in energies)
        num_free = int(known.sum() - np.linalg.matrix_rank(composition))
        yield "energies", label, predicted, predictive.energy_std[known], num_free
    known = np.isfinite(held_out.forces).all(axis=1)
    if known.any():
        num_free = len(np.unique(held_out.structure_index[known]))
        yield "forces", held_out.forces[known], predictive.forces[known], predictive.forces_std[known], num_free
    known = np.isfinite(held_out.stress).all(axis=(1, 2)) & held_out.pbc.all(axis=1)
    if known.any() and predictive.stress is not None and predictive.stress_std_epistemic is not None:
        label, predicted = (
            stress[known] - np.eye(3) * np.trace(stress[known].mean(axis=0)) / 3
            for stress in (held_out.stress, predictive.stress)
        )
        yield "stresses", label, predicted, predictive.stress_std_epistemic[known], int(known.sum())
