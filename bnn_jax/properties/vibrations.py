"""Harmonic frequencies of molecules, of every sample at its own minimum."""

import ase
import numpy as np
from ase.vibrations import VibrationsData
from jaxtyping import Float

from bnn_jax.calculator import BNNCalculator
from bnn_jax.methods import Posterior
from bnn_jax.predict import Predictor
from bnn_jax.properties.geometry import relax
from bnn_jax.properties.hessian import hessian_fn
from bnn_jax.properties.propagate import Propagated, propagate
from bnn_jax.types import InputError


def frequencies(
    posterior: Posterior | Predictor,
    atoms: ase.Atoms,
    max_force: float = 0.005,
    *,
    allow_failed: bool = False,
    progress: bool = True,
) -> Propagated:
    """Wave numbers of a molecule's normal modes in 1/cm, ascending; imaginary ones are negative.

    Every sample's molecule is relaxed first. Moves and turns of the whole are projected out, so that there are 3N - 6
    modes, of a linear molecule 3N - 5.

    Args:
        posterior: samples, or what :func:`bnn_jax.load_exported` reads.
        atoms: near a minimum, without periods.
        max_force: that is left at the minimum, in eV/Angstrom.
        allow_failed: as for :func:`bnn_jax.propagate`.
        progress: show a progress bar on a terminal.

    Raises:
        InputError: the structure is periodic, or a sample does not come to rest.
    """
    if atoms.pbc.any():
        raise InputError("A periodic structure has phonons; take bnn_jax.properties.phonons.")
    predictor = posterior.predictor
    hessian = hessian_fn(predictor, atoms)

    def of(calculator: BNNCalculator) -> np.ndarray:
        found = relax(atoms, calculator, max_force)
        return modes(found, hessian(calculator.predictor, found))

    return propagate(predictor, of, allow_failed=allow_failed, progress=progress)


def modes(atoms: ase.Atoms, hessian: Float[np.ndarray, "row row"]) -> Float[np.ndarray, " mode"]:
    """Wave numbers in 1/cm, ascending, without those of the whole.

    Args:
        atoms: at rest.
        hessian: second derivatives of the energy by coordinates, in eV/Angstrom^2.
    """
    arms = atoms.positions - atoms.get_center_of_mass()
    weights = np.sqrt(np.repeat(atoms.get_masses(), 3))
    turns = np.cross(np.eye(3)[:, None, :], arms[None]).reshape(3, -1)
    whole = np.concatenate([np.tile(np.eye(3), len(atoms)), turns]) * weights
    _, sizes, directions = np.linalg.svd(whole, full_matrices=False)
    directions = directions[sizes > 1e-3 * sizes[0]]  # a linear molecule does not turn about itself
    inside = np.eye(len(weights)) - directions.T @ directions
    projected = weights[:, None] * (inside @ (hessian / np.outer(weights, weights)) @ inside) * weights
    found = VibrationsData.from_2d(atoms, projected).get_frequencies()
    real, imaginary = np.abs(np.real(found)), np.abs(np.imag(found))
    signed = np.where(imaginary > real, -imaginary, real)
    of_the_whole = np.argsort(np.abs(signed))[: len(directions)]
    return np.sort(np.delete(signed, of_the_whole))
