"""Random water dimers without a short contact between the molecules, and monomers, labelled by GFN2-xTB."""

from collections.abc import Sequence
from typing import Any

import ase
import numpy as np
import xtb
from jaxtyping import Float
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

Array = np.ndarray

BOND, BOND_STD = 0.9572, 0.03
"""Å."""
ANGLE, ANGLE_STD = 104.52, 5.0
"""Degrees."""
NEAREST, FARTHEST = 3.0, 10.0
"""Å; the shortest distance between atoms of the two molecules is drawn uniformly from here."""
BOX = 30.0
"""Å; edge of the cubic box, which only the reciprocal space sum of the features looks at."""
OTHER_BOX = 25.0
"""Å; another box for monomers, to see what the box does to a prediction."""
ELECTRONIC_TEMPERATURE = 300.0
"""K; the gap of water is so large that it does not matter."""


def monomer(rng: np.random.Generator) -> Float[Array, "3 3"]:
    """Oxygen and two hydrogens in Å, with bonds and angle from normal distributions, in a random orientation."""
    bonds = rng.normal(BOND, BOND_STD, 2)
    angle = np.deg2rad(rng.normal(ANGLE, ANGLE_STD))
    hydrogens = bonds[:, None] * [[1.0, 0.0, 0.0], [np.cos(angle), np.sin(angle), 0.0]]
    return Rotation.random(rng=rng).apply(np.vstack([np.zeros(3), hydrogens]))


def dimer(rng: np.random.Generator, shortest: float) -> Float[Array, "6 3"]:
    """Two random monomers whose nearest atoms are ``shortest`` Å apart, along a random direction."""
    first, second = monomer(rng), monomer(rng)
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)

    def contact(shift: float) -> float:
        return float(cdist(first, second + shift * direction).min())

    # The nearest contact grows with the shift beyond the size of the molecules, so that bisection finds it.
    low, high = 0.0, shortest + 4.0
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if contact(middle) < shortest else (low, middle)
    return np.vstack([first, second + high * direction])


def structures(positions: Sequence[Float[Array, "_atom 3"]], edge: float | None = None) -> list[ase.Atoms]:
    """Water molecules in a periodic box; :data:`BOX` if no edge is given, in Å."""
    cell = [BOX if edge is None else edge] * 3
    return [ase.Atoms("OHH" * (len(each) // 3), each, cell=cell, pbc=True) for each in positions]


def labelled(seed: int, num_dimers: int, num_monomers: int) -> dict[str, Any]:
    """Random structures and their energies in eV an atom, in plain values.

    Args:
        seed: of the positions.
        num_dimers: in random order of their distance.
        num_monomers: independent of them.
    """
    rng = np.random.default_rng(seed)
    shortest = rng.uniform(NEAREST, FARTHEST, num_dimers)
    drawn = {
        "dimers": [dimer(rng, each) for each in shortest],
        "monomers": [monomer(rng) for _ in range(num_monomers)],
    }
    found: dict[str, Any] = {"shortest": shortest.tolist()}
    for name, positions in drawn.items():
        energy = xtb.energies(structures(positions), ELECTRONIC_TEMPERATURE) / len(positions[0])
        found[name] = {"positions": [each.tolist() for each in positions], "energy": energy.tolist()}
    return found
