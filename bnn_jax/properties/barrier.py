"""The way from one minimum to another: a nudged elastic band, and what every sample says of its barrier."""

import os
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import ase
import numpy as np
from ase.build import minimize_rotation_and_translation
from ase.calculators.calculator import Calculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.mep import NEB
from ase.optimize import FIRE
from ase.utils.forcecurve import ForceFit, fit_images
from jaxtyping import Float

from bnn_jax.calculator import BNNCalculator
from bnn_jax.methods import Posterior
from bnn_jax.predict import Predictor
from bnn_jax.properties.geometry import relax
from bnn_jax.properties.propagate import Propagated, collected, propagate
from bnn_jax.types import InputError, TrustWarning


class Barrier(NamedTuple):
    """A path and its energies."""

    images: list[ase.Atoms]
    """The path of the mean force, ends included."""
    distances: Float[np.ndarray, " image"]
    """Of the images along it, in Angstrom (root of the sum of squares over atoms)."""
    energies: Propagated
    """[image] in eV above the first one, of every sample along this path."""
    curve_distances: Float[np.ndarray, " point"]
    """More places along the path, in Angstrom."""
    curve: Propagated
    """[point] in eV, there: through the energies of every sample with the slopes that its forces have."""
    forward: Propagated
    """Height in eV above the first end: of every sample's curve; on its own path where that was asked for."""
    reverse: Propagated
    """Height in eV above the last end."""


def barrier(
    posterior: Posterior | Predictor,
    start: ase.Atoms,
    end: ase.Atoms,
    num_images: int = 7,
    max_force: float = 0.02,
    *,
    each: bool = False,
    num_steps: int = 500,
    progress: bool = True,
) -> Barrier:
    """The lowest path from one minimum to another and its height, by a climbing nudged elastic band of ASE.

    The path is that of the mean force. All samples are then evaluated along it; their heights are those of their own
    paths but for terms of second order in what the paths differ by. With ``each`` every sample finds its own.

    Args:
        posterior: samples, or what :func:`bnn_jax.load_exported` reads.
        start: one end, relaxed here.
        end: the other, with the same atoms in the same order; a molecule without constraints is turned onto ``start``.
        num_images: between the ends.
        max_force: that is left across the path, in eV/Angstrom.
        each: a path, and relaxed ends, for every sample.
        num_steps: of the band, at most.
        progress: show a progress bar on a terminal.

    Raises:
        InputError: the ends have other atoms, or become the same, or a band does not come to rest.
    """
    if start.numbers.tolist() != end.numbers.tolist() or (start.pbc != end.pbc).any():
        raise InputError("The ends of the path have other atoms, or in another order, or other periods.")
    if num_images < 1:
        raise InputError(f"num_images is {num_images}; one at least must lie between the ends.")
    settings = num_images, max_force, num_steps
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)  # said once, when the posterior is loaded
        images = path_between(BNNCalculator(posterior), start, end, *settings)
    predictive = posterior.predict(images)
    energies = predictive.energy_samples - predictive.energy_samples[:, :1]
    forces = predictive.forces_samples.reshape(len(energies), len(images), -1, 3)
    fits = [_fit(images, *of_sample) for of_sample in zip(energies, forces, strict=True)]
    heights = np.array([_heights(fit) for fit in fits])
    if each:
        heights = propagate(
            posterior, lambda calculator: _own_heights(calculator, start, end, *settings), progress=progress
        ).draws
    curve = collected(np.array([fit.fit_energies for fit in fits]))
    forward, reverse = (collected(column) for column in heights.T)
    distances = np.array(fits[0].path)
    return Barrier(images, distances, collected(energies), np.array(fits[0].fit_path), curve, forward, reverse)


def path_between(
    calculator: Calculator, start: ase.Atoms, end: ase.Atoms, num_images: int, max_force: float, num_steps: int
) -> list[ase.Atoms]:
    """A relaxed band, ends included, first without and then with its highest image climbing.

    Args:
        calculator: of all images.
        start: one end, to be relaxed.
        end: the other.
        num_images: between them.
        max_force: that is left across the path, in eV/Angstrom.
        num_steps: of the band, at most.

    Raises:
        InputError: the ends become the same, or the band does not come to rest.
    """
    first, last = (relax(each, calculator, max_force) for each in (start, end))
    is_free = not (start.pbc.any() or start.constraints)
    if is_free:
        minimize_rotation_and_translation(first, last)
    if np.abs(first.positions - last.positions).max() < 0.05:
        raise InputError("Both ends relax to one structure; there is no path between them.")
    images = [first, *(first.copy() for _ in range(num_images)), last]
    for image in images:
        image.calc = calculator
    band = NEB(images, climb=False, method="improvedtangent", allow_shared_calculator=True,
               remove_rotation_and_translation=is_free)  # fmt: skip
    band.interpolate("idpp", mic=bool(start.pbc.any()))
    for climb, force in ((False, 5 * max_force), (True, max_force)):
        band.climb = climb
        if not FIRE(cast(Any, band), logfile=os.devnull).run(fmax=force, steps=num_steps):
            raise InputError(
                f"The path is not at rest after {num_steps} steps; give ends that are nearer, more images, or allow a"
                " larger max_force."
            )
    return images


def _fit(images: Sequence[ase.Atoms], energies: np.ndarray, forces: np.ndarray) -> ForceFit:
    """ASE's curve through energies along a path, with the slopes that forces have."""
    told = [ase.Atoms(image.numbers, image.positions, cell=image.cell, pbc=image.pbc) for image in images]
    for image, energy, force in zip(told, energies, forces, strict=True):
        image.calc = SinglePointCalculator(image, energy=float(energy), forces=force)
    return fit_images(told)


def _heights(fit: ForceFit) -> np.ndarray:
    """Above both ends."""
    return np.max(fit.fit_energies) - np.array(fit.energies)[[0, -1]]


def _own_heights(calculator: Calculator, *settings: Any) -> np.ndarray:
    images = path_between(calculator, *settings)
    energies = np.array([image.get_potential_energy() for image in images])
    return _heights(_fit(images, energies, np.array([image.get_forces() for image in images])))
