"""An exported predictor gives what its posterior gives, without the model's code, and bad files are refused."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import molecule
from commands import environment
from numpy.testing import assert_allclose
from posteriors import molecular_posterior
from systems import ammonia, rattled, sodium_chloride

from bnn_jax import BNNCalculator, InputError, Posterior, Predictive, load_exported
from bnn_jax import export as module
from bnn_jax.atoms import Dataset, gather_batch, pack
from bnn_jax.cli import main
from bnn_jax.types import Criterion, TrustWarning, Verdict


@pytest.fixture(scope="module")
def posterior() -> Posterior:
    return molecular_posterior(ammonia(), num_samples=5)


@pytest.fixture(scope="module")
def file(posterior, tmp_path_factory) -> Path:
    return posterior.export(tmp_path_factory.mktemp("export") / "ammonia.safetensors")


def assert_same(actual: Predictive, expected: Predictive, atol: float) -> None:
    for name, value in expected._asdict().items():
        if value is None:
            assert getattr(actual, name) is None
        else:
            assert_allclose(getattr(actual, name), value, rtol=1e-5, atol=atol, err_msg=name)


def crowds() -> list[ase.Atoms]:
    """Lists of other numbers of atoms, edges and structures than any that the export has seen."""
    return [molecule("NH3"), *(rattled(ammonia(), seed=seed) for seed in range(11)), ase.Atoms("H"), molecule("N2")]


def test_it_predicts_what_its_posterior_predicts(posterior, file):
    exported = load_exported(file)
    assert exported.num_samples == 5
    for structures in (rattled(ammonia()), crowds()):
        assert_same(exported.predict(structures), posterior.predict(structures), atol=1e-5)


def test_stress_of_crystals_and_crystals_among_molecules(tmp_path):
    posterior = molecular_posterior(sodium_chloride(), num_samples=2)
    exported = load_exported(posterior.export(tmp_path / "salt", platforms=["cpu"]))
    crystal = rattled(sodium_chloride())
    assert exported.predict(crystal).stress is not None
    for structures in ([crystal], [crystal, molecule("NaCl")]):
        assert_same(exported.predict(structures), posterior.predict(structures), atol=1e-5)


def test_double_precision(tmp_path):
    with jax.enable_x64(True):
        posterior = molecular_posterior(ammonia(), dtype=jnp.float64)
        file = posterior.export(tmp_path / "double")
        expected = posterior.predict(crowds())
        actual = load_exported(file).predict(crowds())
        for name in ("forces_samples", "energy_samples", "forces_std"):
            assert_allclose(getattr(actual, name), getattr(expected, name), rtol=1e-12, atol=1e-12)
    with pytest.raises(InputError, match="float64, which this process does not use; set jax_enable_x64"):
        load_exported(file)


@pytest.mark.parametrize("at_once", [1, 2, 3, 5, 9])
def test_chunks_of_samples_do_not_matter(posterior, file, at_once):
    packed = pack(Dataset.from_atoms(crowds()), 4.0, posterior.statistics.species, posterior.statistics.shifts)
    graph = gather_batch(packed, np.arange(len(crowds())), 64, 200).graph
    apply_samples = jax.jit(load_exported(file).apply_samples, static_argnames="at_once")
    samples = load_exported(file).samples
    chunked, whole = (apply_samples(samples, graph, at_once=number) for number in (at_once, None))
    assert chunked.forces.shape == (5, 64, 3)
    assert_allclose(chunked.forces, whole.forces, atol=1e-5)
    assert_allclose(chunked.energy_std, whole.energy_std, rtol=1e-5)


def test_the_calculator_takes_it(posterior, file):
    atoms, again = rattled(ammonia()), rattled(ammonia())
    atoms.calc, again.calc = BNNCalculator(load_exported(file)), BNNCalculator(posterior)
    assert_allclose(atoms.get_forces(), again.get_forces(), atol=1e-5)
    assert atoms.calc.get_property("energy_std") == pytest.approx(again.calc.get_property("energy_std"), rel=1e-5)


def test_a_verdict_goes_along(posterior, tmp_path):
    verdict = Verdict(False, "Do not trust it.", ("It is random.",), *3 * [Criterion(None, "Who knows.", "", {})])
    exported = load_exported(dataclasses.replace(posterior, verdict=verdict).export(tmp_path / "file"))
    assert exported.verdict == verdict
    with pytest.warns(TrustWarning, match="Do not trust it"):
        BNNCalculator(exported)


def test_neither_the_model_nor_the_methods_are_imported(file, posterior, tmp_path):
    command = """
import sys, numpy as np, ase.build, bnn_jax
predictive = bnn_jax.load_exported(sys.argv[1]).predict(ase.build.molecule("NH3"))
loaded = [name for name in sys.modules if name.startswith(("bnn_jax.model", "bnn_jax.methods", "flax", "e3nn_jax"))]
assert not loaded, loaded
np.save(sys.argv[2], predictive.forces)
"""
    out = tmp_path / "forces.npy"
    subprocess.run([sys.executable, "-c", command, str(file), str(out)], check=True, env=environment())
    assert_allclose(np.load(out), posterior.predict(molecule("NH3")).forces, atol=1e-5)


def test_plain_jax_can_run_the_program(file, posterior):
    """As the module's head describes the file, with nothing of this package but the neighbour list's conventions."""
    import safetensors.numpy

    arrays = safetensors.numpy.load_file(file)
    program = jax.export.deserialize(bytearray(arrays.pop("['program']").tobytes()))
    samples = {name.split("'")[3]: array for name, array in arrays.items()}
    ends = np.array([[0, 1], [1, 0], [0, 2], [2, 0], [0, 3], [3, 0], [1, 2], [2, 1], [1, 3], [3, 1], [2, 3], [3, 2]])
    graph = {
        "positions": np.concatenate([ammonia().positions, np.zeros((1, 3))]).astype(np.float32),
        "species": np.array([1, 0, 0, 0, 0], np.int32),
        "senders": ends[:, 0].astype(np.int32),
        "receivers": ends[:, 1].astype(np.int32),
        "shifts": np.zeros((12, 3), np.float32),
        "cell": np.zeros((2, 3, 3), np.float32),
        "n_node": np.array([4, 1], np.int32),
        "n_edge": np.array([12, 0], np.int32),
    }
    forces = np.asarray(program.call(samples, graph)["forces"])[:, :4]
    assert_allclose(forces, posterior.predict(ammonia()).forces_samples, atol=1e-5)


def test_the_command_line_exports_and_predicts(posterior, tmp_path, capsys):
    run, out, structures = posterior.save(tmp_path / "posterior.safetensors"), tmp_path / "out", tmp_path / "in.xyz"
    structures.write_text("4\n\n" + "\n".join(f"{atom.symbol} {atom.x} {atom.y} {atom.z}" for atom in ammonia()))
    assert main(["export", str(run), str(out)]) == 0
    assert "5 samples" in capsys.readouterr().out
    assert main(["export", str(run), str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    for source, name in ((run, "a.xyz"), (out, "b.xyz")):
        assert main(["predict", str(source), str(structures), str(tmp_path / name)]) == 0
    first, second = (ase.io.read(tmp_path / name) for name in ("a.xyz", "b.xyz"))
    assert isinstance(first, ase.Atoms) and isinstance(second, ase.Atoms)
    assert_allclose(first.get_forces(), second.get_forces(), atol=1e-5)


def test_bad_files_and_platforms_get_a_sentence(posterior, file, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no platform 'metal'; choose among cpu, cuda, tpu"):
        posterior.export(tmp_path / "out", platforms=["metal"])
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="There is no file"):
        load_exported(tmp_path / "none")
    with pytest.raises(InputError, match="format '3', not 'predictor 2'; export it again, or load a posterior"):
        load_exported(posterior.save(tmp_path / "posterior"))
    with pytest.raises(InputError, match="posterior format 'predictor 2'"):
        Posterior.load(file)
    content = file.read_bytes()
    for position in np.linspace(8, len(content) - 1, 20).astype(int):
        flipped = bytes([content[position] ^ 1])
        (tmp_path / "damaged").write_bytes(content[:position] + flipped + content[position + 1 :])
        with pytest.raises(InputError):
            load_exported(tmp_path / "damaged")
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with pytest.raises(InputError, match="was exported for cpu, cuda and JAX computes on tpu"):
        load_exported(posterior.export(tmp_path / "no-tpu", platforms=["cpu", "cuda"]))


def test_a_program_that_calls_the_host_is_refused(posterior, tmp_path):
    """Here LAPACK, harmless in itself; what a name stands for on another machine no file can tell."""

    def with_lapack(params, graph):
        inverse = jnp.linalg.inv(jnp.eye(3) + graph.nodes["positions"].sum())
        return posterior.potential.apply(params, graph)._replace(
            energy=jnp.trace(inverse) * jnp.ones(graph.n_node.shape)
        )

    module.export(with_lapack, posterior.predictor, tmp_path / "file", ["cpu"])
    with pytest.raises(InputError, match=r"calls lapack\w+ of the host; export"):
        load_exported(tmp_path / "file")
