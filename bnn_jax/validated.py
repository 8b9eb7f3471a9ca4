"""How far labels could check the error bars: what lies beyond that, no calibration knows about."""

import json
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Bool, Float, Int

from bnn_jax.types import InputError, Predictive


class ValidatedRange(NamedTuple):
    """The largest expected error that was met on labelled structures held back from training, of each element.

    An atom is beyond it whose expected error is larger than that of every atom of its element there, or whose element
    was not there. Of structures like those, one in ``num_structures`` + 1 has its largest such atom beyond by chance.
    """

    numbers: tuple[int, ...]
    """Atomic numbers, ascending."""
    largest: tuple[float, ...]
    """Largest :attr:`Predictive.forces_score` of each, before any calibration; in eV/Angstrom where that is a std."""
    num_structures: int

    @classmethod
    def of(
        cls, predictive: Predictive, numbers: Int[np.ndarray, " atom"], is_labelled: Bool[np.ndarray, " atom"]
    ) -> "ValidatedRange | None":
        """The range of the labelled atoms; None where there is none.

        Args:
            predictive: of the structures held back.
            numbers: atomic numbers.
            is_labelled: of each atom, whether its forces have a label.
        """
        scores = predictive.forces_score.max(axis=1)
        checked = is_labelled & np.isfinite(scores)
        structure = np.repeat(np.arange(len(predictive.num_atoms)), predictive.num_atoms)
        present = np.unique(numbers[checked]).tolist()
        largest = tuple(float(scores[checked & (numbers == number)].max()) for number in present)
        return cls(tuple(present), largest, len(np.unique(structure[checked]))) if present else None

    def beyond(
        self, scores: Float[np.ndarray, "atom 3"], numbers: Int[np.ndarray, " atom"]
    ) -> Bool[np.ndarray, " atom"]:
        """Which atoms are beyond the range; a score that is not a number is.

        Args:
            scores: :attr:`Predictive.forces_score` of a predictive that was not calibrated.
            numbers: atomic numbers.
        """
        limits = np.full(max([*self.numbers, int(numbers.max(initial=0))]) + 1, -np.inf)
        limits[list(self.numbers)] = self.largest
        return ~(scores.max(axis=1) <= limits[numbers])

    def to_json(self) -> str:
        """Text from which :meth:`from_json` makes an equal one."""
        return json.dumps(self._asdict())

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
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise InputError(f"This is no validated range as to_json wrote it ({error!r:.200}); fit again.") from error
        return cls(numbers, largest, num_structures)
