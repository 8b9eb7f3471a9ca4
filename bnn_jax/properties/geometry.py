"""Structures at rest: one relaxation for every sample of the posterior."""

import os
from typing import Any

import ase
from ase.build import minimize_rotation_and_translation
from ase.calculators.calculator import Calculator
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from bnn_jax.methods import Posterior
from bnn_jax.predict import Predictor
from bnn_jax.properties.propagate import Propagated, propagate
from bnn_jax.types import InputError

MAX_STEPS = 500


def relax(
    atoms: ase.Atoms, calculator: Calculator, max_force: float = 0.01, *, cell: bool = False, num_steps: int = MAX_STEPS
) -> ase.Atoms:
    """A copy at the nearest minimum of the energy, by BFGS, with the calculator.

    Args:
        atoms: to start from; its constraints hold.
        calculator: of forces and, with ``cell``, stress.
        max_force: largest force that is left, in eV/Angstrom; single precision gives no less than some 1e-3.
        cell: relax the lattice vectors too.
        num_steps: at most.

    Raises:
        InputError: the steps do not suffice, or there is no cell to relax.
    """
    if cell and atoms.cell.rank < 3:
        raise InputError("There is no cell of three vectors to relax; leave cell=True out.")
    relaxed = atoms.copy()
    relaxed.calc = calculator
    moving: Any = FrechetCellFilter(relaxed) if cell else relaxed
    optimizer = BFGS(moving, logfile=os.devnull)
    if not optimizer.run(fmax=max_force, steps=num_steps):
        raise InputError(
            f"{atoms.get_chemical_formula()} is not at rest after {num_steps} steps: the largest force is still"
            f" {abs(relaxed.get_forces()).max():.3g} eV/Å; start nearer to a minimum, or allow a larger max_force."
        )
    return relaxed


def relaxed_geometry(
    posterior: Posterior | Predictor,
    atoms: ase.Atoms,
    max_force: float = 0.01,
    *,
    cell: bool = False,
    allow_failed: bool = False,
    progress: bool = True,
) -> Propagated:
    """Every sample's own minimum: ``positions`` [atom, 3] and ``cell`` [3, 3] in Angstrom, and ``energy`` in eV.

    Molecules without constraints are turned and moved onto the start, so that the spread is one of shapes.

    Args:
        posterior: samples, or what :func:`bnn_jax.load_exported` reads.
        atoms: to start from.
        max_force: as for :func:`relax`, as are ``cell`` and the errors.
        cell: relax the lattice vectors too.
        allow_failed: as for :func:`bnn_jax.propagate`.
        progress: show a progress bar on a terminal.
    """

    def at_rest(calculator: Calculator) -> dict:
        found = relax(atoms, calculator, max_force, cell=cell)
        energy = found.get_potential_energy()
        if not (atoms.pbc.any() or atoms.constraints):
            minimize_rotation_and_translation(atoms, found)
        return {"positions": found.positions, "cell": found.cell.array, "energy": energy}

    return propagate(posterior, at_rest, allow_failed=allow_failed, progress=progress)
