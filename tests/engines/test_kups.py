"""The command of kUPS moves atoms with the posterior's forces, and conserves energy."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
import systems
from posteriors import random_posterior

from bnn_jax import InputError
from bnn_jax.engines.kups_file import write_file

pytestmark = pytest.mark.skipif(find_spec("kups") is None, reason="kUPS is not installed, or Python is older than 3.12")
NUM_STEPS = 50


def moved(folder: Path, start: ase.Atoms) -> dict[str, np.ndarray]:
    """What ``kups_md`` leaves of a run at constant energy."""
    import h5py
    import hdf5plugin  # noqa: F401  # the compression that it writes with

    ase.io.write(folder / "start.cif", start)
    config = {
        "run": {"out_file": "out.h5", "num_steps": NUM_STEPS, "num_warmup_steps": 0, "seed": 1},
        "md": {
            "temperature": 300, "time_step": 0.5, "friction_coefficient": 0.01, "thermostat_time_constant": 100,
            "target_pressure": 0, "pressure_coupling_time": 1000, "compressibility": 1e-10,
            "minimum_scale_factor": 0.9, "integrator": "verlet", "initialize_momenta": True,
        },
        "potential": {"backend": "tojax", "model_path": "posterior.zip"},
        "inp_files": ["start.cif"],
    }  # fmt: skip
    (folder / "md.yaml").write_text(json.dumps(config))  # which is YAML too
    command = [Path(sys.executable).with_name("kups_md"), "md.yaml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    with h5py.File(folder / "out.h5") as file:
        steps = file["group.step"]
        names = {"positions": "atoms.data.positions", "gradients": "atoms.data.position_gradients"}
        names |= {name: name for name in ("potential_energy", "kinetic_energy", "stress_tensor")}
        return {name: np.asarray(steps[f"array.{key}"]) for name, key in names.items()}


@pytest.mark.parametrize("sample", [None, 1])
def test_kups_moves_atoms_with_the_forces_of_the_calculator(tmp_path, sample):
    atoms = systems.sodium_chloride()
    posterior = random_posterior(systems.labelled_series(atoms, 4), num_blocks=2)
    write_file(posterior, tmp_path / "posterior.zip", sample)
    chosen = posterior.predictor if sample is None else posterior.predictor.of_sample(sample)
    start = systems.rattled(atoms, 3)
    found = moved(tmp_path, start)
    there = [ase.Atoms(start.numbers, positions, cell=start.cell, pbc=True) for positions in found["positions"]]
    expected = chosen.predict(there)
    shifts = sum(posterior.statistics.shifts[posterior.statistics.species.index(n)] for n in atoms.numbers)
    rounding = 2e-6 * np.abs(expected.forces).max()  # 14 eV/Angstrom, in single precision
    np.testing.assert_allclose(-found["gradients"].reshape(-1, 3), expected.forces, rtol=0, atol=rounding)
    np.testing.assert_allclose(found["potential_energy"][:, 0], expected.energy - shifts, atol=1e-4)
    total = (found["potential_energy"] + found["kinetic_energy"])[:, 0]
    assert np.ptp(total) < 0.02 * np.ptp(found["kinetic_energy"])


def test_an_unknown_sample_is_refused(tmp_path):
    posterior = random_posterior(systems.labelled_series(systems.water(), 4))
    with pytest.raises(InputError, match="no sample 7"):
        write_file(posterior, tmp_path / "posterior.zip", 7)
    assert not list(tmp_path.iterdir())
