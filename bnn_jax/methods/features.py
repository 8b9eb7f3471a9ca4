"""What a trained network says of a data set's atoms beside its prediction: features, derivatives by the last layer."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.graph import batch_size_needed, gather_batch, pack
from bnn_jax.methods.base import Posterior
from bnn_jax.model import nequip, with_readout
from bnn_jax.types import Batch, Params

STRUCTURES_PER_BATCH = 16


def atom_features(trained: Posterior, dataset: Dataset) -> Float[np.ndarray, "atom feature"]:
    """Features that the readout is linear in, in float64.

    Args:
        trained: whose first sample is a network.
        dataset: the structures.
    """
    apply = nequip(trained.config.model).apply
    parts = _over(dataset, trained, lambda params, batch: apply(params, batch.graph).features)
    return np.concatenate([features[:num_atoms] for features, num_atoms in parts]).astype(np.float64)


def readout_gradients(
    trained: Posterior, dataset: Dataset
) -> Iterator[tuple[Float[np.ndarray, "structure feature"], Float[np.ndarray, "component feature"]]]:
    """Derivatives of energies and of force components by the weights of the energy readout, batch by batch.

    Only what has a label is given.

    Args:
        trained: whose first sample is a network.
        dataset: the structures.
    """
    apply = nequip(trained.config.model).apply
    identity = jnp.eye(trained.config.model.num_features)

    def gradients(params: Params, batch: Batch) -> tuple[Array, ...]:
        along = jax.vmap(lambda direction: apply(with_readout(params, direction), batch.graph))(identity)
        return along.energy.T, along.forces.transpose(1, 2, 0), batch.labels.energy_mask, batch.labels.forces_mask

    for (energy, forces, energy_mask, forces_mask), _ in _over(dataset, trained, gradients):
        yield energy[energy_mask], forces[forces_mask].reshape(-1, len(identity))


def _over(dataset: Dataset, trained: Posterior, function: Callable[[Params, Batch], Any]) -> Iterator[tuple[Any, int]]:
    """Results of a pure function for every padded batch, and its number of atoms."""
    params = jax.tree.map(lambda leaf: leaf[0], trained.samples)
    statistics, cutoff = trained.statistics, trained.config.model.cutoff
    packed = pack(dataset, cutoff, statistics.species, statistics.shifts, jax.tree.leaves(params)[0].dtype)
    num_batches = -(-len(dataset) // STRUCTURES_PER_BATCH)
    plan = np.full((num_batches, STRUCTURES_PER_BATCH), -1, np.int32)
    plan.reshape(-1)[: len(dataset)] = np.arange(len(dataset))
    sizes = batch_size_needed(packed, plan)
    on_device = jax.device_put(packed)
    compiled = jax.jit(lambda packed, indices: function(params, gather_batch(packed, indices, *sizes)))
    for indices in plan:
        yield jax.device_get(compiled(on_device, indices)), int(dataset.num_atoms[indices[indices >= 0]].sum())
