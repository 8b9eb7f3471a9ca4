"""Labelled structures on the host: reading, splitting, and turning them into batches."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Self

import ase
import jax
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress
from jaxtyping import Bool, Float, Int, UInt64

from bnn_jax.atoms import checks
from bnn_jax.atoms.energies import check_energies
from bnn_jax.atoms.labels import MASK_KEY, Choices, Frame, Keys, check_frame, frame_from_atoms
from bnn_jax.atoms.splitting import Part, split_indices
from bnn_jax.types import Batch, InputError
from bnn_jax.units import ENERGY_UNITS_EV, LENGTH_UNITS_ANGSTROM, STRESS_UNITS_EV_PER_ANGSTROM3

if TYPE_CHECKING:
    from bnn_jax.atoms.statistics import Statistics


@dataclass(frozen=True, eq=False)
class Dataset:
    """Structures and their labels as flat arrays: the atoms of all structures follow one another.

    A missing label is NaN. ``len(dataset)`` counts structures; ``dataset[3]`` is an :class:`ase.Atoms`,
    ``dataset[:10]`` and ``dataset[indices]`` are data sets.
    """

    numbers: Int[np.ndarray, " atom"]
    """Atomic numbers."""
    positions: Float[np.ndarray, "atom 3"]
    """In Angstrom, float64."""
    num_atoms: Int[np.ndarray, " structure"]
    cell: Float[np.ndarray, "structure 3 3"]
    """Lattice vectors as rows, in Angstrom."""
    pbc: Bool[np.ndarray, "structure 3"]
    energy: Float[np.ndarray, " structure"]
    """Total energy, in eV, float64."""
    forces: Float[np.ndarray, "atom 3"]
    """In eV/Angstrom."""
    stress: Float[np.ndarray, "structure 3 3"]
    """In eV/Angstrom^3, positive under tension."""

    @classmethod
    def from_atoms(
        cls,
        structures: Iterable[ase.Atoms],
        *,
        energy_key: str | None = None,
        forces_key: str | None = None,
        stress_key: str | None = None,
        energy_unit: str | None = None,
        length_unit: str | None = None,
        stress_unit: str | None = None,
        require_labels: bool = False,
        allow_missing_labels: bool = False,
        use_labels: bool = True,
    ) -> Self:
        """From ASE structures; labels are found and checked as in :func:`bnn_jax.atoms.files.read_file`.

        Raises:
            InputError: as that function, with the structure's index.
        """
        keys = Keys(energy_key, forces_key, stress_key)
        choices = Choices(keys, energy_unit, length_unit, stress_unit, require_labels, allow_missing_labels)
        frames = (
            (i, frame_from_atoms(atoms, f"structures, frame {i}", keys, use_labels))
            for i, atoms in enumerate(structures)
        )
        return cls.from_frames(frames, "structures", choices)

    @classmethod
    def concatenate(cls, datasets: Sequence["Dataset"]) -> Self:
        """One data set after another."""
        return cls(
            **{item.name: np.concatenate([getattr(part, item.name) for part in datasets]) for item in fields(cls)}
        )

    @classmethod
    def from_frames(
        cls,
        numbered_frames: Iterable[tuple[int, Frame]],
        source: str,
        choices: Choices,
        units: tuple[str, str] = ("eV", "Angstrom"),
    ) -> Self:
        """From frames with their numbers in a file, which are converted and checked, one by one and together.

        Args:
            numbered_frames: in any unit.
            source: opens each error sentence.
            choices: what the user said of the labels.
            units: of energy and length, where the user named none.

        Raises:
            InputError: as :func:`bnn_jax.atoms.files.read_file`.
        """
        energy_factor = checks.unit_factor(choices.energy_unit or units[0], "energy_unit", ENERGY_UNITS_EV)
        length_factor = checks.unit_factor(choices.length_unit or units[1], "length_unit", LENGTH_UNITS_ANGSTROM)
        stress_factor = energy_factor / length_factor**3
        if choices.stress_unit is not None:
            stress_factor = checks.unit_factor(choices.stress_unit, "stress_unit", STRESS_UNITS_EV_PER_ANGSTROM3)
        frames, frame_numbers = [], []
        for i, frame in numbered_frames:
            with np.errstate(over="ignore"):  # infinity is refused next
                frame = frame.scaled(energy_factor, length_factor, stress_factor)
            check_frame(frame, f"{source}, frame {i}")
            frames.append(frame)
            frame_numbers.append(i)
        if not frames:
            raise InputError(f"{source} holds no structure; check the path and the index.")
        dataset = cls(
            num_atoms=np.array([len(frame.numbers) for frame in frames]),
            **{
                name: np.concatenate([getattr(frame, name) for frame in frames])
                for name in ("numbers", "positions", "forces")
            },
            **{
                name: np.stack([getattr(frame, name) for frame in frames])
                for name in ("cell", "pbc", "energy", "stress")
            },
        )
        dataset.check_labels(choices, np.array(frame_numbers), source)
        return dataset

    def check_labels(self, choices: Choices, frame_numbers: Int[np.ndarray, " structure"], source: str) -> None:
        """Refuse labels that are not complete, not in the units they are read in, or contradict one another.

        Args:
            choices: what the user said of the labels.
            frame_numbers: of the structures, in the file.
            source: opens the error sentence.

        Raises:
            InputError: they are such.
        """
        from bnn_jax.atoms.contradictions import check_contradictions  # that file needs this one

        energy, forces, stress = self.energy, self.forces, self.stress
        checks.check_labels(energy, forces, stress, choices.keys, choices.require_labels, source)
        if choices.require_labels and not choices.allow_missing_labels:
            checks.check_complete(energy, forces, stress, self.num_atoms, self.pbc, frame_numbers, source)
        if choices.energy_unit is None:
            checks.check_units(self.composition, energy, forces, source)
            check_energies(self.composition, energy, forces, self.pbc, frame_numbers, source)
        check_contradictions(self, choices, frame_numbers, source)

    def __len__(self) -> int:
        return len(self.num_atoms)

    def __getitem__(self, key: int | np.integer | slice | Sequence[int] | np.ndarray) -> "ase.Atoms | Dataset":
        if isinstance(key, int | np.integer):
            if not -len(self) <= key < len(self):
                raise IndexError(f"structure {key} of a data set of {len(self)}")
            return self._atoms(int(key) % len(self))
        return self.take(np.arange(len(self))[key])

    def take(self, indices: Int[np.ndarray, " chosen"]) -> "Dataset":
        """The structures ``indices``, in that order."""
        num_atoms = self.num_atoms[indices]
        first = np.cumsum(num_atoms) - num_atoms
        atoms = np.arange(num_atoms.sum()) + np.repeat(self.offsets[indices] - first, num_atoms)
        per_atom = ("numbers", "positions", "forces")
        return Dataset(
            **{
                item.name: getattr(self, item.name)[atoms if item.name in per_atom else indices]
                for item in fields(self)
            }
        )

    def _atoms(self, i: int) -> ase.Atoms:
        rows = slice(self.offsets[i], self.offsets[i + 1])
        atoms = ase.Atoms(self.numbers[rows], self.positions[rows], cell=self.cell[i], pbc=self.pbc[i])
        labels = {}
        if np.isfinite(self.energy[i]):
            labels["energy"] = float(self.energy[i])
        known = np.all(np.isfinite(self.forces[rows]), axis=1)
        if known.any():
            labels["forces"] = np.where(known[:, None], self.forces[rows], 0.0)
            if not known.all():
                atoms.set_array(MASK_KEY, known)
        if np.isfinite(self.stress[i]).all():
            labels["stress"] = full_3x3_to_voigt_6_stress(self.stress[i])
        if labels:
            atoms.calc = SinglePointCalculator(atoms, **labels)
        return atoms

    def to_atoms(self) -> list[ase.Atoms]:
        """ASE structures with the labels as results of a single-point calculator.

        Where only some atoms of a structure have forces, the array ``forces_mask`` says which; the others' are zero.
        """
        return [self._atoms(i) for i in range(len(self))]

    @cached_property
    def offsets(self) -> Int[np.ndarray, " structure_and_one"]:
        """Structure i owns atoms ``offsets[i]:offsets[i + 1]``."""
        return np.concatenate([[0], np.cumsum(self.num_atoms)]).astype(np.int64)

    @cached_property
    def structure_index(self) -> Int[np.ndarray, " atom"]:
        """Structure that each atom belongs to."""
        return np.repeat(np.arange(len(self)), self.num_atoms)

    @cached_property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers that occur, ascending."""
        return tuple(np.unique(self.numbers).tolist())

    @cached_property
    def composition(self) -> Int[np.ndarray, "structure species"]:
        """Number of atoms of each species in each structure."""
        counts = np.zeros((len(self), len(self.species)), np.int64)
        np.add.at(counts, (self.structure_index, np.searchsorted(self.species, self.numbers)), 1)
        return counts

    def fingerprint(self) -> str:
        """SHA-256 of the content, for telling whether a run resumes on the data it began with."""
        digest = hashlib.sha256()
        for item in fields(self):
            array = getattr(self, item.name)
            kind = {"i": "<i8", "b": "|b1"}.get(array.dtype.kind, "<f8")
            digest.update(f"{item.name}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array, dtype=kind).tobytes())
        return digest.hexdigest()

    def hashes(self) -> UInt64[np.ndarray, " structure"]:
        """A number for each structure that is the same wherever the structure is, for finding duplicates.

        It follows from atomic numbers, positions and cell (rounded to 1e-6 Angstrom) and periods, in the order of the
        atoms; labels do not enter.
        """
        grid = [np.rint(1e6 * array).astype("<i8") for array in (self.positions, self.cell)]
        numbers, pbc = self.numbers.astype("<i8"), self.pbc.astype("u1")
        values = np.empty(len(self), np.uint64)
        for i, (first, last) in enumerate(zip(self.offsets[:-1], self.offsets[1:], strict=True)):
            content = (numbers[first:last], grid[0][first:last], grid[1][i], pbc[i])
            digest = hashlib.blake2b(b"".join(array.tobytes() for array in content), digest_size=8)
            values[i] = int.from_bytes(digest.digest(), "little")
        return values

    def split(
        self, train: Part | None = None, valid: Part | None = None, test: Part | None = None, seed: int = 0
    ) -> tuple["Dataset", ...]:
        """The parts asked for, in the order train, valid, test; structures that no part takes are left out.

        Args:
            train: a fraction in (0, 1), a number of structures, indices, or the path of a file of indices (.npy, or
                text with one index a line, as the splits of rMD17).
            valid: likewise.
            test: likewise.
            seed: of the random draw. With the same seed and the same indices given, a larger ``train`` contains a
                smaller one.

        Raises:
            InputError: the parts overlap, ask for more than there is, or cannot be read.
        """
        parts = {name: part for name, part in (("train", train), ("valid", valid), ("test", test)) if part is not None}
        return tuple(self.take(indices) for indices in split_indices(len(self), parts, seed))

    def statistics(self, cutoff: float) -> "Statistics":
        """What a potential needs to know of its training set; see :func:`bnn_jax.atoms.statistics.compute`."""
        from bnn_jax.atoms.statistics import compute  # that file needs this one

        return compute(self, cutoff)

    def batches(self, batch_size: int, cutoff: float, statistics: "Statistics") -> Iterator[Batch]:
        """All structures in order, as float32 batches of one padded shape; the last may hold empty structures.

        Args:
            batch_size: structures a batch.
            cutoff: in Angstrom.
            statistics: of the training set; names the species and the atomic shifts to subtract.

        Raises:
            InputError: an element is not among the species.
        """
        from bnn_jax.atoms.graph import batch_size_needed, gather_batch, pack  # that file needs this one

        packed = pack(self, cutoff, statistics.species, statistics.shifts)
        plan = np.full(-(-len(self) // batch_size) * batch_size, -1)
        plan[: len(self)] = np.arange(len(self))
        plan = plan.reshape(-1, batch_size)
        sizes = batch_size_needed(packed, plan)
        packed = jax.device_put(packed)
        for indices in plan:
            yield gather_batch(packed, indices, *sizes)
