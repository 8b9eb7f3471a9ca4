"""The methods by name: each is a module, or anything else, with ``fit`` and ``potential``."""

import importlib
from typing import Any, Protocol, runtime_checkable

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.config import Config
from bnn_jax.types import InputError, Potential, PRNGKey, nearest_name

_HOMES = {
    "sghmc": "bnn_jax.methods.sghmc",
    "ensemble": "bnn_jax.methods.ensemble",
    "shallow": "bnn_jax.methods.shallow",
    "dropout": "bnn_jax.methods.dropout",
    "ivon": "bnn_jax.methods.ivon",
    "mean_variance": "bnn_jax.methods.mean_variance",
    "evidential": "bnn_jax.methods.evidential",
    "mixture": "bnn_jax.methods.mixture",
    "laplace": "bnn_jax.methods.laplace",
}
_REGISTERED: dict[str, "Method"] = {}


@runtime_checkable
class Method(Protocol):
    """What a method has to offer; one that fits several networks also has :func:`num_networks`."""

    def potential(self, config: Config) -> Potential:
        """The potential whose parameters :meth:`fit` finds, data-dependent fields of the configuration filled in."""
        ...

    def fit(self, rng_key: PRNGKey, train: Dataset, valid: Dataset | None, config: Config, **options: Any) -> Any:
        """A :class:`bnn_jax.Posterior`; see :func:`bnn_jax.methods.sghmc.fit` for the options."""
        ...


def num_networks(name: str, config: Config) -> int:
    """Networks that a method fits: what its ``num_networks(config)`` says, or one where it has no such function.

    Args:
        name: of the method.
        config: of the run.

    Raises:
        InputError: there is no such method.
    """
    method: Any = get(name)
    return method.num_networks(config) if hasattr(method, "num_networks") else 1


def register(name: str, method: Method) -> None:
    """Make a method known under a name, for ``Config.method``.

    Args:
        name: new, or of a method registered before, which it replaces.
        method: a module or object with ``fit`` and ``potential``.

    Raises:
        InputError: the name is that of a method of this package.
    """
    if name in _HOMES:
        raise InputError(f"{name} is a method of bnn_jax; choose another name.")
    _REGISTERED[name] = method


def names() -> tuple[str, ...]:
    """Of all methods."""
    return (*_HOMES, *_REGISTERED)


def get(name: str) -> Method:
    """The method of a name.

    Raises:
        InputError: there is none; the nearest name is given.
    """
    if name in _REGISTERED:
        return _REGISTERED[name]
    if name in _HOMES:
        module: Any = importlib.import_module(_HOMES[name])
        return module
    shown, near = nearest_name(name, names())
    raise InputError(f"There is no method {shown!r}; the nearest is {near} (all: {', '.join(names())}).")
