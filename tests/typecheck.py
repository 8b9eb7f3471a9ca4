"""The checker that tests put behind every annotation of bnn_jax (``--jaxtyping-packages`` in pyproject.toml)."""

from typing import Any, Self

from beartype import BeartypeConf, FrozenDict, beartype

# jaxtyping decorates methods one by one, where beartype cannot know what Self is.
checked = beartype(conf=BeartypeConf(hint_overrides=FrozenDict({Self: Any})))
