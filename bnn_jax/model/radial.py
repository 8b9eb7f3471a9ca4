"""Radial basis, its envelope, and the network that turns distances into tensor-product weights."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bnn_jax.model.initial import UNIT, ZERO

# Second moments of the activations under a standard normal, so that a unit-variance input gives a unit-variance output.
SILU_GAIN = 1.6765325
TANH_GAIN = 1.5925374


def silu(x: Array) -> Array:
    """SiLU scaled to a unit second moment for standard normal input."""
    return SILU_GAIN * jax.nn.silu(x)


def tanh(x: Array) -> Array:
    """Hyperbolic tangent scaled to a unit second moment for standard normal input."""
    return TANH_GAIN * jnp.tanh(x)


def polynomial_envelope(x: Float[Array, "*shape"], exponent: int) -> Float[Array, "*shape"]:
    r"""Smooth cutoff that is 1 at ``x = 0`` and zero with two derivatives from ``x = 1`` on.

    .. math:: 1 - \tfrac{(p+1)(p+2)}{2} x^p + p(p+2) x^{p+1} - \tfrac{p(p+1)}{2} x^{p+2}

    Reference: Gasteiger et al. (2020), arXiv:2003.03123, eq. 8; NequIP's default has p = 6.
    """
    p = exponent
    inside = 1 - x**p * ((p + 1) * (p + 2) / 2 - p * (p + 2) * x + p * (p + 1) / 2 * x**2)
    return jnp.where(x < 1, inside, 0)


def bessel_basis(
    lengths: Float[Array, " edge"], cutoff: float, num_bessel: int, exponent: int
) -> Float[Array, "edge bessel"]:
    r"""Bessel functions under the polynomial envelope, in 1/Angstrom.

    .. math:: b_n(r) = \frac{6}{r_c} \frac{\sin(n \pi r / r_c)}{r}\, f_\mathrm{env}(r / r_c)

    NequIP's constant is 2. With 6, potentials drawn from the prior have forces of the size of the training forces
    (with 2 a tenth to a third of it), and chains converge in fewer steps: after 8,000 on rMD17 ethanol at l_max 1 the
    force error is 0.69 instead of 0.91 kcal/mol/Angstrom.

    Args:
        lengths: distances in Angstrom, positive.
        cutoff: radius in Angstrom from which on the basis is zero.
        num_bessel: number of functions.
        exponent: exponent p of the envelope.

    Reference: Batzner et al. (2022), doi:10.1038/s41467-022-29939-5, eq. 8, up to the constant.
    """
    x = lengths[:, None] / cutoff
    frequencies = jnp.pi * jnp.arange(1, num_bessel + 1, dtype=lengths.dtype)
    return 6 / cutoff * jnp.sin(frequencies * x) / lengths[:, None] * polynomial_envelope(x, exponent)


class MLP(nn.Module):
    """Dense layers with unit normal weights, divided by the root of the fan-in, and SiLU in between.

    Weights start as draws of their standard normal prior (Rensmeyer 2024, 3.2), or with ``zero_last`` at zero in the
    last layer, where a draw would make the exponential of the output overflow.
    """

    features: Sequence[int]
    use_bias: bool = False
    zero_last: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*shape feature"]) -> Float[Array, "*shape out"]:
        for layer, width in enumerate(self.features):
            is_last = layer == len(self.features) - 1
            initial = ZERO if is_last and self.zero_last else UNIT
            kernel = self.param(f"kernel_{layer}", initial, (x.shape[-1], width))
            x = x @ (kernel / jnp.sqrt(x.shape[-1]).astype(x.dtype))
            if self.use_bias:
                x = x + self.param(f"bias_{layer}", initial, (width,))
            if not is_last:
                x = silu(x)
        return x
