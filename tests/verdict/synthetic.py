"""Predictives and labels drawn from laws that are known, of water molecules."""

import dataclasses

import numpy as np
from systems import rattled, water

from bnn_jax import Dataset
from bnn_jax.predictive import combine
from bnn_jax.types import Prediction, Predictive


def waters(number: int) -> Dataset:
    return Dataset.from_atoms([rattled(water(), 0.05, seed) for seed in range(number)])


def predictive_of(dataset: Dataset, forces: np.ndarray, forces_std: np.ndarray, energy_std: float = 0.1) -> Predictive:
    """Of samples' forces [sample, atom, 3] and stds [sample, atom]; the energies of all samples are zero."""
    num_samples, num_atoms, _ = forces.shape
    prediction = Prediction(
        energy=np.zeros((num_samples, len(dataset))),
        forces=forces,
        stress=None,
        energy_std=np.full((num_samples, len(dataset)), energy_std),
        forces_std=forces_std,
        atom_energies=np.zeros((num_samples, num_atoms)),
        features=None,
    )
    return combine(prediction, np.zeros(num_atoms), dataset.num_atoms, ("energy", "forces"))


def drawn(dataset: Dataset, rng: np.random.Generator, num_chains: int, num_samples: int, between: float, within: float):
    """Forces [sample, atom, 3] of chains whose means scatter by ``between``, each sample about them by ``within``."""
    shape = (len(dataset.numbers), 3)
    centres = between * rng.normal(size=(num_chains, 1, *shape))
    return (centres + within * rng.normal(size=(num_chains, num_samples, *shape))).reshape(-1, *shape)


def labelled(dataset: Dataset, predictive: Predictive, rng: np.random.Generator, factor=1.0) -> Dataset:
    """Labels that lie about the predictions by ``factor`` times their stds."""
    forces = predictive.forces + factor * predictive.forces_std * rng.normal(size=predictive.forces.shape)
    energy = predictive.energy + predictive.energy_std * rng.normal(size=predictive.energy.shape)
    return dataclasses.replace(dataset, forces=forces, energy=energy)
