"""i-PI moves atoms with the committee of a posterior: by itself, in batches of beads, and reweighted afterwards."""

import json
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
import systems
from posteriors import random_posterior

from bnn_jax import BNNCalculator
from bnn_jax.properties import ensemble_average
from bnn_jax.units import ANGSTROM_PER_BOHR, BOLTZMANN_EV_PER_KELVIN, EV_PER_HARTREE

pytest.importorskip("ipi")
FORCE = ANGSTROM_PER_BOHR / EV_PER_HARTREE

INPUT = """<simulation verbosity='low' threading='false'>
  <output prefix='run'>
    <properties stride='1' filename='out'> [ step, potential, conserved{electronvolt} ] </properties>
    <trajectory stride='1' filename='pos' format='xyz' cell_units='angstrom'> positions{angstrom} </trajectory>
    <trajectory stride='1' filename='frc' format='xyz'> forces </trajectory>
    <trajectory stride='1' filename='pots' extra_type='committee_pot'> extras </trajectory>
  </output>
  <total_steps> STEPS </total_steps>
  <ffcommittee name='posterior'>
    <parse_json> True </parse_json>
    <ffdirect name='member' pbc='false'>
      <pes> custom </pes>
      <pes_path> DRIVER </pes_path>
      <parameters> { run: RUN, template: start.xyz } </parameters>
    </ffdirect>
  </ffcommittee>
  <system>
    <initialize nbeads='1'>
      <file mode='xyz' units='angstrom'> init.xyz </file>
      <velocities mode='thermal' units='kelvin'> 300 </velocities>
    </initialize>
    <forces> <force forcefield='posterior'/> </forces>
    <motion mode='dynamics'>
      <dynamics mode='nve'> <timestep units='femtosecond'> 0.25 </timestep> </dynamics>
    </motion>
    <ensemble> <temperature units='kelvin'> 300 </temperature> </ensemble>
  </system>
</simulation>
"""


def case(atoms, folder: Path):
    posterior = random_posterior(systems.labelled_series(atoms, 4), num_samples=3)
    ase.io.write(folder / "start.xyz", atoms)
    return posterior


@pytest.mark.parametrize("atoms", [systems.water(), systems.triclinic_crystal()], ids=["molecule", "crystal"])
def test_energies_forces_and_virials_in_atomic_units(tmp_path, atoms):
    from bnn_jax.engines.ipi_driver import PosteriorDriver

    posterior = case(atoms, tmp_path)
    driver = PosteriorDriver(posterior, str(tmp_path / "start.xyz"))
    moved = [systems.rattled(atoms, seed) for seed in (1, 2)]
    if atoms.pbc.any():
        moved[1].set_cell(1.02 * moved[1].cell.array, scale_atoms=True)
    boxes = [(np.eye(3) if not each.pbc.any() else each.cell.array).T / ANGSTROM_PER_BOHR for each in moved]
    places = [each.positions / ANGSTROM_PER_BOHR for each in moved]
    batch = driver(boxes, places)
    for each, box, place, of_batch in zip(moved, boxes, places, batch, strict=True):
        energy, forces, virial, extras = driver(box, place)
        expected = posterior.predict(each)
        assert energy == pytest.approx(expected.energy[0] / EV_PER_HARTREE, rel=1e-5)
        np.testing.assert_allclose(forces, expected.forces * FORCE, atol=1e-6)
        members = json.loads(extras)
        np.testing.assert_allclose(members["committee_pot"], expected.energy_samples[:, 0] / EV_PER_HARTREE, rtol=1e-5)
        flat = expected.forces_samples.reshape(3, -1)
        np.testing.assert_allclose(members["committee_force"], flat * FORCE, atol=1e-6)
        if atoms.pbc.any():
            assert expected.stress is not None
            np.testing.assert_allclose(virial, -expected.stress[0] * each.get_volume() / EV_PER_HARTREE, atol=1e-6)
        np.testing.assert_allclose(np.mean(members["committee_virial"], axis=0), virial.reshape(-1), atol=1e-12)
        for one, other in zip(of_batch[:3], (energy, forces, virial), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)
        for name, values in json.loads(of_batch[3]).items():
            np.testing.assert_allclose(values, members[name], atol=1e-6)


@pytest.mark.filterwarnings("ignore::bnn_jax.properties.averages.FewFramesWarning")
def test_fifty_steps_and_their_reweighting(tmp_path):
    """Of i-PI itself: energy is conserved, forces are the calculator's, the committee can be reweighted."""
    atoms = systems.water()
    posterior = case(atoms, tmp_path)
    posterior.save(tmp_path / "posterior.safetensors")
    path = subprocess.run(
        [sys.executable, "-m", "bnn_jax.engines.path", "ipi"], capture_output=True, text=True, check=True
    )
    placed = atoms.copy()
    placed.set_cell([20.0] * 3)
    lines = [str(len(atoms)), "# CELL(abcABC): 20 20 20 90 90 90 cell{angstrom} positions{angstrom}"]
    lines += [
        f"{symbol} {x:.10f} {y:.10f} {z:.10f}" for symbol, (x, y, z) in zip(atoms.symbols, atoms.positions, strict=True)
    ]
    (tmp_path / "init.xyz").write_text("\n".join(lines) + "\n")
    text = INPUT.replace("DRIVER", path.stdout.strip()).replace("RUN", str(tmp_path / "posterior.safetensors"))
    (tmp_path / "input.xml").write_text(text.replace("STEPS", "50"))
    programs = Path(sys.executable).parent
    done = subprocess.run([programs / "i-pi", "input.xml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    rows = np.loadtxt(tmp_path / "run.out")
    assert len(rows) == 51 and np.ptp(rows[:, 2]) < 0.02 * np.ptp(rows[:, 1] * EV_PER_HARTREE)
    frames = ase.io.read(tmp_path / "run.pos_0.xyz", ":", format="xyz")
    forces = ase.io.read(tmp_path / "run.frc_0.xyz", ":", format="xyz")
    bare = ase.Atoms(atoms.numbers, frames[-1].positions)
    bare.calc = BNNCalculator(posterior)
    np.testing.assert_allclose(forces[-1].positions / FORCE, bare.get_forces(), atol=1e-5)
    members = np.loadtxt(tmp_path / "run.pots_0")
    assert members.shape == (51, 3)
    wanted = posterior.predict(bare).energy_samples[:, 0] / EV_PER_HARTREE
    np.testing.assert_allclose(members[-1], wanted, rtol=1e-5, atol=1e-6)  # single precision, of parts that cancel
    lengths = np.linalg.norm([frame.positions[0] - frame.positions[1] for frame in frames], axis=1)
    np.savetxt(tmp_path / "property.dat", lengths)
    kelvin = 300.0
    thermal = str(kelvin * BOLTZMANN_EV_PER_KELVIN / EV_PER_HARTREE)
    for flags, method in (([], "cumulants"), (["--direct"], "weights")):
        command = [programs / "i-pi-committee-reweight", "run.pots_0", "property.dat", "--kt", thermal, *flags]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        of_members = [float(word) for word in done.stdout.splitlines()[-1].split()][2:]
        bare_frames = [ase.Atoms(atoms.numbers, frame.positions) for frame in frames]
        ours = ensemble_average(posterior, bare_frames, lengths, kelvin, method).value.draws
        assert np.ptp(ours) > 1e-4
        np.testing.assert_allclose(of_members, ours, atol=1e-5)
