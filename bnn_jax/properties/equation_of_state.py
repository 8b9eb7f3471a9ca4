"""Energies of a crystal over its volume, and what follows from their minimum."""

from typing import NamedTuple

import ase
import numpy as np
from ase.calculators.calculator import Calculator
from jaxtyping import Float
from numpy.polynomial import Polynomial

from bnn_jax.methods import Posterior
from bnn_jax.predict import Predictor
from bnn_jax.properties.geometry import relax
from bnn_jax.properties.propagate import Propagated, collected, propagate
from bnn_jax.types import InputError
from bnn_jax.units import GPA_PER_EV_PER_ANGSTROM3


class ColdCurve(NamedTuple):
    """Energies over volumes."""

    volumes: Float[np.ndarray, " volume"]
    """Of the cell, in Angstrom^3, ascending."""
    energy: Propagated
    """[volume], in eV, per cell."""


class Minimum(NamedTuple):
    """Of every sample's curve, by the equation of state of third order of Birch and Murnaghan (Phys. Rev. 71, 809)."""

    volume: Propagated
    """Of the cell, in Angstrom^3."""
    energy: Propagated
    """In eV, per cell."""
    bulk_modulus: Propagated
    """In GPa."""


def cold_curve(
    posterior: Posterior | Predictor,
    atoms: ase.Atoms,
    volumes: Float[np.ndarray, " volume"] | None = None,
    *,
    relax_atoms: bool = False,
    allow_failed: bool = False,
    progress: bool = True,
) -> ColdCurve:
    """The energy of a crystal at other volumes, its cell keeping its shape, of every sample.

    Args:
        posterior: samples, or what :func:`bnn_jax.load_exported` reads.
        atoms: a crystal, periodic in three directions.
        volumes: of its cell, in Angstrom^3; eleven from 0.9 to 1.1 of its own where none are given.
        relax_atoms: at each volume, for every sample, which takes long; needed where symmetry does not hold them.
        allow_failed: as for :func:`bnn_jax.propagate`.
        progress: show a progress bar on a terminal.

    Raises:
        InputError: the structure has no volume, or a volume is not positive.
    """
    if atoms.cell.rank < 3 or not atoms.pbc.all():
        raise InputError("A cold curve is of crystals; give a structure that is periodic in three directions.")
    volumes = atoms.get_volume() * np.linspace(0.9, 1.1, 11) if volumes is None else np.sort(np.asarray(volumes, float))
    if not (volumes > 0).all():
        raise InputError(f"A volume of {volumes.min():.3g} Å³ was given; volumes must be positive.")
    scaled = []
    for volume in volumes:
        scaled.append(atoms.copy())
        scaled[-1].set_cell(atoms.cell * (volume / atoms.get_volume()) ** (1 / 3), scale_atoms=True)
    if not relax_atoms:
        predicted = posterior.predict(scaled)
        return ColdCurve(volumes, collected(predicted.energy_samples))

    def of(calculator: Calculator) -> np.ndarray:
        return np.array([relax(each, calculator).get_potential_energy() for each in scaled])

    return ColdCurve(volumes, propagate(posterior, of, allow_failed=allow_failed, progress=progress))


def equation_of_state(curve: ColdCurve, *, allow_failed: bool = False) -> Minimum:
    """Volume, energy and bulk modulus at the minimum of every sample's curve.

    Args:
        curve: of :func:`cold_curve`, with four volumes at least and the minimum between them.
        allow_failed: leave out samples whose minimum is not there, instead of an error.

    Raises:
        InputError: a sample has no minimum there, or there are too few volumes.
    """
    if len(curve.volumes) < 4:
        raise InputError(f"An equation of state has four parameters; {len(curve.volumes)} volumes do not suffice.")
    found, samples, failed = [], [], []
    for number, energies in zip(curve.energy.samples, curve.energy.draws, strict=True):
        if energies.argmin() in (0, len(energies) - 1):
            failed.append(int(number))
            continue
        found.append(_minimum(curve.volumes, energies))
        samples.append(int(number))
    if failed and not (allow_failed and found):
        raise InputError(
            f"The curves of samples {failed} have no minimum between {curve.volumes[0]:.4g} and"
            f" {curve.volumes[-1]:.4g} Å³; give other volumes, or allow_failed=True."
        )
    return Minimum(*(collected(column, np.array(samples)) for column in np.array(found).T))


def _minimum(volumes: np.ndarray, energies: np.ndarray) -> tuple[float, float, float]:
    """Volume, energy and bulk modulus in GPa; that equation of state is a cubic in ``x = V^(-2/3)``."""
    x = volumes ** (-2 / 3)
    cubic = Polynomial.fit(x, energies, 3)
    # The one of the two stationary places that is a minimum is next to the lowest energy.
    flat = cubic.deriv().roots()
    place = float(np.real(flat[np.argmin(np.abs(flat - x[energies.argmin()]))]))
    volume = place**-1.5
    return (
        volume,
        float(cubic(place)),
        float(4 / 9 * cubic.deriv(2)(place) * volume ** (-7 / 3)) * GPA_PER_EV_PER_ANGSTROM3,
    )
