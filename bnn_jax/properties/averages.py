"""Ensemble averages and what every sample would have had, by reweighting the frames of one trajectory."""

import warnings
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import softmax

from bnn_jax.atoms.neighbors import neighbor_list
from bnn_jax.atoms.sources import Structures, load
from bnn_jax.methods import Posterior
from bnn_jax.predict import Predictor
from bnn_jax.properties.propagate import Propagated, collected
from bnn_jax.types import InputError
from bnn_jax.units import BOLTZMANN_EV_PER_KELVIN

FEW_FRAMES = 10
"""Effective frames of a sample below which an average is warned of."""


class FewFramesWarning(UserWarning):
    """A sample's potential differs so much from that which moved the atoms that few frames count for it."""


class Average(NamedTuple):
    """Of a quantity over an ensemble."""

    value: Propagated
    """In the shape and unit of the quantity; its ``mean`` is that over samples."""
    as_sampled: Float[np.ndarray, "..."]
    """Over the frames as they are, which the mean force made."""
    effective_sizes: Float[np.ndarray, " sample"]
    """Frames that count for each sample, ``(sum w)^2 / sum w^2``, had the frames been independent."""


def ensemble_average(
    posterior: Posterior | Predictor,
    frames: Structures,
    values: Float[np.ndarray, "frame ..."],
    kelvin: float,
    method: Literal["weights", "cumulants"] = "weights",
) -> Average:
    """The canonical average of a quantity for every sample's potential, from frames that the mean force made.

    ``weights``: frame i counts ``exp(-(E_k(i) - E(i)) / kT)`` for sample k, with E the mean over samples. Exact, but
    few frames count where the energies differ by more than kT. ``cumulants``: the first order of that,
    ``<a> - (<a E_k - a E> - <a> <E_k - E>) / kT``, which has less noise and a bias (Imbalzano et al., J. Chem. Phys.
    154, 074102 (2021), eq. 24). What the trajectory itself lacks in length is in neither.

    Args:
        posterior: the samples whose mean moved the atoms.
        frames: independent ones as far as can be, at constant volume and temperature.
        values: of the quantity, of every frame.
        kelvin: the temperature.
        method: how.

    Raises:
        InputError: there are not as many values as frames, or the temperature is not positive.
    """
    if not 0 < kelvin < np.inf:
        raise InputError(f"kelvin is {kelvin}; it must be positive.")
    energies = posterior.predict(frames).energy_samples
    values = np.asarray(values, np.float64)
    if len(values) != energies.shape[1]:
        raise InputError(f"There are {len(values)} values of {energies.shape[1]} frames; give one of each.")
    differences = (energies - energies.mean(axis=0)) / (kelvin * BOLTZMANN_EV_PER_KELVIN)
    weights = softmax(-differences, axis=1)
    sizes = 1 / np.sum(weights**2, axis=1)
    mean = values.mean(axis=0)
    if method == "weights":
        draws = np.tensordot(weights, values, axes=1)
        if sizes.min() < FEW_FRAMES:
            message = (
                f"Of {len(values)} frames {sizes.min():.1f} count for sample {sizes.argmin()}, whose average is noise."
                " Take method='cumulants', or a trajectory of each sample (forces: each)."
            )
            warnings.warn(message, FewFramesWarning, stacklevel=2)
    elif method == "cumulants":
        centred = differences - differences.mean(axis=1, keepdims=True)
        draws = mean - np.tensordot(centred, values - mean, axes=1) / len(values)
    else:
        raise InputError(f"method is {method!r:.40}; give 'weights' or 'cumulants'.")
    return Average(collected(draws), mean, sizes)


class RadialDistribution(NamedTuple):
    """Of distances between atoms."""

    distances: Float[np.ndarray, " bin"]
    """Middles of the bins, in Angstrom."""
    values: Float[np.ndarray, "frame bin"]
    """g(r) of every frame: pairs over those of as many atoms without order."""


def radial_distribution(
    frames: Structures, furthest: float, num_bins: int = 100, pair: tuple[int, int] | None = None
) -> RadialDistribution:
    """g(r) of every frame, to be averaged by :func:`ensemble_average` or as it is.

    Args:
        frames: periodic in three directions, all of the same atoms.
        furthest: distance, in Angstrom; may be more than half the cell.
        num_bins: up to there.
        pair: atomic numbers, from which and to which; all atoms if None.

    Raises:
        InputError: a frame is not periodic, or there are no such atoms.
    """
    data = load(frames, use_labels=False)
    if not data.pbc.all():
        raise InputError("A radial distribution is of a density; give frames that are periodic in three directions.")
    edges = np.linspace(0.0, furthest, num_bins + 1)
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    found = []
    for i in range(len(data)):
        rows = slice(data.offsets[i], data.offsets[i + 1])
        numbers, positions, cell = data.numbers[rows], data.positions[rows], data.cell[i]
        senders, receivers, shifts = neighbor_list(positions, cell, data.pbc[i], furthest)
        lengths = np.linalg.norm(positions[senders] + shifts @ cell - positions[receivers], axis=1)
        froms, tos = (np.ones(len(numbers), bool),) * 2 if pair is None else (numbers == one for one in pair)
        if not (froms.any() and tos.any()):
            raise InputError(f"Frame {i} has no atoms of the elements {pair}.")
        counts, _ = np.histogram(lengths[froms[receivers] & tos[senders]], edges)
        density = tos.sum() / abs(np.linalg.det(cell))
        found.append(counts / (froms.sum() * density * shells))
    return RadialDistribution((edges[1:] + edges[:-1]) / 2, np.array(found))
