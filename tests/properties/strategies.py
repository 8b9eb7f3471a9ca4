"""Random molecules and crystals for hypothesis, and how many of them a test looks at.

Hypothesis chooses the discrete part (elements, numbers, periodic directions) and a seed for the positions, which it
could not shrink to anything simpler. Every structure has its atoms more than ``MIN_DISTANCE`` apart, images included.
"""

import itertools
from collections.abc import Callable

import ase
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from tests.properties.networks import CUTOFF, SPECIES

MIN_DISTANCE = 0.6
MAX_ATOMS = 12

thoroughness = pytest.mark.parametrize(
    "num_examples", [15, pytest.param(200, marks=pytest.mark.slow)], ids=["few", "many"]
)


def for_all(num_examples: int, *strategies: st.SearchStrategy) -> Callable[[Callable[..., None]], None]:
    """Run the decorated check at once, on as many examples, the same in every run."""
    profile = settings(
        max_examples=num_examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    return lambda check: profile(given(*strategies)(check))()


seeds = st.integers(0, 2**32 - 1)


@st.composite
def numbers(draw, num_atoms: int) -> list[int]:
    """Atomic numbers of one to four elements."""
    elements = draw(st.lists(st.sampled_from(SPECIES), min_size=1, max_size=4, unique=True))
    return draw(st.lists(st.sampled_from(elements), min_size=num_atoms, max_size=num_atoms))


@st.composite
def molecules(draw, min_atoms: int = 1, max_atoms: int = MAX_ATOMS) -> ase.Atoms:
    """Each atom at random around an earlier one, up to a little more than the cutoff away."""
    num_atoms = draw(st.integers(min_atoms, max_atoms))
    rng = np.random.default_rng(draw(seeds))
    positions = rng.normal(size=(1, 3))
    while len(positions) < num_atoms:
        direction = rng.normal(size=3)
        distance = rng.uniform(MIN_DISTANCE, 1.2 * CUTOFF)
        atom = positions[rng.integers(len(positions))] + distance * direction / np.linalg.norm(direction)
        if np.linalg.norm(positions - atom, axis=1).min() > MIN_DISTANCE:
            positions = np.concatenate([positions, [atom]])
    return ase.Atoms(draw(numbers(num_atoms)), positions=positions)


@st.composite
def crystals(draw, max_atoms: int = 4) -> ase.Atoms:
    """Triclinic and right-handed, periodic in one, two or three directions; the cutoff often exceeds the cell."""
    pbc = draw(st.lists(st.booleans(), min_size=3, max_size=3).filter(any))
    lengths = np.array(draw(st.lists(st.floats(2.2, 6.0), min_size=3, max_size=3)))
    rng = np.random.default_rng(draw(seeds))
    shear = np.tril(rng.uniform(-0.5, 0.5, (3, 3)), -1)
    # No lattice vector is shorter than the shortest length: the rows are triangular before they are turned.
    cell = (np.eye(3) + shear) @ np.diag(lengths) @ Rotation.random(random_state=rng).as_matrix().T
    # At least ten cubic Angstrom an atom: the padded shape holds so many edges.
    num_atoms = draw(st.integers(1, int(np.clip(np.linalg.det(cell) / 10, 1, max_atoms))))
    scaled = rng.random((1, 3))
    images = np.array(list(itertools.product(*([-2, -1, 0, 1, 2] if periodic else [0] for periodic in pbc))))
    while len(scaled) < num_atoms:
        atom = rng.random(3)
        distances = np.linalg.norm((scaled[:, None] - atom + images) @ cell, axis=2)
        if distances.min() > MIN_DISTANCE:
            scaled = np.concatenate([scaled, [atom]])
    return ase.Atoms(draw(numbers(num_atoms)), scaled_positions=scaled, cell=cell, pbc=pbc)


def structures(max_atoms: int = MAX_ATOMS) -> st.SearchStrategy[ase.Atoms]:
    return molecules(max_atoms=max_atoms) | crystals(max_atoms=min(max_atoms, 4))


@st.composite
def orthogonal_matrices(draw) -> np.ndarray:
    """Rotations, and rotations with an inversion."""
    rotation = Rotation.random(random_state=np.random.default_rng(draw(seeds))).as_matrix()
    return draw(st.sampled_from([1.0, -1.0])) * rotation


def right_handed(atoms: ase.Atoms) -> ase.Atoms:
    """The same atoms; a left-handed cell is replaced by the one of opposite lattice vectors."""
    copy = atoms.copy()
    if np.linalg.det(atoms.cell.array) < 0:
        copy.set_cell(-atoms.cell.array)
    return copy


@st.composite
def equivalent_cells(draw, atoms: ase.Atoms) -> ase.Atoms:
    """The same atoms in other lattice vectors of the same lattice: multiples of periodic ones added to the others."""
    cell = atoms.cell.array.copy()
    periodic = np.flatnonzero(atoms.pbc)
    for _ in range(draw(st.integers(1, 3))):
        source = draw(st.sampled_from(list(periodic)))
        other = draw(st.sampled_from([i for i in range(3) if i != source]))
        cell[other] += draw(st.sampled_from([-2, -1, 1, 2])) * cell[source]
    copy = atoms.copy()
    copy.set_cell(cell)
    return copy
