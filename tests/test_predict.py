"""Promise 5 of predictions: chunks, batches and vmap equal the plain loop; and the statistics of the mixture."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bnn_jax import predict as module
from bnn_jax.atoms import Dataset, pack
from bnn_jax.atoms.statistics import Statistics
from bnn_jax.predict import build_predictor, every_sample, predict, spread
from bnn_jax.types import InputError, Params, Predictive
from tests import systems
from tests.properties.networks import CUTOFF, SPECIES, Network, evaluate, network

pytestmark = pytest.mark.usefixtures("x64")

NUM_SAMPLES = 5
SHIFTS = -1000.0 * np.arange(1.0, len(SPECIES) + 1) - 1 / 3
STATISTICS = Statistics(SPECIES, SHIFTS, 1.0, 1.0)


def samples_of(net: Network) -> Params:
    """Weights moved a little, differently in each sample."""

    def stacked(leaf):
        rng = np.random.default_rng(leaf.size)
        return jnp.stack([leaf + 0.1 * rng.normal(size=leaf.shape) for _ in range(NUM_SAMPLES)])

    return jax.tree.map(stacked, net.params)


def sample(samples: Params, index: int) -> Params:
    return jax.tree.map(lambda leaf: leaf[index], samples)


def structures() -> list:
    molecules = [systems.rattled(systems.ethanol(), seed=seed) for seed in range(3)]
    return [*molecules, systems.isolated_atom("O"), systems.rattled(systems.triclinic_crystal()), systems.water()]


def shift_sums(atoms_list: list) -> np.ndarray:
    return np.array([SHIFTS[np.searchsorted(SPECIES, atoms.numbers)].sum() for atoms in atoms_list])


def run(net: Network, atoms_list: list, at_once: int | None = None, samples: Params | None = None) -> Predictive:
    predictor = build_predictor(every_sample(net.apply))
    predictor = predictor if at_once is None else partial(predictor, at_once=at_once)
    samples = samples_of(net) if samples is None else samples
    return predict(predictor, samples, Dataset.from_atoms(atoms_list), STATISTICS, CUTOFF)


@pytest.fixture(scope="module")
def predictive() -> Predictive:
    with jax.enable_x64(True):
        return run(network("l_max 0"), structures())


def assert_same(first: Predictive, second: Predictive) -> None:
    for name, value in second._asdict().items():
        if value is None:
            assert getattr(first, name) is None
        else:
            assert_allclose(getattr(first, name), value, rtol=1e-10, atol=1e-11, err_msg=name)


def test_vmapped_samples_equal_the_loop_over_samples(predictive: Predictive) -> None:
    net = network("l_max 0")
    samples = samples_of(net)
    for index in range(NUM_SAMPLES):
        results = evaluate(net._replace(params=sample(samples, index)), structures())
        energy = np.array([result.energy for result in results]) + shift_sums(structures())
        assert_allclose(predictive.energy_samples[index], energy, rtol=1e-14)
        forces = np.concatenate([result.forces for result in results])
        assert_allclose(predictive.forces_samples[index], forces, atol=1e-11)
        stds = np.concatenate([result.forces_std for result in results])
        assert_allclose(predictive.forces_std_samples[index], stds, rtol=1e-10)
        assert_allclose(predictive.energy_std_samples[index], [result.energy_std for result in results], rtol=1e-10)


@pytest.mark.parametrize("at_once", [1, 3, NUM_SAMPLES])
def test_samples_at_once_do_not_matter(predictive: Predictive, at_once: int) -> None:
    assert_same(run(network("l_max 0"), structures(), at_once), predictive)


@pytest.mark.parametrize("edges_per_batch", [1, 100])
def test_batches_do_not_matter(predictive: Predictive, edges_per_batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EDGES_PER_BATCH", edges_per_batch)
    assert_same(run(network("l_max 0"), structures()), predictive)


def test_mixture_moments(predictive: Predictive) -> None:
    """Law of total variance, written out."""
    p = predictive
    assert p.energy.dtype == np.float64
    assert_allclose(p.energy, p.energy_samples.mean(axis=0), rtol=1e-15)
    assert_allclose(p.forces, p.forces_samples.mean(axis=0), rtol=1e-12)
    assert_allclose(p.energy_std_aleatoric**2, np.mean(p.energy_std_samples**2, axis=0), rtol=1e-12)
    assert_allclose(p.forces_std_aleatoric**2, np.mean(p.forces_std_samples**2, axis=0), rtol=1e-12)
    deviations = p.forces_samples - p.forces_samples.mean(axis=0)
    assert_allclose(p.forces_std_epistemic**2, np.sum(deviations**2, axis=0) / (NUM_SAMPLES - 1), rtol=1e-12)
    above = p.energy_samples - shift_sums(structures())
    # The shifts of 1e4 eV cost these numbers four of sixteen digits.
    assert_allclose(p.energy_std_epistemic, above.std(axis=0, ddof=1), rtol=1e-8, atol=1e-11)
    assert_allclose(p.energy_std**2, p.energy_std_aleatoric**2 + p.energy_std_epistemic**2, rtol=1e-12)
    assert_allclose(p.forces_std**2, p.forces_std_aleatoric[:, None] ** 2 + p.forces_std_epistemic**2, rtol=1e-12)
    assert_array_equal(p.num_atoms, [len(atoms) for atoms in structures()])
    assert p.forces.shape == (sum(p.num_atoms), 3)
    assert p.forces_std_epistemic.max() > 1e-3


def test_an_isolated_atom_has_exactly_its_shift(predictive: Predictive) -> None:
    assert predictive.energy[3] == SHIFTS[SPECIES.index(8)]
    assert predictive.energy_std_epistemic[3] == 0
    assert_array_equal(predictive.forces[27], 0)


def test_stress_is_given_where_every_structure_has_a_cell(predictive: Predictive) -> None:
    assert predictive.stress is None and predictive.stress_std_epistemic is None
    net, crystals = network("l_max 0"), [systems.rattled(systems.triclinic_crystal(), seed=seed) for seed in range(2)]
    result = run(net, crystals)
    samples = samples_of(net)
    stress = np.array(
        [
            [part.stress for part in evaluate(net._replace(params=sample(samples, index)), crystals)]
            for index in range(NUM_SAMPLES)
        ]
    )
    assert_allclose(result.stress, stress.mean(axis=0), atol=1e-12)
    assert_allclose(result.stress_std_epistemic, stress.std(axis=0, ddof=1), atol=1e-12)


def test_identical_samples_have_no_spread_and_one_sample_none_to_tell() -> None:
    net = network("l_max 0")
    for copies in (1, 3):
        same = jax.tree.map(lambda leaf, n=copies: jnp.stack([leaf] * n), net.params)
        result = run(net, structures()[-1:], samples=same)
        assert_allclose(result.forces_std_epistemic, 0, atol=1e-14)
        assert_allclose(result.energy_std_epistemic, 0, atol=1e-14)
        assert_allclose(result.forces_std, np.tile(result.forces_std_aleatoric[:, None], 3), rtol=1e-14)


def test_single_precision_keeps_small_differences_of_large_energies() -> None:
    """Shifts are added on the host in double precision: 1e4 eV in float32 would resolve 1 meV."""
    net = network("l_max 0")
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), samples_of(net))
    result, exact = run(net, structures(), samples=single), run(net, structures())
    # Above the shifts an energy is below 10 eV, of which float32 keeps 1e-6 eV an operation.
    assert_allclose(result.energy, exact.energy, rtol=0, atol=2e-5)
    assert np.abs(exact.energy).max() > 1e4


def test_an_unknown_element_is_refused() -> None:
    gold = systems.dimer("Au2")
    with pytest.raises(InputError, match=r"Structure 1 holds Au, which the potential does not know \(it knows H, C"):
        run(network("l_max 0"), [systems.water(), gold])


def test_a_structure_too_large_for_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EDGES_PER_BATCH", 1)
    monkeypatch.setattr("bnn_jax.memory.available_memory", lambda: 1000)
    with pytest.raises(InputError, match=r"memory for 1000 bytes and a prediction with \d+ pairs of neighbours needs"):
        run(network("l_max 0"), [systems.ethanol()])


@pytest.mark.parametrize(("free_bytes", "at_once"), [(800, 8), (799, 4), (300, 2), (100, 1)])
def test_as_many_samples_at_once_as_the_memory_holds(monkeypatch, free_bytes: int, at_once: int) -> None:
    """On a device that has eight samples of 100 bytes each to compute."""

    class Lowered:
        def lower(self, *_, at_once):
            return 100 * at_once

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(module, "peak_bytes", lambda num_bytes: num_bytes)
    monkeypatch.setattr(module, "available_memory", lambda: free_bytes)
    monkeypatch.setattr("bnn_jax.memory.available_memory", lambda: free_bytes)
    packed = pack(Dataset.from_atoms([systems.water()]), CUTOFF, SPECIES, SHIFTS)
    fitting = partial(module.samples_that_fit, Lowered(), jnp.zeros(8), packed, np.zeros(1, int), (8, 8))
    assert fitting() == at_once
    free_bytes = 99
    with pytest.raises(InputError, match="take a smaller structure"):
        fitting()


def spread_over_devices(path: str) -> None:
    """What another process, which has several devices, predicts: all samples at once, then fewer than devices."""
    net = network("l_max 0")
    samples = samples_of(net)
    for count, used in ((NUM_SAMPLES, 5), (4, 4), (3, 3)):
        part = spread(jax.tree.map(lambda leaf, count=count: leaf[:count], samples))
        assert len(jax.tree.leaves(part)[0].sharding.device_set) == used
        predictive = run(net, structures(), samples=part)
        np.savez(f"{path}-{count}.npz", **{k: v for k, v in predictive._asdict().items() if v is not None})


def test_samples_spread_over_devices_predict_the_same(tmp_path) -> None:
    command = """
import sys, jax
jax.config.update("jax_enable_x64", True)
from tests import test_predict
assert len(jax.devices()) == 6
test_predict.spread_over_devices(sys.argv[1])
"""
    variables = os.environ | {"JAX_NUM_CPU_DEVICES": "6", "JAX_PLATFORMS": "cpu"}
    root, path = Path(__file__).parents[1], tmp_path / "predictive"
    subprocess.run([sys.executable, "-c", command, str(path)], cwd=root, env=variables, check=True)
    net = network("l_max 0")
    for count in (NUM_SAMPLES, 4, 3):
        here = run(net, structures(), samples=jax.tree.map(lambda leaf, count=count: leaf[:count], samples_of(net)))
        with np.load(f"{path}-{count}.npz") as elsewhere:
            for name, value in elsewhere.items():
                assert_allclose(value, getattr(here, name), rtol=1e-10, atol=1e-11, err_msg=name)
