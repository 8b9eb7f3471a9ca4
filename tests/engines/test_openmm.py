"""OpenMM-ML takes the calculator: its forces, conserved energy, and a row of error bars every so many steps."""

import csv

import numpy as np
import pytest
import systems
from posteriors import random_posterior

from bnn_jax import BNNCalculator
from bnn_jax.engines.openmm_reporter import StdReporter

openmm = pytest.importorskip("openmm")
openmmml = pytest.importorskip("openmmml")


def test_fifty_steps(tmp_path):
    from openmm import app, unit

    atoms = systems.water()
    posterior = random_posterior(systems.labelled_series(atoms, 4))
    topology = app.Topology()
    residue = topology.addResidue("HOH", topology.addChain())
    for symbol in atoms.symbols:
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
    calculator = BNNCalculator(posterior)
    system = openmmml.MLPotential("ase").createSystem(topology, calculator=calculator)
    integrator = openmm.VerletIntegrator(0.25 * unit.femtosecond)
    simulation = app.Simulation(topology, system, integrator, openmm.Platform.getPlatformByName("Reference"))
    simulation.context.setPositions(atoms.positions / 10)
    simulation.context.setVelocitiesToTemperature(300, 1)
    simulation.reporters.append(StdReporter(tmp_path / "stds.csv", 10, calculator, atoms))
    totals, potentials = [], []
    for _ in range(25):
        simulation.step(2)
        state = simulation.context.getState(getEnergy=True, getForces=True, getPositions=True)
        potentials.append(state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole))
        totals.append(potentials[-1] + state.getKineticEnergy().value_in_unit(unit.kilojoule_per_mole))
    assert np.ptp(totals) < 0.05 * np.ptp(potentials)
    moved = atoms.copy()
    moved.positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    expected = posterior.predict(moved)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.angstrom) / 96.48533212331
    np.testing.assert_allclose(forces, expected.forces, atol=1e-5)
    rows = list(csv.DictReader((tmp_path / "stds.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [10, 20, 30, 40, 50]
    assert float(rows[-1]["largest_forces_std_eV_per_A"]) == pytest.approx(expected.forces_std.max(), rel=1e-3)
    assert float(rows[-1]["energy_eV"]) == pytest.approx(expected.energy[0], rel=1e-5)
