"""What a trained network says of a data set's atoms beside its prediction."""

import jax
import numpy as np
from jaxtyping import Float

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.graph import batch_size_needed, gather_batch, pack
from bnn_jax.methods.base import Posterior
from bnn_jax.model import nequip

STRUCTURES_PER_BATCH = 16


def atom_features(trained: Posterior, dataset: Dataset) -> Float[np.ndarray, "atom feature"]:
    """Features that the readout is linear in, in float64.

    Args:
        trained: whose first sample is a network.
        dataset: the structures.
    """
    apply = nequip(trained.config.model).apply
    params = jax.tree.map(lambda leaf: leaf[0], trained.samples)
    statistics, cutoff = trained.statistics, trained.config.model.cutoff
    packed = pack(dataset, cutoff, statistics.species, statistics.shifts, jax.tree.leaves(params)[0].dtype)
    plan = np.full((-(-len(dataset) // STRUCTURES_PER_BATCH), STRUCTURES_PER_BATCH), -1, np.int32)
    plan.reshape(-1)[: len(dataset)] = np.arange(len(dataset))
    sizes = batch_size_needed(packed, plan)
    on_device = jax.device_put(packed)
    compiled = jax.jit(lambda packed, indices: apply(params, gather_batch(packed, indices, *sizes).graph).features)
    parts = []
    for indices in plan:
        num_atoms = int(dataset.num_atoms[indices[indices >= 0]].sum())
        parts.append(np.asarray(compiled(on_device, indices)[:num_atoms], np.float64))
    return np.concatenate(parts)
