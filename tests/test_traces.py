"""Promise 4: one compilation per shape, and few shapes: padded sizes come from a short ladder."""

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnn_jax.atoms import Dataset, size_ladder
from bnn_jax.atoms.statistics import compute
from bnn_jax.config import Config
from bnn_jax.methods import sghmc
from bnn_jax.predict import build_predictor, predict
from bnn_jax.sampling import chain
from bnn_jax.types import Prediction
from tests import systems

CUTOFF = 3.0


def cheap_apply(params, graph) -> Prediction:
    """Compiles at once; shapes are those of a potential."""
    num_atoms, num_structures = len(graph.nodes["species"]), len(graph.n_node)
    return Prediction(
        energy=params * jnp.ones(num_structures),
        forces=params * graph.nodes["positions"],
        stress=None,
        energy_std=jnp.ones(num_structures),
        forces_std=jnp.ones(num_atoms),
        atom_energies=jnp.ones(num_atoms),
        features=None,
    )


def mixed_list(length: int) -> list[ase.Atoms]:
    kinds = [systems.water(), systems.ethanol(), systems.ammonia()]
    return [kinds[i % 3] for i in range(length)]


def test_predictor_compiles_once_per_rung() -> None:
    everything = Dataset.from_atoms(mixed_list(3))
    statistics = compute(everything, CUTOFF)
    predictor, samples = build_predictor(cheap_apply), jnp.arange(3.0)
    lengths = range(1, 61)
    for length in lengths:
        dataset = Dataset.from_atoms(mixed_list(length))
        predictive = predict(predictor, samples, dataset, statistics, CUTOFF)
        np.testing.assert_allclose(predictive.forces, dataset.positions, rtol=1e-6)
    # Nodes, edges and structures each climb their rungs once (from 8 on there are eight to an octave), and the arrays
    # of the data set double at most once an octave each.
    atoms, edges = len(Dataset.from_atoms(mixed_list(60)).numbers), 60 * 72
    rungs = [len({size_ladder(size) for size in range(1, top)}) for top in (atoms, edges, 60)]
    assert predictor._cache_size() <= sum(rungs) + 3 * 13
    assert predictor._cache_size() < len(lengths)

    before = predictor._cache_size()
    for length in lengths:
        predict(predictor, samples, Dataset.from_atoms(mixed_list(length)), statistics, CUTOFF)
    assert predictor._cache_size() == before


@pytest.mark.parametrize("kind", ["same molecule", "other molecule of the same size"])
def test_neighbouring_lengths_share_a_compilation(kind: str) -> None:
    statistics = compute(Dataset.from_atoms(mixed_list(3)), CUTOFF)
    predictor, samples = build_predictor(cheap_apply), jnp.arange(3.0)
    for length in (121, 127) if kind == "same molecule" else (127, 127):
        structures = [systems.rattled(systems.water(), 0.01, seed) for seed in range(length)]
        predict(predictor, samples, Dataset.from_atoms(structures), statistics, CUTOFF)
    assert predictor._cache_size() == 1


def test_a_run_compiles_its_chunk_and_its_validation_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over minibatches of mixed sizes, chunks of all lengths, samples and the log."""
    chunks, validations, build_chunk, valid_error = [], [], chain.build_chunk, sghmc._valid_error
    monkeypatch.setattr(chain, "build_chunk", lambda *args: chunks.append(build_chunk(*args)) or chunks[-1])

    def counted(valid, config, statistics):
        evaluate = valid_error(valid, config, statistics)
        validations.append(next(cell.cell_contents for cell in evaluate.__closure__ if hasattr(cell.cell_contents, "_cache_size")))
        return evaluate

    monkeypatch.setattr(sghmc, "_valid_error", counted)
    model = {"num_blocks": 1, "num_features": 2, "l_max": 0, "radial_hidden": [4], "std_hidden": [], "cutoff": CUTOFF}
    sampler = {"convergence_steps": 20, "cycle_steps": 7, "num_samples": 3, "batch_size": 2, "log_every": 6}
    config = Config.from_dict({"model": model, "sampler": sampler})
    train = [systems.labelled(atoms) for atoms in mixed_list(5)]
    valid = [systems.labelled(atoms) for atoms in mixed_list(3)]
    posterior = sghmc.fit(
        jax.random.key(0), Dataset.from_atoms(train), Dataset.from_atoms(valid), config, progress=False
    )
    assert posterior.num_samples == 3
    assert [chunk._cache_size() for chunk in chunks] == [1]
    assert [each._cache_size() for each in validations] == [1]
