"""The methods by name."""

from collections.abc import Callable
from typing import NamedTuple

from bnn_jax.recalibration import affine, conformal, isotonic, variance
from bnn_jax.recalibration.validation import ScoreKind, ValidationSet
from bnn_jax.types import InputError, nearest_name

Curve = variance.VarianceScaling | affine.Affine | isotonic.Isotonic | conformal.ConformalScaling
"""A fitted map from scores to standard deviations, or to half-widths of intervals."""


class Method(NamedTuple):
    """What the fit of a method needs to know of it."""

    curve_type: Callable[..., Curve]
    fit: Callable[[ValidationSet, ScoreKind, float], Curve]
    """``fit(validation, score_kind, coverage)``; the coverage means nothing to methods without intervals."""
    min_structures: Callable[[float], int]
    """The fewest structures, by coverage."""
    gives_intervals: bool = False
    """Half-widths at a coverage instead of standard deviations."""
    scales_scores: bool = False
    """Multiplies the scores, which have to be positive then."""


METHODS = {
    "variance": Method(
        variance.VarianceScaling,
        lambda validation, _kind, _coverage: variance.fit_variance(validation),
        lambda _coverage: variance.MIN_STRUCTURES,
        scales_scores=True,
    ),
    "affine": Method(
        affine.Affine,
        lambda validation, score_kind, _coverage: affine.fit_affine(validation, score_kind),
        lambda _coverage: affine.MIN_STRUCTURES,
    ),
    "isotonic": Method(
        isotonic.Isotonic,
        lambda validation, _kind, _coverage: isotonic.fit_isotonic(validation),
        lambda _coverage: isotonic.MIN_STRUCTURES,
    ),
    "conformal": Method(
        conformal.ConformalScaling,
        lambda validation, _kind, coverage: conformal.fit_conformal(validation, coverage),
        conformal.min_structures,
        gives_intervals=True,
        scales_scores=True,
    ),
}
"""What :func:`bnn_jax.recalibration.fit_recalibration` knows."""


def find_method(name: str) -> Method:
    """The method of a name.

    Args:
        name: a key of :data:`METHODS`.

    Raises:
        InputError: it is unknown; the nearest known one is told.
    """
    if name not in METHODS:
        shown, near = nearest_name(name, METHODS)
        raise InputError(
            f"Unknown recalibration method {shown!r}; the nearest known is {near!r} (there are {', '.join(METHODS)})."
        )
    return METHODS[name]
