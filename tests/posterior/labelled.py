"""A mixed labelled data set, and predictions of it that need no network."""

import functools

import ase
import jax
import jax.numpy as jnp
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator

from bnn_jax.atoms import Dataset, PackedData, gather_batch, pack
from bnn_jax.types import Batch, Prediction
from tests import systems

SPECIES = (1, 7, 8, 11, 17)
NUM_NODES, NUM_EDGES = 32, 128


def with_labels(atoms: ase.Atoms, seed: int, names: tuple[str, ...]) -> ase.Atoms:
    rng = np.random.default_rng(seed)
    values = {"energy": rng.normal(), "forces": rng.normal(size=(len(atoms), 3)), "stress": 0.01 * rng.normal(size=6)}
    atoms.calc = SinglePointCalculator(atoms, **{name: values[name] for name in names})
    return atoms


def structures() -> list[ase.Atoms]:
    partly = with_labels(systems.water(), 3, ("energy", "forces"))
    partly.set_array("forces_mask", np.array([True, False, True]))
    return [
        with_labels(systems.water(), 0, ("energy", "forces")),
        with_labels(systems.ammonia(), 1, ("energy",)),
        with_labels(systems.dimer(), 2, ("forces",)),
        partly,
        with_labels(systems.triclinic_crystal(), 4, ("energy", "forces", "stress")),
        with_labels(systems.triclinic_crystal(), 5, ("stress",)),
    ]


@functools.cache
def packed_data() -> PackedData:
    return pack(Dataset.from_atoms(structures()), 3.0, SPECIES, np.zeros(len(SPECIES)), np.float64)


def batch_of(indices: np.ndarray) -> Batch:
    return gather_batch(packed_data(), indices, NUM_NODES, NUM_EDGES)


def random_prediction(num_structures: int, seed: int = 0) -> Prediction:
    """Without meaning, padding included, to test what is done with it."""
    rng = np.random.default_rng(seed)
    stress = 0.01 * rng.normal(size=(num_structures, 3, 3))
    prediction = Prediction(
        energy=rng.normal(size=num_structures),
        forces=rng.normal(size=(NUM_NODES, 3)),
        stress=stress + stress.swapaxes(1, 2),
        energy_std=rng.uniform(0.5, 2, size=num_structures),
        forces_std=rng.uniform(0.5, 2, size=NUM_NODES),
        atom_energies=rng.normal(size=NUM_NODES),
        features=None,
    )
    return jax.tree.map(jnp.asarray, prediction)
