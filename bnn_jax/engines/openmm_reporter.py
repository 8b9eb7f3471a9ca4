"""Error bars along a simulation of OpenMM, whose forces come from the calculator through OpenMM-ML.

For instance::

calculator = bnn_jax.BNNCalculator(posterior)
system = openmmml.MLPotential("ase").createSystem(topology, calculator=calculator)
simulation = openmm.app.Simulation(topology, system, integrator)
simulation.reporters.append(StdReporter("stds.csv", 100, calculator, atoms))
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase
import numpy as np

from bnn_jax.calculator import BNNCalculator

COLUMNS = ("step", "time_ps", "energy_eV", "energy_std_eV", "largest_forces_std_eV_per_A", "num_atoms_beyond_validated")
NM_TO_ANGSTROM = 10.0


class StdReporter:
    """Writes a row of CSV every so many steps: time, energy and its std, the largest std of a force.

    Args:
        file: to write.
        every: steps between rows.
        calculator: that OpenMM-ML was given.
        atoms: the simulated ones, in the topology's order; their places do not matter.
    """

    def __init__(self, file: str | Path, every: int, calculator: BNNCalculator, atoms: ase.Atoms):
        self.every, self.calculator = every, calculator
        self.atoms = ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        self.file = Path(file)
        self._write(COLUMNS, "w")

    def describeNextReport(self, simulation: Any) -> dict[str, Any]:
        """What OpenMM asks.

        Args:
            simulation: that reports.
        """
        steps = self.every - simulation.currentStep % self.every
        return {"steps": steps, "periodic": False, "include": ["positions"]}

    def report(self, simulation: Any, state: Any) -> None:
        """One row.

        Args:
            simulation: that reports.
            state: with positions.
        """
        nanometres = np.array([[x.x, x.y, x.z] for x in state.getPositions()._value])
        self.atoms.positions = NM_TO_ANGSTROM * nanometres
        if self.atoms.pbc.any():
            vectors = state.getPeriodicBoxVectors()._value
            self.atoms.set_cell(NM_TO_ANGSTROM * np.array([[x.x, x.y, x.z] for x in vectors]))
        self.calculator.get_property("forces_std", self.atoms)
        found = dict[str, Any](self.calculator.results)
        beyond = found.get("beyond_validated")
        self._write(
            (
                simulation.currentStep,
                f"{state.getTime()._value:.6g}",
                f"{found['energy']:.8f}",
                f"{found['energy_std']:.6g}",
                f"{np.max(found['forces_std']):.6g}",
                "" if beyond is None else int(np.sum(beyond)),
            )
        )

    def _write(self, row: Sequence[Any], mode: str = "a") -> None:
        with self.file.open(mode, newline="") as file:
            csv.writer(file).writerow(row)
