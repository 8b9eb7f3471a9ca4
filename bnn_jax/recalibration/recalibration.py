"""Fit a recalibration on a validation set, apply it to new scores, and keep it as text."""

import json
import typing
from collections.abc import Callable
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Float, Int, Shaped

from bnn_jax.recalibration import validation as checks
from bnn_jax.recalibration.isotonic import Isotonic
from bnn_jax.recalibration.registry import Curve, Method, find_method
from bnn_jax.recalibration.validation import Label, ScoreKind
from bnn_jax.types import InputError


class Recalibration(NamedTuple):
    """A map from new scores to standard deviations or to half-widths of intervals, element by element.

    It holds for the model, the quantity and the unit that it was fitted to.
    """

    method: str
    score_kind: ScoreKind
    coverage: float | None
    """That of the intervals; None for methods that give standard deviations."""
    groups: tuple[Label, ...] | None
    """Integers or strings, ascending; None for one curve for all elements."""
    num_structures: tuple[int, ...]
    """How many structures each curve was fitted to."""
    curves: tuple[Curve, ...]
    """One for each group."""

    def stds(
        self, scores: Float[np.ndarray, "*element"], groups: Shaped[np.ndarray, "*element"] | None = None
    ) -> Float[np.ndarray, "*element"]:
        """Recalibrated standard deviations, in the unit of the errors.

        Args:
            scores: of the kind and in the unit of those that it was fitted to.
            groups: of each score, if it was fitted with groups.

        Raises:
            InputError: the method gives intervals, a score cannot be used, or a group is missing or unknown.
        """
        if self.coverage is not None:
            raise InputError(f"{self.method!r} gives intervals, no standard deviations; call half_widths.")
        return self._apply(scores, groups)

    def half_widths(
        self, scores: Float[np.ndarray, "*element"], groups: Shaped[np.ndarray, "*element"] | None = None
    ) -> Float[np.ndarray, "*element"]:
        """Half-widths of intervals about the predictions that have the coverage, in the unit of the errors.

        Args:
            scores: of the kind and in the unit of those that it was fitted to.
            groups: of each score, if it was fitted with groups.

        Raises:
            InputError: the method gives no intervals, a score cannot be used, or a group is missing or unknown.
        """
        if self.coverage is None:
            raise InputError(f"{self.method!r} gives standard deviations; call stds, or fit 'conformal' for intervals.")
        return self._apply(scores, groups)

    def _apply(self, scores: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
        method = find_method(self.method)
        scores = checks.checked_numbers("scores", scores, _is_positive(method, self.score_kind))
        if (groups is None) != (self.groups is None):
            how = "without groups; leave them out" if self.groups is None else "by group; pass that of each score"
            raise InputError(f"The recalibration was fitted {how}.")
        if groups is None or self.groups is None:
            return self.curves[0](scores.ravel()).reshape(scores.shape)
        groups = checks.checked_labels("groups", groups)
        checks.check_shapes(scores=scores, groups=groups)
        result = np.empty_like(scores)
        for label in np.unique(groups):
            if label.item() not in self.groups:
                known = ", ".join(map(repr, self.groups))
                raise InputError(f"Group {label.item()!r} was not in the validation set, whose groups are {known}.")
            chosen = groups == label
            result[chosen] = self.curves[self.groups.index(label.item())](scores[chosen])
        return result

    def to_json(self) -> str:
        """Text from which :meth:`from_json` makes an equal recalibration, to the last bit."""
        curves = [
            {name: np.asarray(value).tolist() for name, value in curve._asdict().items()} for curve in self.curves
        ]
        return json.dumps(self._asdict() | {"curves": curves}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read :meth:`to_json`'s text.

        Raises:
            InputError: it is not sound.
        """
        try:
            return cls(**_parse(json.loads(text)))
        except (ArithmeticError, AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise InputError(f"This is no recalibration as to_json wrote it ({error}); fit it again.") from error


def fit_recalibration(
    method: str,
    errors: Float[np.ndarray, " element"],
    scores: Float[np.ndarray, " element"],
    structure_index: Int[np.ndarray, " element"],
    groups: Shaped[np.ndarray, " element"] | None = None,
    score_kind: ScoreKind = "std",
    coverage: float | None = None,
) -> Recalibration:
    """Fit a recalibration on a validation set that the model was not trained on.

    The methods, each with its file's definition and reference, are:

    - ``variance``: one factor for all standard deviations, which matches mean variance and mean squared error;
    - ``affine``: variance ``a U + b`` by maximum likelihood, where U is the variance, or a score of any kind;
    - ``isotonic``: a variance that never falls as the score grows;
    - ``conformal``: half-widths of intervals with guaranteed coverage.

    Args:
        method: its name.
        errors: predictions minus references, in any unit, which is that of the result. A force is three elements.
        scores: what was predicted for each error.
        structure_index: which structure each element belongs to; structures are the independent draws.
        groups: integers or strings, such as atomic numbers: each gets a curve of its own.
        score_kind: ``std`` for standard deviations in the unit of the errors; ``any`` for other numbers that grow with
            the error, which ``affine`` and ``isotonic`` take whatever their sign, and ``conformal`` if positive.
        coverage: of the intervals of ``conformal``, between zero and one.

    Raises:
        InputError: an unknown method, arguments that do not fit it or each other, a value that is not finite, or not
            positive where it has to be, fewer structures than the method or the coverage needs, in all or with a
            group, or errors that are all zero.

    Example:
        >>> stds = np.array([1.0, 1.0, 2.0, 2.0])
        >>> found = fit_recalibration("variance", 3.0 * stds, stds, structure_index=np.arange(4))
        >>> found.stds(np.array([0.5, 5.0])).tolist()
        [1.5, 15.0]
    """
    chosen = find_method(method)
    if score_kind not in typing.get_args(ScoreKind):
        raise InputError(f"score_kind is {score_kind!r}; choose 'std' or 'any'.")
    if method == "variance" and score_kind != "std":
        raise InputError("'variance' scales standard deviations; choose 'affine' or 'isotonic' for other scores.")
    if chosen.gives_intervals and coverage is None:
        raise InputError(f"{method!r} needs the coverage of its intervals, such as coverage=0.9.")
    if not chosen.gives_intervals and coverage is not None:
        raise InputError(f"{method!r} gives no intervals; leave coverage out, or choose 'conformal'.")
    level = 0.0 if coverage is None else float(coverage)
    needed = chosen.min_structures(level)

    validation = checks.checked_validation_set(errors, scores, structure_index, _is_positive(chosen, score_kind))
    parts = checks.split(validation, groups)
    purpose, remedy = (
        (f"A coverage of {coverage}", "lower the coverage")
        if chosen.gives_intervals
        else (f"{method!r}", "choose a method that needs fewer")
    )
    checks.check_num_structures(parts, needed, purpose, remedy)
    if not chosen.gives_intervals:
        checks.check_spread(parts)
    return Recalibration(
        method,
        score_kind,
        None if coverage is None else level,
        None if groups is None else tuple(label for label in parts if label is not None),
        tuple(part.num_structures for part in parts.values()),
        tuple(chosen.fit(part, score_kind, level) for part in parts.values()),
    )


def _is_positive(method: Method, score_kind: ScoreKind) -> bool:
    return score_kind == "std" or method.scales_scores


def _parse(found: dict) -> dict:
    """The fields of a recalibration from what JSON made of them; ValueError and its like if they are not sound."""
    method = find_method(found["method"])
    fields = found | {
        "groups": None if found["groups"] is None else tuple(found["groups"]),
        "num_structures": tuple(int(number) for number in found["num_structures"]),
        "curves": tuple(_parse_curve(method.curve_type, values) for values in found["curves"]),
    }
    groups = (None,) if fields["groups"] is None else fields["groups"]
    kinds = {type(label) for label in groups}
    if len(kinds) != 1 or not kinds <= {int, str, type(None)} or len(set(groups)) < len(groups):
        raise ValueError("the groups are not distinct integers or strings")
    if not len(groups) == len(fields["curves"]) == len(fields["num_structures"]):
        raise ValueError("the groups and the curves do not fit each other")
    if found["score_kind"] not in typing.get_args(ScoreKind):
        raise ValueError(f"score_kind is {found['score_kind']!r}")
    if method.gives_intervals != isinstance(found["coverage"], float):
        raise ValueError(f"coverage is {found['coverage']!r}")
    if method.gives_intervals:
        method.min_structures(found["coverage"])  # refuses what is outside its range
    return fields


def _parse_curve(curve_type: Callable[..., Curve], values: dict) -> Curve:
    numbers = {name: np.array(value, np.float64) for name, value in values.items()}
    if not all(np.isfinite(array).all() for array in numbers.values()):
        raise ValueError("a number is not finite")
    if any(array.ndim != (curve_type is Isotonic) for array in numbers.values()):
        raise ValueError("a number is a list, or a list a number")
    curve = curve_type(**{name: array if array.ndim else array.item() for name, array in numbers.items()})
    if not curve.is_sound():
        raise ValueError(f"{curve} gives no spread")
    return curve
