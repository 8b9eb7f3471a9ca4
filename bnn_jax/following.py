"""Predictions of one system whose atoms move: what stays as it is from call to call is kept, on the device too.

They are those of :meth:`bnn_jax.Predictor.predict`, by the same compiled program, without the milliseconds that
reading, checking and packing a structure take.
"""

from typing import NamedTuple

import ase
import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.geometry import OVERLAP
from bnn_jax.atoms.graph import PackedData, batch_size_needed, pack, size_ladder
from bnn_jax.atoms.neighbors import near_origin, neighbor_list
from bnn_jax.atoms.sources import load
from bnn_jax.predict import (
    EDGES_PER_BATCH,
    GrowingSizes,
    Predictor,
    padded_rows,
    samples_that_fit,
    summed_up,
    without_padding,
)
from bnn_jax.types import Predictive

SKIN = 0.5
"""So much further than the cutoff pairs are listed, in Angstrom, of which those within it are found at each call."""


class Listed(NamedTuple):
    """Pairs within cutoff and skin, each once, and where the atoms were then."""

    positions: Float[np.ndarray, "atom 3"]
    cell: Float[np.ndarray, "3 3"]
    senders: Int[np.ndarray, " pair"]
    receivers: Int[np.ndarray, " pair"]
    shifts: Int[np.ndarray, "pair 3"]
    images: Float[np.ndarray, "pair 3"]
    """The shifts in Angstrom."""

    def is_stale(self, positions: Float[np.ndarray, "atom 3"], cell: Float[np.ndarray, "3 3"]) -> bool:
        """Whether a pair within the cutoff might be missing.

        Args:
            positions: of the atoms, in Angstrom.
            cell: lattice vectors as rows, in Angstrom.
        """
        moved = np.max(np.sum((positions - self.positions) ** 2, axis=1))
        return not (4 * moved <= SKIN**2 and (cell == self.cell).all())

    def squares(self, positions: Float[np.ndarray, "atom 3"]) -> Float[np.ndarray, " pair"]:
        """Squared distances of the pairs, in Angstrom^2.

        Args:
            positions: of the atoms, in Angstrom.
        """
        vectors = positions[self.senders] - positions[self.receivers] + self.images
        return np.einsum("pi,pi->p", vectors, vectors)


class _Kept(NamedTuple):
    """What calls leave for the next one."""

    dataset: Dataset
    """The structure of the first call; of later ones the numbers and periods are the same."""
    packed: PackedData
    """Of the last call, on the host."""
    on_device: PackedData
    """The same with padding; positions go there with each call."""
    listed: Listed
    near: Bool[np.ndarray, " pair"]
    """Which of the listed pairs were within the cutoff."""


class Following:
    """Predictions of structures that follow one another.

    Args:
        predictor: samples of the posterior.
        sizes: padded sizes, to be shared with others who predict the same system.
    """

    def __init__(self, predictor: Predictor, sizes: GrowingSizes | None = None):
        self.predictor = predictor
        self._sizes = GrowingSizes() if sizes is None else sizes
        self._kept: _Kept | None = None
        self._only = jax.device_put(np.zeros(1, np.int32))

    def __call__(self, atoms: ase.Atoms) -> Predictive:
        """The posterior predictive of the atoms; quick where they are those of the last call at other places.

        Raises:
            InputError: as :meth:`bnn_jax.Predictor.predict`.
        """
        kept, predictor = self._kept, self.predictor
        kept = self._next(kept, atoms) if kept is not None and _is_alike(kept.dataset, atoms) else self._first(atoms)
        self._kept = kept
        padded, chunk = (self._sizes.num_nodes, self._sizes.num_edges), {}
        arguments = predictor.spread_samples, kept.on_device, self._only
        if padded[1] > 32 * EDGES_PER_BATCH:
            chunk["at_once"] = samples_that_fit(predictor.compiled, *arguments, padded)
        prediction = jax.device_get(predictor.compiled(*arguments, *padded, **chunk))
        whole = without_padding(prediction, 1, len(atoms))
        statistics, cutoff = predictor.statistics, predictor.cutoff
        predictive = summed_up(whole, kept.dataset, kept.packed, statistics, cutoff, predictor.validated)
        return predictive if predictor.calibration is None else predictor.calibration(predictive, kept.dataset.numbers)

    def _first(self, atoms: ase.Atoms) -> _Kept:
        """Read, checked and packed as any structure is."""
        predictor, dataset = self.predictor, load(atoms, use_labels=False)
        dtype = jax.tree.leaves(predictor.samples)[0].dtype
        packed = pack(dataset, predictor.cutoff, predictor.statistics.species, predictor.statistics.shifts, dtype)
        _, num_edges = self._sizes.hold(*batch_size_needed(packed, np.zeros(1, int)))
        positions, cell = _placed(atoms)
        listed = self._list(positions, cell, atoms.pbc)
        near = listed.squares(positions) < predictor.cutoff**2
        padded = padded_rows(packed, size_ladder, num_edges)
        on_device = jax.device_put(padded)._replace(positions=padded.positions)
        return _Kept(dataset, packed, on_device, listed, near)

    def _next(self, kept: _Kept, atoms: ase.Atoms) -> _Kept:
        """With the arrays that are others than at the last call."""
        (positions, cell), listed, sizes = _placed(atoms), kept.listed, self._sizes
        is_strained = not np.array_equal(cell, listed.cell)
        if is_strained or not np.isfinite(positions).all():
            load(atoms, use_labels=False)  # refuses what no potential could describe, and says why
        if listed.is_stale(positions, cell):
            listed = self._list(positions, cell, atoms.pbc)
        squares = listed.squares(positions)
        if np.min(squares, initial=np.inf) < OVERLAP**2:
            load(atoms, use_labels=False)
        near, dtype = squares < self.predictor.cutoff**2, kept.packed.positions.dtype
        changes = {"positions": positions.astype(dtype)}
        if is_strained and kept.packed.cell is not None:
            changes["cell"] = cell[None].astype(dtype)
        sizes.hold(0, 2 * size_ladder(int(near.sum())))
        has_room = len(kept.on_device.senders) >= sizes.num_edges
        if not (listed is kept.listed and has_room and np.array_equal(near, kept.near)):
            changes |= _edges(listed, near)
        padded = {name: self._with_padding(name, array, kept) for name, array in changes.items()}
        positions = padded.pop("positions")  # are others at every call, and go along with it
        on_device = kept.on_device._replace(positions=positions, **(jax.device_put(padded) if padded else {}))
        return _Kept(kept.dataset, kept.packed._replace(**changes), on_device, listed, near)

    def _with_padding(self, name: str, array: np.ndarray, kept: _Kept) -> np.ndarray:
        """As :func:`bnn_jax.predict.padded_rows` has it."""
        is_of_edges = name in ("senders", "receivers", "shifts")
        number = self._sizes.num_edges if is_of_edges else len(getattr(kept.on_device, name))
        rows = np.full((number, *array.shape[1:]), array[-1] if name == "edge_offset" else 0, array.dtype)
        rows[: len(array)] = array
        return rows

    def _list(self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> Listed:
        found = neighbor_list(positions, cell, pbc, self.predictor.cutoff + SKIN)
        senders, receivers, shifts = (each[::2] for each in found)  # the others are their reverses
        return Listed(positions, cell, senders, receivers, shifts, shifts @ cell)


def _is_alike(dataset: Dataset, atoms: ase.Atoms) -> bool:
    return np.array_equal(atoms.numbers, dataset.numbers) and np.array_equal(atoms.pbc, dataset.pbc[0])


def _placed(atoms: ase.Atoms) -> tuple[np.ndarray, np.ndarray]:
    """Positions and cell as :func:`bnn_jax.atoms.graph.pack` has them, in double precision."""
    cell = np.where(atoms.pbc.any(), atoms.cell.array, 0.0)
    return near_origin(atoms.positions, cell, atoms.pbc), cell


def _edges(listed: Listed, near: np.ndarray) -> dict[str, np.ndarray]:
    """Both directions of the pairs that are near, one beside the other."""
    senders, receivers, shifts = (each[near] for each in (listed.senders, listed.receivers, listed.shifts))
    return {
        "senders": np.stack([senders, receivers], axis=1).reshape(-1),
        "receivers": np.stack([receivers, senders], axis=1).reshape(-1),
        "shifts": np.stack([shifts, -shifts], axis=1).reshape(-1, 3),
        "edge_offset": np.array([0, 2 * len(senders)], np.int32),
    }
