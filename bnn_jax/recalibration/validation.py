"""What arrays must be before a recalibration is fitted or applied to them."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from bnn_jax.types import InputError

ScoreKind = Literal["std", "any"]
"""``std``: standard deviations in the unit of the errors, positive. ``any``: numbers that grow with the error, such as
negative log likelihoods. Give a variance as its root, a ``std``, for ``any`` knows no zero."""
Label = int | str
"""What names a group, such as an atomic number."""
LARGEST = 1e50
"""Beyond this, and below one over it, squares and ratios could overflow. All numbers of float32 lie inside."""
FLOOR = 1e-4
"""Smallest share of the mean variance that methods give where nothing but chance would bound it: no standard deviation
below a hundredth of the root mean square error."""


class ValidationSet(NamedTuple):
    """The elements that one curve is fitted to."""

    errors: Float[np.ndarray, " element"]
    """Predictions minus references."""
    scores: Float[np.ndarray, " element"]
    structure_index: Int[np.ndarray, " element"]
    """Which structure an element belongs to. Elements of one structure depend on each other."""

    @property
    def num_structures(self) -> int:
        """Distinct structures."""
        return np.unique(self.structure_index).size


def checked_numbers(name: str, array: Shaped[np.ndarray, "..."], is_positive: bool = False) -> np.ndarray:
    """The array in float64.

    Raises:
        InputError: a value is no number, not finite, too large for its square or, where asked, not positive.
    """
    array = np.asarray(array)
    if array.dtype.kind not in "iuf":
        raise InputError(f"{name} must be an array of numbers, not of {array.dtype}.")
    array = array.astype(np.float64)
    _refuse(name, array, ~(np.abs(array) <= LARGEST), f"finite and at most {LARGEST:g} in size; remove or mask it")
    if is_positive:
        _refuse(name, array, array < 1.0 / LARGEST, f"positive and at least {1.0 / LARGEST:g}")
    return array


def _refuse(name: str, array: np.ndarray, bad: np.ndarray | np.bool, wanted: str) -> None:
    if np.any(bad):
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(f"{name}{list(index) if index else ''} is {array[index]}, but must be {wanted}.")


def checked_labels(name: str, labels: Shaped[np.ndarray, "..."], kinds: str = "iuU") -> np.ndarray:
    """The labels as an array.

    Raises:
        InputError: they are not integers or, where ``kinds`` has a ``U``, strings.
    """
    labels = np.asarray(labels)
    if labels.dtype.kind not in kinds:
        wanted = "integers or strings" if "U" in kinds else "integers"
        raise InputError(f"{name} must be an array of {wanted}, not of {labels.dtype}.")
    return labels


def check_shapes(**arrays: np.ndarray | None) -> None:
    """Refuse arrays, by the name that an error should use, whose shapes differ.

    Raises:
        InputError: two shapes differ.
    """
    shapes = {name: array.shape for name, array in arrays.items() if array is not None}
    if len(set(shapes.values())) > 1:
        shown = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise InputError(f"Shapes differ: {shown}; give one value per element.")


def checked_validation_set(
    errors: np.ndarray, scores: np.ndarray, structure_index: np.ndarray, is_positive: bool
) -> ValidationSet:
    """The validation set in float64.

    Args:
        errors: predictions minus references.
        scores: one per error.
        structure_index: one per error.
        is_positive: whether the scores have to be.

    Raises:
        InputError: the shapes differ or have more than one axis, or a value cannot be used.
    """
    validation = ValidationSet(
        checked_numbers("errors", errors),
        checked_numbers("scores", scores, is_positive),
        checked_labels("structure_index", structure_index, "iu"),
    )
    check_shapes(**validation._asdict())
    if validation.errors.ndim != 1:
        raise InputError(f"errors have the shape {validation.errors.shape}; ravel all arrays to one axis of elements.")
    return validation


def split(validation: ValidationSet, groups: np.ndarray | None) -> dict[Label | None, ValidationSet]:
    """The elements of each group, by its label in ascending order; all of them, by None, without groups.

    Raises:
        InputError: there is no group to each element, or a group is neither an integer nor a string.
    """
    if groups is None:
        return {None: validation}
    groups = checked_labels("groups", groups)
    check_shapes(errors=validation.errors, groups=groups)
    if groups.size == 0:
        return {None: validation}
    return {
        label.item(): ValidationSet(*(array[groups == label] for array in validation)) for label in np.unique(groups)
    }


def check_num_structures(parts: dict[Label | None, ValidationSet], needed: int, purpose: str, remedy: str) -> None:
    """Refuse a validation set that is too small, naming every group that is.

    Args:
        parts: the elements of each group.
        needed: the fewest structures that each must have.
        purpose: what needs them.
        remedy: what else than to add structures or to merge groups would help.

    Raises:
        InputError: a part has fewer.
    """
    counts = {label: part.num_structures for label, part in parts.items() if part.num_structures < needed}
    if not counts:
        return
    if None in parts:
        found, ways = f"and the validation set has {counts[None]}", "add structures"
    else:
        found = "with each group, and " + ", ".join(f"group {label} has {count}" for label, count in counts.items())
        ways = "add structures, merge groups"
    raise InputError(f"{purpose} needs at least {needed} structures {found}; {ways} or {remedy}.")


def check_spread(parts: dict[Label | None, ValidationSet]) -> None:
    """Refuse errors that are all zero, in all or in a group.

    Raises:
        InputError: no error of a part is as large as one over :data:`LARGEST`.
    """
    for label, part in parts.items():
        if np.abs(part.errors).max() < 1.0 / LARGEST:
            where = "" if label is None else f" of group {label}"
            raise InputError(f"Every error{where} is zero, which fits no spread; are the references predictions?")
