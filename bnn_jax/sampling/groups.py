"""Chains in groups that run one after another, each side by side within its group.

What a chain does in single precision depends in its last digits on how many run beside it. In groups of one size a run
can therefore be extended by further groups, and is bit for bit the run that was planned with all of them.
"""

from typing import NamedTuple

import jax
import numpy as np

from bnn_jax.config import SamplerConfig
from bnn_jax.sampling.progress import Progress

__all__ = ["RunProgress", "cut", "extended", "group_size"]


def group_size(config: SamplerConfig) -> int:
    """Chains that run side by side: ``chains_at_once``, or all."""
    return config.chains_at_once or config.num_chains


class RunProgress(NamedTuple):
    """Where all groups of a run stand."""

    groups: tuple[Progress, ...]

    @property
    def step(self) -> int:
        """Steps taken, summed over groups."""
        return sum(int(group.step) for group in self.groups)

    @property
    def num_events(self) -> int:
        """Halvings and stops so far, over all chains."""
        return sum(group.num_events for group in self.groups)

    @property
    def active(self) -> np.ndarray:
        """Which chains have not been stopped [chain]."""
        return np.concatenate([group.active for group in self.groups])

    def at(self, index: int, progress: Progress) -> "RunProgress":
        """With another progress of one group."""
        return RunProgress((*self.groups[:index], progress, *self.groups[index + 1 :]))


def cut(progress: RunProgress, num_groups: int, num_samples: int) -> RunProgress:
    """What the progress would be of a run of fewer groups and samples, for the shapes of its checkpoints.

    Args:
        progress: of a run.
        num_groups: groups to keep.
        num_samples: room for samples to keep.
    """
    return RunProgress(tuple(_with_room(group, num_samples) for group in progress.groups[:num_groups]))


def extended(progress: RunProgress, start: RunProgress) -> RunProgress:
    """A progress in a run of more groups and samples, which begins with ``start``; nothing of it changes.

    Args:
        progress: of a run with as many groups and samples as ``start``, or fewer.
        start: of the larger run, before its first step.
    """
    num_samples = jax.tree.leaves(start.groups[0].samples)[0].shape[1]
    begun = tuple(_with_room(group, num_samples) for group in progress.groups)
    return RunProgress(begun + start.groups[len(begun) :])


def _with_room(progress: Progress, num_samples: int) -> Progress:
    """With room for so many samples of each chain: empty room is added, or room taken away."""

    def resized(leaf: np.ndarray) -> np.ndarray:
        new = np.zeros((len(leaf), num_samples, *leaf.shape[2:]), leaf.dtype)
        new[:, : leaf.shape[1]] = leaf[:, :num_samples]
        return new

    return progress._replace(samples=jax.tree.map(resized, progress.samples))
