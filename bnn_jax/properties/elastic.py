"""Elastic constants from exact second derivatives, of every sample at its own minimum."""

import ase
import numpy as np
from jaxtyping import Float

from bnn_jax.calculator import BNNCalculator
from bnn_jax.methods import Posterior
from bnn_jax.predict import Predictor
from bnn_jax.properties.geometry import relax
from bnn_jax.properties.hessian import hessian_fn
from bnn_jax.properties.propagate import Propagated, propagate
from bnn_jax.types import InputError
from bnn_jax.units import GPA_PER_EV_PER_ANGSTROM3


def elastic_constants(
    posterior: Posterior | Predictor,
    atoms: ase.Atoms,
    max_force: float = 0.005,
    *,
    allow_failed: bool = False,
    progress: bool = True,
) -> Propagated:
    """The stiffness matrix [6, 6] in GPa, in Voigt's order xx, yy, zz, yz, xz, xy, at 0 K.

    Every sample's crystal, its cell included, is relaxed first; atoms follow a strain to where they are at rest.

    Args:
        posterior: samples, or what :func:`bnn_jax.load_exported` reads.
        atoms: a crystal near a minimum, periodic in three directions.
        max_force: that is left at the minimum, on atoms and cell, in eV/Angstrom.
        allow_failed: as for :func:`bnn_jax.propagate`.
        progress: show a progress bar on a terminal.

    Raises:
        InputError: the structure is not periodic in three directions, or a sample does not come to rest.
    """
    if not atoms.pbc.all():
        raise InputError("Elastic constants are of crystals; give a structure that is periodic in three directions.")
    predictor = posterior.predictor
    hessian = hessian_fn(predictor, atoms, with_strain=True)

    def of(calculator: BNNCalculator) -> np.ndarray:
        found = relax(atoms, calculator, max_force, cell=True)
        return stiffness(hessian(calculator.predictor, found), found.get_volume())

    return propagate(predictor, of, allow_failed=allow_failed, progress=progress)


def stiffness(hessian: Float[np.ndarray, "row row"], volume: float) -> Float[np.ndarray, "6 6"]:
    """In GPa, with atoms that relax: ``(E_ss - E_sx E_xx^-1 E_xs) / V`` of strains s and coordinates x.

    Args:
        hessian: second derivatives of the energy, six strains in front, in eV and Angstrom.
        volume: in Angstrom^3.
    """
    # The crystal as a whole moves at no cost: three directions that have no inverse, and no share in the response.
    inner = np.linalg.pinv(hessian[6:, 6:], rcond=1e-5, hermitian=True)
    clamped, coupling = hessian[:6, :6], hessian[:6, 6:]
    return (clamped - coupling @ inner @ coupling.T) / volume * GPA_PER_EV_PER_ANGSTROM3
