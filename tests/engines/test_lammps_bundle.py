"""The program that LAMMPS runs gives energy and forces of the calculator, from atoms, ghosts and pairs as it packs."""

import base64
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import systems
from posteriors import random_posterior

from bnn_jax import InputError
from bnn_jax.engines.lammps_bundle import num_hops, write_bundle

pytest.importorskip("lammps_jax", reason="lammps-jax is not installed")
ELEMENTS = ("Na", "Cl")
MAX_ATOMS, MAX_PAIRS = 1500, 15_000


@pytest.fixture(scope="module")
def posterior():
    return random_posterior(systems.labelled_series(systems.sodium_chloride(), 4), num_blocks=2)


def packed(atoms, cutoff: float, shell: float):
    """As the plugin packs one process: own atoms, then the images that are nearer to its box than the shell."""
    reach = np.ceil(shell / atoms.cell.lengths()).astype(int)
    images = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), -1).reshape(-1, 3)
    images = images[np.argsort(np.abs(images).sum(axis=1))]  # the box itself first
    scaled = (atoms.get_scaled_positions(wrap=True)[None] + images[:, None]).reshape(-1, 3)
    outside = np.linalg.norm(np.maximum(0, np.maximum(-scaled, scaled - 1)) * atoms.cell.lengths(), axis=1)
    near = (outside < shell) | (np.arange(len(scaled)) < len(atoms))
    positions, owners = scaled[near] @ atoms.cell.array, np.tile(np.arange(len(atoms)), len(images))[near]
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    senders, receivers = np.nonzero(np.triu(distances < cutoff, 1))
    types = np.array([ELEMENTS.index(name) for name in atoms.symbols])[owners]

    def filled(values, length, fill, dtype):
        whole = np.full((length, *np.shape(values)[1:]), fill, dtype)
        whole[: len(values)] = values
        return whole

    arrays = (
        filled(positions, MAX_ATOMS, 0, np.float32),
        filled(types, MAX_ATOMS, 0, np.int32),
        np.int32(len(atoms)),
        np.int32(len(owners) - len(atoms)),
        filled(senders, MAX_PAIRS, MAX_ATOMS, np.int32),
        filled(receivers, MAX_PAIRS, MAX_ATOMS, np.int32),
        filled(np.ones(len(senders), bool), MAX_PAIRS, False, bool),
    )
    return arrays, owners


def executed(path, arrays):
    """Energy and forces by the program in the file, compiled as the plugin does, without what made it."""
    from jaxlib import xla_client

    program = base64.b64decode(json.loads(path.read_text())["programs"]["energy_and_forces_mlir_b64"])
    devices = xla_client.DeviceList((jax.devices()[0],))
    loaded = jax.devices()[0].client.compile_and_load(program, devices, xla_client.CompileOptions())
    energy, forces = loaded.execute([jnp.asarray(each) for each in arrays])
    return float(energy), np.asarray(forces)


@pytest.mark.parametrize("sample", [None, 1])
def test_a_bundle_gives_energy_and_forces_of_the_calculator(tmp_path, posterior, sample):
    path = write_bundle(posterior, tmp_path / "bundle.json", ELEMENTS, MAX_ATOMS, MAX_PAIRS, sample, "cpu")
    contract = json.loads(path.read_text())["contract"]
    assert contract["n_hops"] == num_hops(posterior) == 2 and contract["edge_pairing"] == "half"
    assert contract["unit_style"] == "metal" and contract["cutoff"] == 4.0 and contract["n_species"] == 2
    atoms = systems.rattled(systems.sodium_chloride(), 3)
    chosen = posterior.predictor if sample is None else posterior.predictor.of_sample(sample)
    expected = chosen.predict(atoms)
    shifts = sum(posterior.statistics.shifts[posterior.statistics.species.index(n)] for n in atoms.numbers)
    for shell, is_enough in ((8.0, True), (4.0, False)):
        arrays, owners = packed(atoms, 4.0, shell)
        energy, rows = executed(path, arrays)
        forces = np.zeros((len(atoms), 3))
        np.add.at(forces, owners, rows[: len(owners)])
        assert np.allclose(forces, expected.forces, atol=1e-5) == is_enough
        assert np.isclose(energy, expected.energy[0] - shifts, atol=1e-4) == is_enough


def test_what_cannot_be_written_is_said(tmp_path, posterior):
    path = tmp_path / "bundle.json"
    with pytest.raises(InputError, match="'K' is no element that the potential knows; it knows Na, Cl"):
        write_bundle(posterior, path, ("Na", "K"), 10, 10)
    with pytest.raises(InputError, match="no sample 3"):
        write_bundle(posterior, path, ELEMENTS, 10, 10, 3)
    with pytest.raises(InputError, match="max_atoms is 0 and max_pairs 10"):
        write_bundle(posterior, path, ELEMENTS, 0, 10)
    with pytest.raises(InputError, match="cannot be written"):
        write_bundle(posterior, tmp_path / "none" / "bundle.json", ELEMENTS, 10, 10, platform="cpu")
    assert not path.exists()
