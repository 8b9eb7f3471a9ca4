"""The command of kUPS moves atoms with the posterior's forces, and conserves energy."""

import json
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import ase
import ase.io
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import systems
from posteriors import random_posterior

from bnn_jax import InputError
from bnn_jax.atoms.neighbors import neighbor_list
from bnn_jax.engines.kups_file import write_file

needs_kups = pytest.mark.skipif(find_spec("kups") is None, reason="kUPS is not installed, or Python is older than 3.12")
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


def arguments(structures: list[ase.Atoms], cutoff: float, padding: int) -> dict[str, np.ndarray]:
    """As kUPS calls the program: a last atom and system of padding, edges there, and both ways of each pair."""
    starts = np.cumsum([0, *map(len, structures)])
    edges, shifts = [np.full((2, padding), starts[-1])], [np.zeros((padding, 3))]
    for first, atoms in zip(starts, structures, strict=False):
        senders, receivers, images = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
        edges.append(first + np.stack([receivers, senders]))
        shifts.append(images)
    order = np.random.default_rng(0).permutation(sum(len(each) for each in shifts))
    number, whole = len(structures) + 1, np.concatenate
    return {
        "pos": whole([*(atoms.positions for atoms in structures), np.zeros((1, 3))]).astype(np.float64),
        "atomic_numbers": whole([*(atoms.numbers for atoms in structures), [0]]).astype(np.int32),
        "batch": np.repeat(np.arange(number), [*map(len, structures), 1]).astype(np.int32),
        "cell": np.stack([*(atoms.cell.array for atoms in structures), np.zeros((3, 3))]).astype(np.float64),
        "pbc": np.ones((number, 3), bool),
        "edge_index": whole(edges, axis=1)[:, order].astype(np.int32),
        "cell_offsets": whole(shifts)[order].astype(np.float64),
        "charge": np.zeros(number, np.float64),
        "spin": np.zeros(number, np.float64),
    }


@pytest.mark.usefixtures("x64")
def test_the_program_gives_energies_and_forces_of_the_calculator_whatever_the_order_of_the_edges(tmp_path):
    crystal = systems.sodium_chloride()
    posterior = random_posterior(systems.labelled_series(crystal, 4), num_blocks=2, dtype=jnp.float64)
    path = write_file(posterior, tmp_path / "posterior.zip")
    with zipfile.ZipFile(path) as archive:
        program = jax.export.deserialize(bytearray(archive.read("model.jax")))
    params = [jnp.asarray(leaf) for leaf in jax.tree.leaves(posterior.samples)]
    small = crystal.copy()
    small.set_cell(0.7 * crystal.cell.array, scale_atoms=True)  # atoms see their own images
    structures = [systems.rattled(crystal, 3), small]
    data = arguments(structures, posterior.config.model.cutoff, padding=7)

    def total(positions):
        found = program.call(params, data | {"pos": positions})
        return found[:-1].sum(), found

    (_, energies), gradient = jax.value_and_grad(total, has_aux=True)(data["pos"])
    expected = posterior.predict(structures)
    shifts = [posterior.statistics.shifts[np.searchsorted(posterior.statistics.species, a.numbers)] for a in structures]
    np.testing.assert_allclose(-gradient[:-1], expected.forces, atol=1e-9)
    np.testing.assert_allclose(energies[:-1], expected.energy - np.sum(shifts, axis=1), atol=1e-9)
    data["atomic_numbers"][-2] = 92
    assert np.isnan(program.call(params, data)).tolist() == [False, True, False]


@needs_kups
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
