"""Atoms that a potential sees alone."""

import warnings

import numpy as np

from bnn_jax.atoms.graph import PackedData
from bnn_jax.types import InputWarning


def warn_of_isolated_atoms(packed: PackedData, cutoff: float) -> None:
    """Warn of atoms without a neighbour, whose energy is a constant and whose predicted force is zero.

    Structures of a single atom are meant so and pass.

    Args:
        packed: the training set, on the host.
        cutoff: in Angstrom, with which it was packed.
    """
    num_atoms, num_edges = np.diff(packed.node_offset), np.diff(packed.edge_offset)
    receivers = packed.receivers[: packed.edge_offset[-1]] + np.repeat(packed.node_offset[:-1], num_edges)
    alone = np.bincount(np.asarray(receivers), minlength=num_atoms.sum()) == 0
    alone &= np.repeat(num_atoms, num_atoms) > 1
    if alone.any():
        structures = np.repeat(np.arange(len(num_atoms)), num_atoms)[alone]
        warnings.warn(
            InputWarning(
                f"{alone.sum()} atoms in {len(np.unique(structures))} of {len(num_atoms)} training structures (first:"
                f" structure {structures[0]}) have no neighbour within {cutoff:g} Angstrom, so that no force on them is"
                " learned; raise model.cutoff if they should have."
            ),
            stacklevel=2,
        )
