"""How many steps a compiled call takes: more and more, until it takes seconds."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from bnn_jax.devices import agreed, whole
from bnn_jax.sampling.chain import Chunk

MAX_CHUNK_SECONDS = 5.0


@dataclass
class Pace:
    """Steps of the next call. They decide when the host hears of a run, and nothing else."""

    longest: int
    """Steps that a call may take, to which every plan is padded: one shape for all."""
    length: int = 1

    def run(
        self, chunk_fn: Chunk, states: Any, data: Any, plan_fn: Callable, step: int, stop: int
    ) -> tuple[Any, Any, int]:
        """Take the next steps, and wait for them.

        Args:
            chunk_fn: from :func:`bnn_jax.sampling.chain.build_chunk`.
            states: before them, as the chunk takes them.
            data: passed to ``chunk_fn``.
            plan_fn: ``(first_step, num_steps) -> [step, chain, batch]``.
            step: steps taken so far.
            stop: not to go beyond.

        Returns:
            States, infos on the host with leaves [step, chain], and the number of steps.
        """
        num_steps = min(self.length, stop - step)
        plan = _padded(plan_fn(step, num_steps), self.longest)
        start = time.perf_counter()
        states, infos = chunk_fn(states, data, plan, num_steps)
        infos = jax.tree.map(lambda leaf: np.asarray(leaf)[:num_steps], whole(infos))  # waits for the device
        seconds = agreed(time.perf_counter() - start)
        if num_steps == self.length and seconds < MAX_CHUNK_SECONDS / 2:
            self.length = min(self.longest, 2 * self.length)
        return states, infos, num_steps


def _padded(plan: Int[np.ndarray, "step chain batch"], num_steps: int) -> Int[np.ndarray, "longest chain batch"]:
    padded = np.zeros((num_steps, *plan.shape[1:]), plan.dtype)
    padded[: len(plan)] = plan
    return padded


def written(old: np.ndarray, first: int, new: np.ndarray) -> np.ndarray:
    """A copy of ``old`` with the rows from ``first`` on replaced by ``new``."""
    old = old.copy()
    old[first : first + len(new)] = new
    return old
