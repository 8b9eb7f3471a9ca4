"""Which releases of JAX the package works with: what its own metadata say, asked before JAX is."""

from importlib.metadata import requires, version

from packaging.requirements import Requirement


class UnsupportedJaxError(ImportError):
    """The installed JAX is too old, or known to fail or to compute wrongly."""


def unsupported_jax() -> UnsupportedJaxError:
    """What to raise where the installed release turns out not to work."""
    return UnsupportedJaxError(
        f"bnn_jax does not work with the installed jax {version('jax')} and jaxlib {version('jaxlib')};"
        f" get others with pip install '{_required('jax')}' '{_required('jaxlib')}'."
    )


def check_jax() -> None:
    """Refuse a release that is older than the oldest tested one, or excluded by name.

    A newer one than those tested may well work, and is not refused here: where it lacks what the package needs,
    :mod:`bnn_jax.jax_internals` says so.

    Raises:
        UnsupportedJaxError: it is refused.
    """
    for name in ("jax", "jaxlib"):
        bounds = [bound for bound in _required(name).specifier if not bound.operator.startswith("<")]
        if not all(bound.contains(version(name), prereleases=True) for bound in bounds):
            raise unsupported_jax()


def _required(name: str) -> Requirement:
    requirements = map(Requirement, requires("bnn_jax") or ())
    return next(each for each in requirements if each.name == name and each.marker is None)
