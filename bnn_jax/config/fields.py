"""Fields of a configuration that have a range.

The upper ends are far beyond any use: they keep a configuration from anybody from tracing or allocating without end.
"""

import dataclasses
import numbers
import reprlib
from dataclasses import field
from typing import Any, Literal, NamedTuple

from bnn_jax.types import InputError


class _Range(NamedTuple):
    low: float | int
    high: float | int
    excluded: Literal["none", "low", "high"] = "none"

    def __contains__(self, value: Any) -> bool:
        above = value > self.low or (value == self.low and self.excluded != "low")
        return bool(above and (value < self.high or (value == self.high and self.excluded != "high")))

    def __str__(self) -> str:
        least = f"above {self.low:g}" if self.excluded == "low" else f"at least {self.low:g}"
        most = f"below {self.high:g}" if self.excluded == "high" else f"at most {self.high:g}"
        return f"{'positive' if least == 'above 0' else least} and {most}"


def within(default: Any, low: float | int, high: float | int, excluded: Literal["none", "low", "high"] = "none") -> Any:
    """A field whose value, or each of whose values, lies from ``low`` to ``high``."""
    return field(default=default, metadata={"range": _Range(low, high, excluded)})


def positive(default: float, high: float | int) -> Any:
    """A field whose value, or each of whose values, is above 0 and at most ``high``."""
    return within(default, 0, high, "low")


def check_ranges(section: Any, name: str) -> None:
    """Check every field of a section.

    Args:
        section: a dataclass.
        name: of the section, for errors.

    Raises:
        InputError: a value is no number of its field's kind, or out of its range.
    """
    for item in dataclasses.fields(section):
        value, allowed = getattr(section, item.name), item.metadata.get("range")
        if allowed is None:
            continue
        is_list = isinstance(item.default, tuple)
        kind = numbers.Real if isinstance(item.default, float) else numbers.Integral
        for i, each in enumerate(value if is_list else (value,)):
            key = f"{name}.{item.name}[{i}]" if is_list else f"{name}.{item.name}"
            if not isinstance(each, kind) or isinstance(each, bool):
                what = "a number" if kind is numbers.Real else "an integer"
                raise InputError(f"{key} is {reprlib.repr(each)}; it must be {what}.")
            if each not in allowed:
                raise InputError(f"{key} is {reprlib.repr(each)}; it must be {allowed}.")
