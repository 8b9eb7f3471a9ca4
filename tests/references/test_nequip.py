"""The plain e3nn-jax NequIP against the PyTorch original, with the original's weights.

``data/nequip_0_19.npz`` holds a four-block model of mir-group/nequip 0.19.1 (PyTorch 2.13.0, e3nn 0.6.0, float64) with
random weights, and its energies and forces of two displaced ethanol molecules;
``benchmarks/peers/write_reference.py`` wrote it.
"""

import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from references.nequip_weights import plain_params

from benchmarks.peers import plain_e3nn, systems
from bnn_jax.config import Config, ModelConfig

REFERENCE = Path(__file__).parent / "data" / "nequip_0_19.npz"


@pytest.fixture
def reference() -> dict[str, np.ndarray]:
    with np.load(REFERENCE) as arrays:
        return dict(arrays)


def build_evaluate(arrays: dict[str, np.ndarray]) -> Callable[[dict], tuple[np.ndarray, np.ndarray]]:
    """Energies and forces of the plain NequIP with the reference's graph, as a function of nequip's weights."""
    config = Config.from_dict({"model": json.loads(str(arrays["config"]))}).model
    graph = [arrays[key] for key in ("species", "positions", "senders", "receivers", "structure_index")]
    apply = jax.jit(plain_e3nn.build(config)[1], static_argnums=6)

    def evaluate(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        energy, forces = apply(plain_params(arrays, config), *graph, int(arrays["num_structures"]))
        return np.asarray(energy), np.asarray(forces)

    return evaluate


@pytest.mark.usefixtures("x64")
def test_plain_nequip_equals_the_original(reference: dict[str, np.ndarray]) -> None:
    evaluate = build_evaluate(reference)
    energy, forces = evaluate(reference)
    np.testing.assert_allclose(energy, reference["energy"], rtol=1e-9)
    np.testing.assert_allclose(forces, reference["forces"], atol=1e-9 * np.abs(reference["forces"]).max())

    # No weight was left out of the conversion: each, perturbed as a whole, changes the energy.
    for key in [key for key in reference if key.startswith("weight:")]:
        perturbed, _ = evaluate(reference | {key: 1.1 * reference[key]})
        assert np.abs(perturbed / energy - 1).max() > 1e-6, key


def test_ethanol_batch_has_every_pair_within_five_angstrom() -> None:
    batch = systems.displaced_batch(num_structures=3, cutoff=5.0)
    assert batch.avg_num_neighbors == 8
    assert batch.num_structures == 3
    assert (batch.structure_index[batch.senders] == batch.structure_index[batch.receivers]).all()
    assert (np.asarray(systems.SPECIES)[batch.species[:9]] == systems.displaced_structures(1)[0].numbers).all()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ModelConfig(layer_norm=True, species=(1,)), "has no layer norm; set layer_norm to False"),
        (ModelConfig(), "needs the atomic numbers it shall know; set species"),
    ],
)
def test_plain_nequip_refuses_what_it_cannot_build(config: ModelConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plain_e3nn.build(config)


@pytest.mark.slow
def test_training_step_lowers_the_loss() -> None:
    batch = systems.displaced_batch(num_structures=2, cutoff=5.0)
    config = ModelConfig(num_blocks=2, num_features=4, radial_hidden=(8,), species=systems.SPECIES)
    init, step = plain_e3nn.build_step(config)
    batch = batch.single_precision()
    state, first = step(init(jax.random.key(0)), batch)
    for _ in range(20):
        state, last = step(state, batch)
    assert last < first
