"""Random silicon clusters of two to five atoms, labelled by a many-body oracle."""

from typing import Any, NamedTuple

import ase
import numpy as np
import xtb
from jaxtyping import Float

Array = np.ndarray

SHORTEST, LONGEST_BOND = 2.0, 2.5
"""Å; of pairs, and of the bond by which an atom joins a cluster."""
WIDEST_DIMER = 4.121
"""Å; larger clusters are as dense as a dimer of this length."""
ELECTRONIC_TEMPERATURE = 5000.0
"""K; with less the gaps of random clusters close and self-consistency is not always found."""
DIMER_GRID = np.linspace(2.0, 5.5, 71)
"""Å; of the dimer curve."""


class Clusters(NamedTuple):
    """Clusters of one size."""

    positions: Float[Array, "cluster atom 3"]
    """Å."""
    energy: Float[Array, " cluster"]
    """eV an atom, from that of free atoms."""


def grow(rng: np.random.Generator, num_atoms: int) -> Float[Array, "atom 3"]:
    """A cluster in which each atom joins a random one before it, in a random direction.

    No pair is closer than :data:`SHORTEST`, nor wider than the diameter of a ball as dense as the widest dimer. After
    the published clusters, whose limit of six bonds no five atoms can reach.
    """
    diameter = WIDEST_DIMER * (num_atoms / 2) ** (1 / 3)
    positions = np.zeros((1, 3))
    while len(positions) < num_atoms:
        direction = rng.normal(size=3)
        step = rng.uniform(SHORTEST, LONGEST_BOND) * direction / np.linalg.norm(direction)
        candidate = positions[rng.integers(len(positions))] + step
        distances = np.linalg.norm(positions - candidate, axis=1)
        if distances.min() >= SHORTEST and distances.max() <= diameter:
            positions = np.vstack([positions, candidate])
    return positions


def dimers(distances: Float[Array, " cluster"]) -> Float[Array, "cluster 2 3"]:
    """Pairs of atoms at these distances in Å."""
    positions = np.zeros((len(distances), 2, 3))
    positions[:, 1, 2] = distances
    return positions


def draw(rng: np.random.Generator, num_atoms: int, count: int) -> Float[Array, "cluster atom 3"]:
    """Random clusters of one size; dimers are spread over the range of the dimer curve, both ends among them."""
    if num_atoms > 2:
        return np.array([grow(rng, num_atoms) for _ in range(count)])
    # In each interval one, for polynomials of high order are not held in place by gaps.
    spread = np.linspace(0, 1, count) + np.pad(rng.uniform(-0.5, 0.5, max(count - 2, 0)), 1) / max(count - 1, 1)
    return dimers(DIMER_GRID[0] + (DIMER_GRID[-1] - DIMER_GRID[0]) * spread)


def label(positions: Float[Array, "cluster atom 3"]) -> Clusters:
    """With energies an atom above that of free atoms, by :func:`xtb.energies`."""
    num_atoms = positions.shape[1]
    structures = [ase.Atoms(f"Si{num_atoms}", each) for each in positions]
    (free,) = xtb.energies([ase.Atoms("Si")], ELECTRONIC_TEMPERATURE)
    return Clusters(positions, xtb.energies(structures, ELECTRONIC_TEMPERATURE) / num_atoms - free)


def labelled(seed: int, counts: dict[int, int]) -> dict[str, Any]:
    """Random clusters of several sizes and their energies, in plain values.

    Args:
        seed: of the positions.
        counts: how many, by number of atoms.
    """
    rng = np.random.default_rng(seed)
    drawn = {str(num_atoms): label(draw(rng, num_atoms, count)) for num_atoms, count in counts.items()}
    return {
        size: {"positions": each.positions.tolist(), "energy": each.energy.tolist()} for size, each in drawn.items()
    }
