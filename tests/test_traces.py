"""Promise 4: one compilation per shape, and few shapes: padded sizes come from a short ladder."""

from collections.abc import Iterator

import ase
import jax
import jax.monitoring
import jax.numpy as jnp
import jraph
import numpy as np
import pytest

import bnn_jax
from bnn_jax.atoms import Dataset
from bnn_jax.atoms.statistics import compute
from bnn_jax.config import Config
from bnn_jax.methods import sghmc
from bnn_jax.predict import EDGES_PER_BATCH, build_predictor, every_sample, predict
from bnn_jax.types import Prediction
from tests import systems

CUTOFF = 3.0


def cheap_apply(params, graph) -> Prediction:
    """Compiles at once; shapes are those of a potential."""
    num_atoms, num_structures = len(graph.nodes["species"]), len(graph.n_node)
    return Prediction(
        energy=params * jnp.ones(num_structures),
        forces=params * graph.nodes["species"][:, None] * jnp.ones(3),
        stress=None,
        energy_std=jnp.ones(num_structures),
        forces_std=jnp.ones(num_atoms),
        atom_energies=jnp.ones(num_atoms),
        features=None,
    )


def fresh_predictor():
    """One that shares nothing: a function of its own, compiled for no shape yet."""
    return build_predictor(every_sample(lambda params, graph: cheap_apply(params, graph)))


def mixed_list(length: int) -> list[ase.Atoms]:
    kinds = [systems.water(), systems.ethanol(), systems.ammonia()]
    return [kinds[i % 3] for i in range(length)]


def test_lists_of_all_lengths_share_few_compilations() -> None:
    """Structures, atoms and edges double at most once an octave each, from eight on."""
    statistics = compute(Dataset.from_atoms(mixed_list(3)), CUTOFF)
    predictor, samples = fresh_predictor(), jnp.arange(3.0)
    lengths = [*range(1, 17), 25, 30, 35, 40]
    for length in lengths:
        dataset = Dataset.from_atoms(mixed_list(length))
        predictive = predict(predictor, samples, dataset, statistics, CUTOFF)
        species = np.searchsorted(statistics.species, dataset.numbers)
        np.testing.assert_allclose(predictive.forces, np.tile(species[:, None], 3))  # the mean of 0, 1 and 2 is 1
    largest = len(dataset), len(dataset.numbers) + 1, 40 * 72
    assert predictor._cache_size() <= sum(np.ceil(np.log2(size / 8)) + 1 for size in largest)

    before = predictor._cache_size()
    for length in lengths:
        predict(predictor, samples, Dataset.from_atoms(mixed_list(length)[::-1]), statistics, CUTOFF)
    assert predictor._cache_size() == before


def num_pairs(dataset: Dataset) -> int:
    return round(compute(dataset[:1], CUTOFF).avg_num_neighbors * dataset.num_atoms[0])


def fake_graph(indices: np.ndarray, num_nodes: int) -> jraph.GraphsTuple:
    nodes = {"species": jnp.zeros(num_nodes, int)}
    empty = jnp.zeros(0, int)
    return jraph.GraphsTuple(nodes, {}, empty, empty, {}, jnp.zeros(len(indices) + 1, int), empty)


def test_long_lists_are_padded_by_an_eighth_at_most() -> None:
    statistics = compute(Dataset.from_atoms(mixed_list(3)), CUTOFF)
    sizes = []

    def record(_samples, _packed, indices, num_nodes, num_edges):
        sizes.append((num_nodes, num_edges))
        return jax.tree.map(lambda leaf: leaf[None], cheap_apply(1.0, fake_graph(indices, num_nodes)))

    dataset = Dataset.from_atoms(300 * [systems.ethanol()])
    predict(record, jnp.ones(1), dataset, statistics, CUTOFF)
    assert len(set(sizes)) == 1 < len(sizes)
    structures = EDGES_PER_BATCH // num_pairs(dataset)
    assert structures * 9 < sizes[0][0] <= 1.125 * (structures * 9 + 1)
    assert structures * num_pairs(dataset) <= sizes[0][1] <= 1.125 * structures * num_pairs(dataset)


def test_neighbouring_lengths_share_a_compilation() -> None:
    statistics = compute(Dataset.from_atoms(mixed_list(3)), CUTOFF)
    predictor, samples = fresh_predictor(), jnp.arange(3.0)
    for length in (122, 123, 127):
        structures = [systems.rattled(systems.water(), 0.01, seed) for seed in range(length)]
        predict(predictor, samples, Dataset.from_atoms(structures), statistics, CUTOFF)
    assert predictor._cache_size() == 1


MODEL = {"num_blocks": 1, "num_features": 2, "l_max": 0, "radial_hidden": [4], "std_hidden": [], "cutoff": CUTOFF}
SAMPLER = {"convergence_steps": 20, "cycle_steps": 7, "num_samples": 3, "batch_size": 2, "log_every": 6}
CONFIG = Config.from_dict({"model": MODEL, "sampler": SAMPLER})


def labelled(length: int, seed: int) -> Dataset:
    rattled = [systems.rattled(atoms, seed=seed + i) for i, atoms in enumerate(mixed_list(length))]
    return Dataset.from_atoms([systems.labelled(atoms) for atoms in rattled])


@pytest.fixture
def programs() -> Iterator[list[str]]:
    """Names of what XLA compiles, or finds in its cache on disk, with nothing compiled before."""
    found = []

    def listen(event: str, _seconds: float, **about: str | int) -> None:
        if event.endswith("backend_compile_duration"):
            found.append(about["fun_name"])

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


def test_a_fit_and_its_calculators_compile_few_programs(programs: list[str]) -> None:
    """Not one for each leaf of the weights, as plain indexing does; nor one for each calculator."""
    posterior = bnn_jax.fit(labelled(5, 0), labelled(3, 5), CONFIG, progress=False)
    assert len(programs) <= 16, programs
    before = len(programs)
    for _ in range(3):
        atoms = systems.water()
        atoms.calc = bnn_jax.BNNCalculator(posterior)
        atoms.get_forces()
    assert len(programs) - before <= 1


def test_a_run_compiles_its_steps_once_and_its_validation_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over minibatches of mixed sizes, chunks of all lengths, samples and the log."""
    applied, nequip = [], sghmc.nequip

    def counting(config):
        potential = nequip(config)
        return potential._replace(apply=lambda *args, **keys: applied.append(None) or potential.apply(*args, **keys))

    monkeypatch.setattr(sghmc, "nequip", counting)
    posterior = sghmc.fit(jax.random.key(0), labelled(5, 0), labelled(3, 5), CONFIG, progress=False)
    assert posterior.num_samples == 3
    # Python reaches the network only when something is traced: twice for the chunk (shapes first), once for validation.
    assert len(applied) <= 3
