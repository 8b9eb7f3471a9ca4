"""Each kind of bond squeezed and stretched: do the error bars grow where the potential has learnt nothing?"""

from collections.abc import Callable
from typing import NamedTuple

import ase
import numpy as np
from ase.data import chemical_symbols
from ase.neighborlist import natural_cutoffs, neighbor_list
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.report._figure import BLUE, GREY, ORANGE, new_figure
from bnn_jax.types import Predictive

MAX_KINDS = 6
"""Kinds of bonds that are scanned, the most frequent ones."""
MAX_STRUCTURES = 50
"""Structures that bonds are looked for in."""
FACTORS = np.linspace(0.6, 1.8, 25)
"""Lengths of a scan, in those of the bond as it is."""
BOND_LENGTH = 1.15
"""In sums of covalent radii, up to which two atoms are bonded."""


class Bond(NamedTuple):
    """One kind of bond, and the one that stands for it."""

    name: str
    """Such as C-H."""
    structure: int
    """Of the data set."""
    first: int
    second: int
    """Atoms of that structure."""
    known: tuple[float, float]
    """Shortest and longest bond of this kind in the data set, in Angstrom."""


class BondScan(NamedTuple):
    """What is predicted along the stretching of a bond."""

    name: str
    lengths: Float[np.ndarray, " point"]
    """In Angstrom, ascending."""
    forces_std: Float[np.ndarray, " point"]
    """Largest total std of the force components of the bond's two atoms, in eV/Angstrom."""
    known: tuple[float, float]
    is_beyond: Bool[np.ndarray, " point"]
    """Whether one of the two atoms is beyond the validated range."""

    def summary(self) -> dict[str, float | bool]:
        """Std at known lengths, the shortest and the longest, and whether these two are beyond what was validated."""
        inside = (self.lengths >= self.known[0]) & (self.lengths <= self.known[1])
        return {
            "shortest_known": self.known[0],
            "longest_known": self.known[1],
            "std_known": float(self.forces_std[inside].mean()) if inside.any() else float("nan"),
            "std_squeezed": float(self.forces_std[0]),
            "std_stretched": float(self.forces_std[-1]),
            "squeezed_is_beyond_validated": bool(self.is_beyond[0]),
            "stretched_is_beyond_validated": bool(self.is_beyond[-1]),
        }


def find_bonds(dataset: Dataset) -> list[Bond]:
    """The most frequent kinds of bonds, each with the bond whose length is nearest to the median of its kind.

    Args:
        dataset: structures, of which the first fifty are looked at.
    """
    found: dict[tuple[int, int], list[tuple[float, int, int, int]]] = {}
    for index in range(min(len(dataset), MAX_STRUCTURES)):
        atoms = _structure(dataset, index)
        for i, j, length in zip(*neighbor_list("ijd", atoms, _cutoffs(atoms)), strict=True):
            if i < j:  # a bond to an image of the atom itself has no other end
                kind = tuple(sorted((int(atoms.numbers[i]), int(atoms.numbers[j]))))
                found.setdefault((kind[0], kind[1]), []).append((float(length), index, int(i), int(j)))
    bonds = []
    for (one, other), each in sorted(found.items(), key=lambda item: -len(item[1]))[:MAX_KINDS]:
        lengths = np.array([length for length, *_ in each])
        _, structure, first, second = each[int(np.argmin(np.abs(lengths - np.median(lengths))))]
        name = f"{chemical_symbols[one]}-{chemical_symbols[other]}"
        bonds.append(Bond(name, structure, first, second, (float(lengths.min()), float(lengths.max()))))
    return bonds


def scan_bonds(predict: Callable[[list[ase.Atoms]], Predictive], dataset: Dataset) -> list[BondScan]:
    """Squeeze and stretch one bond of each kind; what hangs on its lighter end moves along.

    Args:
        predict: such as ``Posterior.predict``.
        dataset: structures with the bonds to scan.
    """
    bonds = find_bonds(dataset)
    frames = [frame for bond in bonds for frame in stretched(_structure(dataset, bond.structure), bond)]
    if not frames:
        return []
    predictive = predict(frames)
    offsets = np.cumsum(predictive.num_atoms) - predictive.num_atoms
    scans = []
    for number, bond in enumerate(bonds):
        first = offsets[number * len(FACTORS) : (number + 1) * len(FACTORS)]
        ends = np.stack([first + bond.first, first + bond.second], axis=1)
        beyond = predictive.beyond_validated
        scans.append(
            BondScan(
                bond.name,
                np.array([frame.get_distance(bond.first, bond.second, mic=True) for frame in frames[: len(FACTORS)]]),
                predictive.forces_score.max(axis=1)[ends].max(axis=1),
                bond.known,
                np.asarray(np.zeros(len(FACTORS), bool) if beyond is None else beyond[ends].any(axis=1)),
            )
        )
        frames = frames[len(FACTORS) :]
    return scans


def stretched(atoms: ase.Atoms, bond: Bond) -> list[ase.Atoms]:
    """The structure with its bond at the lengths of a scan.

    Args:
        atoms: that has it.
        bond: of two of its atoms.
    """
    vector = atoms.get_distance(bond.first, bond.second, mic=True, vector=True)
    sides = _without(atoms, bond)
    is_second = sides == sides[bond.second]
    if sides[bond.first] == sides[bond.second]:  # a ring, or a crystal: only the atom moves
        is_second = np.arange(len(atoms)) == bond.second
    moves, sign = (is_second, 1.0) if 2 * is_second.sum() <= len(atoms) else (~is_second, -1.0)
    frames = []
    for factor in FACTORS:
        frame = atoms.copy()
        frame.positions[moves] += sign * (factor - 1) * vector
        frames.append(frame)
    return frames


def bond_scan(scans: list[BondScan]) -> Figure:
    """Std of the forces on the two ends of each bond over its length, known lengths shaded.

    Args:
        scans: of :func:`scan_bonds`, at least one.
    """
    num_columns = min(3, len(scans))
    num_rows = -(-len(scans) // num_columns)
    figure, panels = new_figure(3.6 * num_columns, 3.2 * num_rows, num_rows, num_columns, share_x=False)
    for axes, scan in zip(panels, scans, strict=False):
        axes.axvspan(*scan.known, color=GREY, alpha=0.2, linewidth=0, label="lengths in the validation set")
        axes.plot(scan.lengths, scan.forces_std, color=BLUE, linewidth=2)
        beyond = scan.is_beyond
        axes.plot(scan.lengths[beyond], scan.forces_std[beyond], "o", color=ORANGE, label="beyond the validated range")
        axes.plot(scan.lengths[~beyond], scan.forces_std[~beyond], "o", color=BLUE, label="within it")
        axes.set(yscale="log", xlabel=f"{scan.name} (Å)", ylabel="Force std (eV/Å)")
    for axes in panels[len(scans) :]:
        axes.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3 if num_columns > 1 else 1, frameon=False)
    return figure


def _structure(dataset: Dataset, index: int) -> ase.Atoms:
    rows = slice(dataset.offsets[index], dataset.offsets[index + 1])
    return ase.Atoms(dataset.numbers[rows], dataset.positions[rows], cell=dataset.cell[index], pbc=dataset.pbc[index])


def _cutoffs(atoms: ase.Atoms) -> list[float]:
    return [BOND_LENGTH * radius for radius in natural_cutoffs(atoms)]


def _without(atoms: ase.Atoms, bond: Bond) -> np.ndarray:
    """Number of the fragment of each atom once the bond is cut."""
    i, j = neighbor_list("ij", atoms, _cutoffs(atoms))
    cut = {(bond.first, bond.second), (bond.second, bond.first)}
    kept = np.array([pair not in cut for pair in zip(i.tolist(), j.tolist(), strict=True)], bool)
    graph = coo_array((np.ones(kept.sum()), (i[kept], j[kept])), shape=(len(atoms), len(atoms)))
    return connected_components(graph, directed=False)[1]
