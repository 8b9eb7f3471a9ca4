"""From structures to the one argument of ``Potential.init`` and ``Potential.apply`` that is not parameters."""

import numpy as np

from bnn_jax.atoms.graph import batch_size_needed, gather_batch, pack
from bnn_jax.atoms.sources import Structures, load
from bnn_jax.config import ModelConfig
from bnn_jax.types import AtomGraph, InputError


def graph(structures: Structures, model: ModelConfig) -> AtomGraph:
    """Structures as one padded graph on the device (:mod:`bnn_jax.atoms.graph` says what is in it).

    The structures come first, in their order; a further one holds the padding. Sizes are rounded up, so that graphs
    of nearly one size share a compilation; :func:`bnn_jax.atoms.node_mask` and its like tell what is padding.

    Args:
        structures: one or many, as :func:`bnn_jax.load` takes them.
        model: with ``cutoff`` and ``species``, as ``posterior.config.model`` has them.

    Raises:
        InputError: there is no structure, or one holds an element that is not in ``species``.
    """
    if not model.species:
        raise InputError("model.species is empty; name the atomic numbers that the potential shall know.")
    dataset = load(structures, use_labels=False)
    packed = pack(dataset, model.cutoff, model.species, np.zeros(len(model.species)))
    indices = np.arange(len(dataset))
    return gather_batch(packed, indices, *batch_size_needed(packed, indices)).graph
