"""Single leaves of a network's parameters, by their path."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array

Path = tuple[str, ...]


def leaf(params: Mapping[str, Any], path: Path) -> Any:
    """What stands at a path: an array, or a part of the tree."""
    value: Any = params
    for name in path:
        value = value[name]
    return value


def with_leaf(params: Mapping[str, Any], path: Path, value: Array) -> dict[str, Any]:
    """Parameters of which one leaf is another.

    Args:
        params: of the network; they stay as they are.
        path: of the leaf.
        value: the new one.
    """
    name, *rest = path
    return {**params, name: with_leaf(params[name], tuple(rest), value) if rest else value}
