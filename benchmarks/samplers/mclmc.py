r"""Microcanonical Langevin dynamics on minibatch gradients, one gradient a step.

A point moves at constant speed through the coordinates :math:`y = W^{-1/2} \theta` of an inverse mass W, and the
gradient of :math:`U / T`, with U the negative log density of the full data, turns its direction u, a unit vector:

.. math::
    \dot y = u, \qquad \dot u = -(1 - u u^T) \, \nabla_y U / (T (d - 1)) .

A step of length h is, in this order, half a turn of u by the gradient, a partial refreshment of u that forgets it over
the length L, the other half of the turn by the same gradient, and a move of y by h u: the splitting of velocity
Verlet, begun in its middle so that the one gradient is taken where the step begins, as :mod:`bnn_jax.sampling.sghmc`
takes it. Turn and refreshment are BlackJAX's. A speed that is fixed cannot be heated: noise of the gradient that is the
same in all directions of y only refreshes u, and noise that is not tilts u towards the noisy directions, where the
chain then spreads too far. A W in proportion to the inverse variance of the noise makes it the same.

References:
    Robnik et al. (2023), arXiv:2212.08549, for the dynamics; Steeg and Galstyan (2021), arXiv:2111.02434, for the turn
    in closed form; Sommer et al. (2026), arXiv:2602.06500, for minibatches and the preconditioning by their noise.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.mcmc.integrators import esh_dynamics_momentum_update_one_step, partially_refresh_momentum
from blackjax.util import generate_unit_vector
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Real

from bnn_jax.types import InputError, Params, PRNGKey

GradEstimator = Callable[[Params, Any], Params]
"""As of :mod:`bnn_jax.sampling.sghmc`: of the gradient of the full-data log density (ascent)."""


class MCLMCState(NamedTuple):
    """What the chain carries from step to step."""

    position: Params
    momentum: Params
    """u, of Euclidean norm one over all leaves together, in the coordinates y."""
    half_change: Float[Array, ""]
    """Energy change of the first half of the move that led here; NaN before the first."""


class MCLMCInfo(NamedTuple):
    """Scalars of one step."""

    grad_norm: Float[Array, ""]
    """Euclidean norm of the gradient of U / T, at the position before the step."""
    energy_change: Float[Array, ""]
    r"""Energy change per root dimension, :math:`\Delta E / \sqrt d`, of the move that led to the position before the
    step; NaN in the first step. Its mean square is the energy variance per dimension that tuners of the step size hold
    at a target. The potential's part is the mean of the gradients at both ends along the move, which is exact on normal
    targets and errs elsewhere by as little, in powers of h, as the integrator itself; two minibatches' noise adds."""
    is_finite: Bool[Array, ""]
    """Whether every number of the new position and momentum is finite."""


def init(position: Params, rng_key: PRNGKey) -> MCLMCState:
    """State with a random direction.

    Args:
        position: pytree of floating point arrays, of two numbers at least.
        rng_key: of the direction.

    Raises:
        InputError: there is one coordinate only, in which no direction can turn.
    """
    position = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), position)
    if sum(leaf.size for leaf in jax.tree.leaves(position)) < 2:
        raise InputError("MCLMC needs a position of two coordinates at least; use SGHMC for one.")
    return MCLMCState(position, generate_unit_vector(rng_key, position), jnp.asarray(jnp.nan))


def build_kernel(decoherence_length: float = math.inf) -> Callable[..., tuple[MCLMCState, MCLMCInfo]]:
    """Build the transition kernel of the head of this module.

    The kernel is ``kernel(rng_key, state, grad_estimator, minibatch, step_size, inverse_mass, temperature=1.0)`` with
    the arguments of :func:`bnn_jax.sampling.sghmc.build_kernel`'s, but for two:

    - ``step_size`` is h, the length of a step in the coordinates y. On a normal target whose variances are those of W
      it takes h / sqrt(d) where Hamiltonian dynamics of unit mass takes its time step, and must stay below 2 sqrt(d).
    - ``temperature`` must be positive: nothing here descends.

    Args:
        decoherence_length: L, in the units of h; infinity leaves the refreshment to the gradient's noise.

    Raises:
        InputError: it is not positive.
    """
    if not decoherence_length > 0:
        raise InputError(f"The decoherence_length of MCLMC is {decoherence_length}; give a positive one.")

    def kernel(
        rng_key: PRNGKey,
        state: MCLMCState,
        grad_estimator: GradEstimator,
        minibatch: Any,
        step_size: Real[ArrayLike, ""],
        inverse_mass: Params,
        temperature: Real[ArrayLike, ""] = 1.0,
    ) -> tuple[MCLMCState, MCLMCInfo]:
        position, unravel = ravel_pytree(state.position)
        direction, dtype = ravel_pytree(state.momentum)[0], position.dtype
        gradient = ravel_pytree(grad_estimator(state.position, minibatch))[0].astype(dtype) / temperature
        inverse_mass = _flat_like(inverse_mass, state.position)
        step_size, root = jnp.asarray(step_size, dtype), jnp.sqrt(inverse_mass)
        turn = esh_dynamics_momentum_update_one_step(inverse_mass)
        arrived, _, change = turn(direction, gradient, step_size, 0.5)
        climb = -step_size / 2 * jnp.dot(gradient, root * direction)
        refreshed = partially_refresh_momentum(arrived, rng_key, step_size, jnp.asarray(decoherence_length, dtype))
        leaving, velocity, next_change = turn(refreshed, gradient, step_size, 0.5)
        next_climb = -step_size / 2 * jnp.dot(gradient, velocity)
        new_position = position + step_size * velocity
        info = MCLMCInfo(
            grad_norm=jnp.linalg.norm(gradient),
            energy_change=(state.half_change + change + climb) / math.sqrt(position.size),
            is_finite=jnp.all(jnp.isfinite(new_position)) & jnp.all(jnp.isfinite(leaving)),
        )
        return MCLMCState(unravel(new_position), unravel(leaving), next_change + next_climb), info

    return kernel


def _flat_like(tree: Params, position: Params) -> Float[Array, " coordinate"]:
    """A pytree like the position, a prefix of it or a scalar, with a number for each coordinate."""
    whole = jax.tree.broadcast(tree, position)
    values = jax.tree.map(lambda x, value: jnp.broadcast_to(jnp.asarray(value, x.dtype), x.shape), position, whole)
    return ravel_pytree(values)[0]
