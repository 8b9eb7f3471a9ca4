"""What chains say of the validation set as they run: errors for the log, figures that settle with the samples."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bnn_jax.atoms.dataset import Dataset
from bnn_jax.atoms.graph import PackedData, batch_size_needed, gather_batch, pack
from bnn_jax.atoms.statistics import Statistics
from bnn_jax.config import Config
from bnn_jax.methods.base import SamplesOfMethod
from bnn_jax.predict import without_padding
from bnn_jax.predictive import combine
from bnn_jax.sampling.groups import RunProgress
from bnn_jax.types import Params, Prediction, Predictive

MAX_MONITORED = 100
"""Structures of a validation set that figures and verdicts look at, at most."""

FiguresFn = Callable[[Predictive, int, Sequence[str]], Mapping[str, float]]
"""``figures_fn(predictive, num_chains, labels)``: of the samples so far on the validation set, whatever is to be known;
labels are those of the training set."""


class Watch(NamedTuple):
    """Of one run; host arrays."""

    errors: Callable[[Params], dict[str, np.ndarray]]
    """Of positions [chain, ...]: mean absolute and root mean square errors of forces, in eV/Angstrom [chain]."""
    figures: Callable[[RunProgress], Mapping[str, float]]
    """Of the samples that every chain has by now; nothing before the first."""


UNWATCHED = Watch(lambda _: {}, lambda _: {})


def watch(valid: Dataset, config: Config, statistics: Statistics, figures_fn: FiguresFn | None) -> Watch:
    """Look at a run through a validation set, which does not influence the chains.

    Args:
        valid: validation set; its first :data:`MAX_MONITORED` structures give the figures.
        config: of the run, with the model's data-dependent fields filled in.
        statistics: of the training set.
        figures_fn: of the samples so far; None for none.
    """
    packed = pack(valid, config.model.cutoff, statistics.species, statistics.shifts)
    predict = _predict(config, len(valid), batch_size_needed(packed, np.arange(len(valid))))
    on_device = jax.device_put(packed)
    labelled = np.isfinite(valid.forces)
    monitored = valid.take(np.arange(min(len(valid), MAX_MONITORED)))
    shifts = statistics.shifts[np.searchsorted(statistics.species, monitored.numbers)]
    predictions: dict[tuple[int, int], Prediction] = {}

    def errors(position: Params) -> dict[str, np.ndarray]:
        if not labelled.any():
            return {}
        forces = np.asarray(predict(position, on_device).forces)[:, : len(labelled)]
        error = (forces - valid.forces)[:, labelled]
        return {
            "valid_forces_mae": np.abs(error).mean(axis=1),
            "valid_forces_rmse": np.sqrt(np.mean(error**2, axis=1)),
        }

    def of_monitored(position: Params) -> Prediction:
        return without_padding(jax.device_get(predict(position, on_device)), len(monitored), len(monitored.numbers))

    def figures(progress: RunProgress) -> Mapping[str, float]:
        groups = [(i, group) for i, group in enumerate(progress.groups) if group.num_samples > 0 and group.active.any()]
        if figures_fn is None or not groups:
            return {}
        taken = range(min(int(group.num_samples) for _, group in groups))
        for index, group in groups:
            for i in taken:
                if (index, i) not in predictions:  # a resumed run begins with none
                    position = jax.tree.map(lambda leaf, i=i: leaf[:, i], group.samples)
                    predictions[index, i] = of_monitored(position)
        active = np.concatenate([group.active for _, group in groups])

        def joined(*leaves: np.ndarray) -> np.ndarray:
            of_chains = np.concatenate(
                [np.stack(leaves[i : i + len(taken)], axis=1) for i in range(0, len(leaves), len(taken))]
            )
            return of_chains[active].reshape(-1, *leaves[0].shape[1:])

        together = jax.tree.map(joined, *(predictions[index, i] for index, _ in groups for i in taken))
        predictive = combine(together, shifts, monitored.num_atoms, statistics.labels)
        return figures_fn(predictive, int(active.sum()), statistics.labels)

    return Watch(errors, figures)


@functools.lru_cache(maxsize=8)
def _predict(config: Config, num_structures: int, sizes: tuple[int, int]) -> Callable[[Params, PackedData], Prediction]:
    """Jitted: padded predictions [chain, ...] for so many packed structures."""
    apply_samples = SamplesOfMethod.of(config)

    def predict(position: Params, packed: PackedData) -> Prediction:
        graph = gather_batch(packed, jnp.arange(num_structures), *sizes).graph
        return apply_samples(position, graph, at_once=1)._replace(stress=None)

    return jax.jit(predict)
