"""Convergence and temperature diagnostics of chains.

Weights of a network have no meaning one by one (neurons permute, layers rescale), so R-hat and the effective sample
size are those of quantities in function space: predictions on a fixed set of structures.
"""

import math

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Real

from bnn_jax.types import Params

__all__ = [
    "MIN_DRAWS",
    "agreement",
    "configurational_temperature",
    "function_space_ess",
    "function_space_rhat",
    "kinetic_temperature",
]

MIN_DRAWS = 4
"""Draws a chain below which R-hat is not defined: halves of two draws are the fewest with a variance."""
MIN_DEALS = 20
"""Ways to deal the draws to chains below which no deal is rare."""
_rhat, _ess_bulk = (
    jax.jit(blackjax.rhat),
    jax.jit(blackjax.ess_bulk),
)  # one by one their operations take seconds to compile


def function_space_rhat(draws: Float[Array | np.ndarray, "chain sample quantity"]) -> Float[Array, " quantity"]:
    """Rank-normalised split R-hat, the larger of the bulk's and the tail's.

    Every chain is split in two, so that a single chain is judged by its halves. Above 1.01 the chains disagree.

    Args:
        draws: each chain's draws of scalar quantities, such as predicted energies of fixed structures.

    Returns:
        R-hat of each quantity. NaN with fewer than 4 draws a chain, for a quantity that never changes, and for one
        with a NaN among its draws.

    Reference:
        Vehtari et al. (2021), doi:10.1214/20-BA1221, section 4; computed by BlackJAX.
    """
    _, num_draws, num_quantities = draws.shape
    if num_draws < MIN_DRAWS:
        return jnp.full(num_quantities, jnp.nan)
    return _rhat(jnp.asarray(draws)).reshape(num_quantities)


def function_space_ess(draws: Float[Array | np.ndarray, "chain sample quantity"]) -> Float[Array, " quantity"]:
    """Bulk effective sample size of all chains together, rank-normalised and split.

    Args:
        draws: each chain's draws of scalar quantities.

    Returns:
        Effective number of independent draws of each quantity. NaN with fewer than 4 draws a chain and for a
        quantity with a NaN among its draws; 0 for one that never changes.

    Reference:
        Vehtari et al. (2021), doi:10.1214/20-BA1221, section 4; computed by BlackJAX.
    """
    _, num_draws, num_quantities = draws.shape
    if num_draws < MIN_DRAWS:
        return jnp.full(num_quantities, jnp.nan)
    return _ess_bulk(jnp.asarray(draws)).reshape(num_quantities)


def agreement(draws: Float[Array | np.ndarray, "chain sample quantity"], num_permutations: int = 999) -> float:
    """P value of the chains' agreement: how often draws dealt to the chains at random would lie as far apart.

    The statistic is the variance between the chains' means of each quantity over its variance over all draws, summed
    over quantities. Independent draws of one distribution can be exchanged between chains, so that the p value is exact
    for them, however the quantities depend on each other and however few the draws; draws that depend on their
    neighbours in the chain lower it, as they should. A single chain is judged by its halves.

    Args:
        draws: each chain's draws of scalar quantities.
        num_permutations: dealt at random, with a fixed seed.

    Returns:
        Between 1 / (num_permutations + 1) and 1; NaN where there are so few draws that it could not be below 0.05
        whatever they are.
    """
    values = np.asarray(draws, np.float64)
    if len(values) == 1:
        half = values.shape[1] // 2
        values = np.concatenate([values[:, :half], values[:, values.shape[1] - half :]])
    num_chains, num_draws, num_quantities = values.shape
    num_ways = math.factorial(num_chains * num_draws) // (math.factorial(num_draws) ** num_chains)
    if num_ways // math.factorial(num_chains) < MIN_DEALS:
        return float("nan")
    pooled = values.reshape(-1, num_quantities)
    spread = pooled.std(axis=0)
    pooled = (pooled - pooled.mean(axis=0))[:, spread > 0] / spread[spread > 0]

    def apart(order: Int[np.ndarray, " draw"]) -> float:
        return float(np.square(pooled[order].reshape(num_chains, num_draws, -1).mean(axis=1)).sum())

    rng, found = np.random.default_rng(0), apart(np.arange(len(pooled)))
    dealt = [apart(rng.permutation(len(pooled))) for _ in range(num_permutations)]
    return (1 + sum(each >= found * (1 - 1e-9) for each in dealt)) / (1 + num_permutations)


def kinetic_temperature(
    momentum: Params,
    inverse_mass: Params,
    step_size: Real[ArrayLike, ""],
    alpha: Real[ArrayLike, ""],
    data_size: int,
) -> Float[Array, ""]:
    r"""Temperature at which the momentum of :mod:`bnn_jax.sampling.sghmc` would be stationary.

    .. math:: \hat T = \frac{N \gamma (2 - \alpha)}{2 \alpha} \left\langle \frac{v^2}{M} \right\rangle

    with the mean over coordinates. As the step size goes to zero the momentum obeys
    :math:`v \leftarrow (1 - \alpha) v + \alpha \sqrt{2 M T / (N \gamma)} n`, whose variance is
    :math:`2 \alpha M T / ((2 - \alpha) N \gamma)`, so that the estimate has mean T. At a finite step a normal target of
    curvature k gives T over :math:`1 - \eta k / (2 (2 - \alpha))` with :math:`\eta = \alpha \gamma / (M N)`, the factor
    by which the position's variance is too large as well. Over d coordinates the relative standard error is
    :math:`\sqrt{2 / d}`.

    Args:
        momentum: v.
        inverse_mass: 1 / M, a pytree like the momentum, a prefix of it, or a scalar.
        step_size: gamma of the step that made the momentum.
        alpha: friction.
        data_size: N.

    Returns:
        The estimate, dimensionless like the sampler's ``temperature``.
    """
    weighted = jax.tree.map(
        lambda v, w: jnp.sum(jnp.square(v) * jnp.asarray(w, v.dtype)),
        momentum,
        jax.tree.broadcast(inverse_mass, momentum),
    )
    mean = optax.tree.sum(weighted) / optax.tree.size(momentum)
    return jnp.asarray(data_size * step_size * (2 - alpha) / (2 * alpha) * mean)


def configurational_temperature(position: Params, gradient: Params) -> Float[Array, ""]:
    r"""Temperature of a position by the virial theorem, :math:`\hat T = \theta \cdot \nabla U(\theta) / d`.

    If :math:`\theta` has density proportional to :math:`\exp(-U / T)`, integration by parts gives
    :math:`\langle \theta_i \partial_i U \rangle = T` for every coordinate. This assumes that coordinates are unbounded
    and that :math:`\theta \exp(-U / T)` vanishes at infinity, as any normal prior ensures. The origin may be shifted:
    any constant may be taken from ``position``, and one near the mean lowers the scatter. A minibatch gradient keeps
    the mean if the minibatch is fresh: drawn independently of the position.

    Args:
        position: theta, a draw of the chain.
        gradient: gradient of U, the negative log density of the full data at temperature 1, at that position.

    Returns:
        The estimate from one draw; average it over draws.

    Reference:
        Wenzel et al. (2020), arXiv:2002.02405, appendix on temperature diagnostics.
    """
    return jnp.asarray(optax.tree.vdot(position, gradient) / optax.tree.size(position))
