"""How far labels could check the error bars: what lies beyond that, no calibration knows about."""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Bool, Float, Int

from bnn_jax.atoms.environments import Environments
from bnn_jax.atoms.graph import AnyArray
from bnn_jax.types import InputError, Predictive

MARGIN = 0.05
"""So much nearer or further than in the labelled structures, relatively, a neighbour may be."""
COUNT_MARGIN = 0.2
"""So many fewer or more neighbours an atom may have, relatively, and one at least."""


class EnvironmentRange(NamedTuple):
    """What surrounds the atoms of labelled structures, of each element, by the index of its species.

    No std is asked: one of a few far-off structures among the labelled ones, with errors as large, would hide all
    others. Margins keep structures like the labelled ones from being out of range by chance.
    """

    shortest: tuple[tuple[float, ...], ...]
    """Smallest distance to the nearest neighbour of each species, in Angstrom."""
    longest: tuple[tuple[float, ...], ...]
    """Largest such distance; the cutoff where some atom has no such neighbour."""
    fewest: tuple[int, ...]
    """Neighbours within the cutoff."""
    most: tuple[int, ...]

    @classmethod
    def of(cls, parts: Sequence[Environments]) -> Self:
        """The range of the atoms of labelled structures, trained on or not, among which is every species.

        Args:
            parts: some of them each.
        """
        species, nearest, counts = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        of_species = [species == number for number in range(nearest.shape[1])]

        def rows(reduce: Callable[..., np.ndarray]) -> tuple[tuple[float, ...], ...]:
            return tuple(tuple(reduce(nearest[which], axis=0).tolist()) for which in of_species)

        fewest, most = (tuple(int(reduce(counts[which])) for which in of_species) for reduce in (np.min, np.max))
        return cls(rows(np.min), rows(np.max), fewest, most)

    def beyond(self, found: Environments) -> Bool[AnyArray, " atom"]:
        """Which atoms have neighbours that are nearer or further, or are fewer or more, than any of their element had.

        Args:
            found: of the atoms.
        """
        shortest, longest, fewest, most = (np.array(each)[found.species] for each in self)
        distances = (found.nearest < (1 - MARGIN) * shortest) | (found.nearest > (1 + MARGIN) * longest)
        few = found.counts < fewest - np.maximum(1, COUNT_MARGIN * fewest)
        many = found.counts > most + np.maximum(1, COUNT_MARGIN * most)
        return distances.any(axis=1) | few | many


class ValidatedRange(NamedTuple):
    """The largest expected error that was met on labelled structures held back from training, of each element.

    An atom is beyond it whose expected error is larger than that of every atom of its element there, or whose element
    was not there. Of structures like those, one in ``num_structures`` + 1 has its largest such atom beyond by chance.
    An atom is also beyond it whose neighbours are out of the range of all labelled structures.
    """

    numbers: tuple[int, ...]
    """Atomic numbers, ascending."""
    largest: tuple[float, ...]
    """Largest :attr:`Predictive.forces_score` of each, before any calibration; in eV/Angstrom where that is a std."""
    num_structures: int
    environments: EnvironmentRange | None = None
    """Of all labelled structures; None where nobody has looked."""

    @classmethod
    def of(
        cls,
        predictive: Predictive,
        numbers: Int[np.ndarray, " atom"],
        is_labelled: Bool[np.ndarray, " atom"],
        environments: EnvironmentRange | None = None,
    ) -> "ValidatedRange | None":
        """The range of the labelled atoms; None where there is none.

        Args:
            predictive: of the structures held back.
            numbers: atomic numbers.
            is_labelled: of each atom, whether its forces have a label.
            environments: of the structures trained on and held back.
        """
        scores = predictive.forces_score.max(axis=1)
        checked = is_labelled & np.isfinite(scores)
        structure = np.repeat(np.arange(len(predictive.num_atoms)), predictive.num_atoms)
        present = np.unique(numbers[checked]).tolist()
        largest = tuple(float(scores[checked & (numbers == number)].max()) for number in present)
        num_structures = len(np.unique(structure[checked]))
        return cls(tuple(present), largest, num_structures, environments) if present else None

    def beyond(
        self,
        scores: Float[AnyArray, "atom 3"],
        numbers: Int[np.ndarray, " atom"],
        found: Environments | None = None,
    ) -> Bool[AnyArray, " atom"]:
        """Which atoms are beyond the range; a score that is not a number is. On the host, or in compiled functions.

        Args:
            scores: :attr:`Predictive.forces_score` of a predictive that was not calibrated.
            numbers: atomic numbers.
            found: what surrounds the atoms; needed where the range has ``environments``.
        """
        limits = np.full(max([*self.numbers, int(numbers.max(initial=0))]) + 1, -np.inf)
        limits[list(self.numbers)] = self.largest
        beyond = ~(scores.max(axis=1) <= limits[numbers])
        if self.environments is None:
            return beyond
        assert found is not None
        return beyond | self.environments.beyond(found)

    def to_json(self) -> str:
        """Text from which :meth:`from_json` makes an equal one."""
        environments = None if self.environments is None else self.environments._asdict()
        return json.dumps(self._asdict() | {"environments": environments})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read :meth:`to_json`'s text.

        Raises:
            InputError: it is not sound.
        """
        try:
            values = json.loads(text)
            numbers = tuple(int(number) for number in values["numbers"])
            largest = tuple(float(value) for value in values["largest"])
            num_structures = int(values["num_structures"])
            if len(numbers) != len(largest) or not all(0 <= number <= 118 for number in numbers):
                raise ValueError("numbers and limits do not fit each other")
            environments = _environments(values["environments"]) if values.get("environments") else None
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise InputError(f"This is no validated range as to_json wrote it ({error!r:.200}); fit again.") from error
        return cls(numbers, largest, num_structures, environments)


def _environments(values: dict[str, Any]) -> EnvironmentRange:
    distances = [tuple(tuple(float(x) for x in row) for row in values[name]) for name in ("shortest", "longest")]
    counts = [tuple(int(x) for x in values[name]) for name in ("fewest", "most")]
    size = len(counts[0])
    if any(len(each) != size for each in (*counts, *distances, *distances[0], *distances[1])):
        raise ValueError("the ranges of the environments do not fit each other")
    return EnvironmentRange(distances[0], distances[1], counts[0], counts[1])
