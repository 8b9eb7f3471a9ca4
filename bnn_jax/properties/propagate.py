"""Any property with an error bar: evaluated with every sample of the posterior by itself, and counted."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from bnn_jax.atoms.sources import Structures
from bnn_jax.calculator import BNNCalculator
from bnn_jax.compose import samples_fn
from bnn_jax.methods import Posterior
from bnn_jax.predict import GrowingSizes, Predictor
from bnn_jax.types import InputError, Params


class FailedSamplesWarning(UserWarning):
    """A property could not be had of every sample."""


class Propagated(NamedTuple):
    """A property of a posterior, in the shape and unit that the function gave it: an array, or a tree of them."""

    mean: Any
    std: Any
    """Spread over samples (ddof = 1): what is not known of the potential. Noise of the labels is no part of it."""
    draws: Any
    """Of every sample, along a leading axis."""
    samples: Int[np.ndarray, " draw"]
    """The numbers of the samples; fewer than there are where some failed."""


def propagate(
    posterior: Posterior | Predictor,
    fn: Callable[[Any], Any],
    structure: Structures | None = None,
    *,
    allow_failed: bool = False,
    progress: bool = True,
) -> Propagated:
    """Mean, std and draws of a property that is computed with a potential.

    Args:
        posterior: samples, or what :func:`bnn_jax.load_exported` reads.
        fn: the property. Without ``structure`` it is called with an ASE calculator of one sample and may do whatever
            takes one: relax, vibrate, find a path. With it, ``fn(energy)`` gets a pure function of one sample,
            ``energy(positions, cell=None, edges=None)`` in eV above the atomic shifts, is compiled once, and evaluated
            with all samples on the device. It returns a number, an array, or a tree of them.
        structure: that the pure function is of, as :func:`bnn_jax.compose.energy_fn` takes it.
        allow_failed: leave out samples that ``fn`` raises :class:`bnn_jax.types.InputError` of or gives NaN or infinity
            for, with a warning that names them (:class:`FailedSamplesWarning`).
        progress: show a progress bar on a terminal.

    Raises:
        InputError: some samples fail (all of them, with ``allow_failed``), or their results differ in shape.

    Example:
        >>> import numpy as np
        >>> Propagated(mean=1.0, std=0.5, draws=np.array([0.5, 1.0, 1.5]), samples=np.arange(3)).std
        0.5
    """
    predictor = posterior.predictor
    if structure is None:
        draws, reasons = _by_calculators(predictor, fn, allow_failed, progress)
    else:
        draws, reasons = _on_the_device(predictor, fn, structure), {}
    sound = [k for k, draw in enumerate(draws) if k not in reasons and _is_finite(draw)]
    failed = [k for k in range(len(draws)) if k not in sound]
    if failed:
        first = f"of sample {failed[0]}: {reasons.get(failed[0], 'it is not finite')}"
        message = f"The property failed for samples {_listed(failed)} of {len(draws)} ({first})"
        if not (allow_failed and sound):
            raise InputError(
                f"{message}; look at one with propagate's fn and Predictor.of_sample, or allow_failed=True."
            )
        warnings.warn(f"{message}; they are left out.", FailedSamplesWarning, stacklevel=2)
    kept = [draws[k] for k in sound]
    _check_shapes(kept, sound)
    return collected(jax.tree.map(lambda *leaves: np.stack(leaves), *kept), np.array(sound))


def collected(draws: Any, samples: Int[np.ndarray, " draw"] | None = None) -> Propagated:
    """Mean and std of draws that are there already.

    Args:
        draws: an array, or a tree of them, with a leading axis of samples.
        samples: their numbers; all of them if None.
    """
    number = len(jax.tree.leaves(draws)[0])
    return Propagated(
        mean=jax.tree.map(lambda leaf: leaf.mean(axis=0), draws),
        std=jax.tree.map(lambda leaf: leaf.std(axis=0, ddof=1) if number > 1 else np.zeros_like(leaf[0]), draws),
        draws=draws,
        samples=np.arange(number) if samples is None else samples,
    )


def _by_calculators(
    predictor: Predictor, fn: Callable[[Any], Any], allow_failed: bool, progress: bool
) -> tuple[list[Any], dict[int, str]]:
    """Draws, and why some failed."""
    sizes, draws, reasons = GrowingSizes(), [], {}
    numbers = range(predictor.num_samples)
    for k in tqdm(numbers, desc="propagate", unit="sample", delay=5, disable=None if progress else True):
        try:
            found = fn(BNNCalculator(predictor.of_sample(k), sizes=sizes))
        except InputError as error:
            if not allow_failed:
                raise InputError(f"The property failed for sample {k}: {error}") from error
            found, reasons[k] = None, str(error)
        draws.append(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), found))
    return draws, reasons


def _on_the_device(predictor: Predictor, fn: Callable[[Any], Any], structure: Structures) -> list[Any]:
    predict = samples_fn(predictor, structure)

    def one(params: Params) -> Any:
        alone = jax.tree.map(lambda leaf: leaf[None], params)

        def energy(positions: Any, cell: Any = None, edges: Any = None) -> Any:
            return predict(positions, cell, edges, alone).energy[0, 0]

        return jax.tree.map(jnp.asarray, fn(energy))

    at_once = None if jax.default_backend() == "cpu" else predictor.num_samples
    found = jax.jit(lambda samples: jax.lax.map(one, samples, batch_size=at_once))(predictor.samples)
    found = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), jax.device_get(found))
    return [jax.tree.map(lambda leaf, k=k: leaf[k], found) for k in range(predictor.num_samples)]


def _is_finite(draw: Any) -> bool:
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(draw))


def _check_shapes(draws: list[Any], numbers: list[int]) -> None:
    first = jax.tree.map(np.shape, draws[0])
    for k, draw in zip(numbers, draws, strict=True):
        if (shape := jax.tree.map(np.shape, draw)) != first:
            raise InputError(
                f"The property has another shape for sample {k} than for sample {numbers[0]}, {shape} instead of"
                f" {first}; let fn return the same for every sample."
            )


def _listed(numbers: list[int], most: int = 8) -> str:
    more = f" and {len(numbers) - most} more" if len(numbers) > most else ""
    return ", ".join(map(str, numbers[:most])) + more
