"""YAML from anybody: maps, lists and scalars of bounded size and depth, without anchors, tags or repeated keys."""

from pathlib import Path
from typing import Any

import yaml

from bnn_jax.types import InputError

MAX_BYTES = 100_000
"""A hundred times a configuration; Python's parser needs about a second for as much."""
MAX_DEPTH, MAX_SCALAR = 16, 200
"""Of lists and maps in one another, and characters of a key or value."""

_UNWANTED = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:merge", "tag:yaml.org,2002:value")


class _Loader(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        what = {
            "anchors and aliases are": isinstance(event, yaml.AliasEvent) or event.anchor is not None,
            "tags are": getattr(event, "tag", None) is not None,
            f"scalars of more than {MAX_SCALAR} characters are": len(getattr(event, "value", "")) > MAX_SCALAR,
            f"more than {MAX_DEPTH} levels are": self.depth >= MAX_DEPTH,
        }
        for refused, is_so in what.items():
            if is_so:
                raise yaml.MarkedYAMLError(None, None, f"{refused} not allowed", event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(None, None, "a key must be a word", key_node.start_mark)
            key = self.construct_object(key_node)
            if key in seen:
                raise yaml.MarkedYAMLError(None, None, f"key {key!r} occurs twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


# Dates are text, and << is a key like any other.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _UNWANTED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse(text: str, source: str) -> Any:
    """The plain values that a YAML text stands for.

    Args:
        text: of at most ``MAX_BYTES`` characters.
        source: names it in errors.

    Raises:
        InputError: it is not YAML, or holds more than a configuration needs.
    """
    if len(text) > MAX_BYTES:
        raise InputError(f"{source} has more than {MAX_BYTES} characters, too many for a configuration; shorten it.")
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{source} is not valid YAML ({reason}); correct it there.") from error


def read(path: str | Path) -> Any:
    """The plain values of a YAML file in UTF-8, as :func:`parse` gives them.

    Raises:
        InputError: it cannot be read, or :func:`parse` refuses it.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_BYTES + 1).decode()  # no more of what may have no end
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise InputError(f"Config file {path} cannot be read ({reason}); check the path.") from error
    return parse(text, str(path))
