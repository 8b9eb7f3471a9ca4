"""When a chain has left its target: what is not finite, and what no sampler of a density reaches.

The bounds are far outside anything that a sound chain does, and far inside what float32 holds: a chain that diverges
grows exponentially, so that it crosses them soon after it has left, while its last sound state is still at hand.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

MAX_KINETIC_TEMPERATURE = 100.0
"""In units of the target's temperature or of 1, whichever is larger: noise of minibatch gradients heats sound chains
to some 2, at any temperature of the injected noise."""
MAX_ENERGY_RISE = 100.0
"""Rise of the potential energy over its first value, in units of temperature for each coordinate. Equipartition gives
each coordinate one half; the untrained start is far above that already."""


class Cause(NamedTuple):
    """Why a chain was found to have diverged, and the two likeliest cures."""

    text: str
    cures: tuple[str, str]


_SMALLER_STEPS = "lower sampler.step_size_first and sampler.cycle_step_size (or give --on-divergence halve-step)"
CAUSES = (
    Cause("its gradient is not finite", (_SMALLER_STEPS, "look for wrong labels and for atoms that nearly coincide")),
    Cause("its state is not finite", (_SMALLER_STEPS, "look for wrong labels and for atoms that nearly coincide")),
    Cause("its potential energy rose far above that of the start", (_SMALLER_STEPS, "look for wrong labels")),
    Cause("its kinetic temperature is far above the target", (_SMALLER_STEPS, "raise sampler.batch_size")),
)
GRADIENT, STATE, ENERGY, HOT = range(len(CAUSES))


class Divergence(NamedTuple):
    """What was found, of one chain."""

    chain: int
    step: int
    """Number of the first bad step, or of the last step of the window whose averages are out of bounds."""
    cause: int
    """Index into :data:`CAUSES`."""


def not_finite(
    is_finite: Bool[np.ndarray, "step chain"],
    potential_energy: Float[np.ndarray, "step chain"],
    grad_norm: Float[np.ndarray, "step chain"],
    first_step: int,
) -> list[Divergence]:
    """Chains with a number that is not finite, each at its first such step.

    Args:
        is_finite: of the state after each step.
        potential_energy: before each step.
        grad_norm: of the gradient that made each step.
        first_step: steps taken before these.
    """
    bad_gradient = ~(np.isfinite(potential_energy) & np.isfinite(grad_norm))
    bad = bad_gradient | ~is_finite
    found = []
    for chain in np.flatnonzero(bad.any(axis=0)).tolist():
        index = int(np.argmax(bad[:, chain]))
        cause = GRADIENT if bad_gradient[index, chain] else STATE
        found.append(Divergence(chain, first_step + index + 1, cause))
    return found


def out_of_bounds(
    kinetic_temperature: Float[np.ndarray, "step chain"],
    potential_energy: Float[np.ndarray, "step chain"],
    first_potential_energy: Float[np.ndarray, " chain"],
    num_coordinates: int,
    temperature: float,
    last_step: int,
) -> list[Divergence]:
    """Chains whose median over a window is beyond the bounds of this module.

    Args:
        kinetic_temperature: of each step of the window.
        potential_energy: minus the estimate of the full-data log density, before each step of the window.
        first_potential_energy: that of each chain's first step.
        num_coordinates: of the position of one chain.
        temperature: of the target.
        last_step: steps taken at the end of the window.
    """
    # Medians: one minibatch with an outlier is no divergence.
    kinetic = np.median(kinetic_temperature, axis=0)
    rise = np.median(potential_energy, axis=0) - first_potential_energy
    energy_bound = MAX_ENERGY_RISE * num_coordinates * max(temperature, 1.0)
    conditions = {
        ENERGY: rise > energy_bound,
        HOT: kinetic > MAX_KINETIC_TEMPERATURE * max(temperature, 1.0),
    }
    found: dict[int, Divergence] = {}
    for cause, condition in conditions.items():
        for chain in np.flatnonzero(condition).tolist():
            found.setdefault(chain, Divergence(chain, last_step, cause))
    return list(found.values())
