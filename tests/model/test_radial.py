"""Radial basis, envelope and network against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from bnn_jax.model.initial import draw
from bnn_jax.model.radial import MLP, SILU_GAIN, TANH_GAIN, bessel_basis, polynomial_envelope, silu, tanh

pytestmark = pytest.mark.usefixtures("x64")

CUTOFF = 4.0


@pytest.mark.parametrize(
    ("gain", "function"), [(SILU_GAIN, lambda x: x * special.expit(x)), (TANH_GAIN, np.tanh)], ids=["silu", "tanh"]
)
def test_gains_normalise_the_second_moment(gain: float, function) -> None:
    moment, _ = integrate.quad(lambda x: function(x) ** 2 * stats.norm.pdf(x), -12, 12)
    np.testing.assert_allclose(gain, moment**-0.5, rtol=1e-6)


def test_activations_are_odd_where_parity_asks_for_it() -> None:
    x = jnp.linspace(-3, 3, 7)
    np.testing.assert_array_equal(tanh(-x), -tanh(x))
    assert silu(jnp.zeros(())) == 0  # so that an atom without neighbours keeps zero features


@pytest.mark.parametrize("exponent", [2, 5, 6])
def test_envelope_falls_from_one_to_zero_with_two_derivatives(exponent: int) -> None:
    def envelope(x):
        return polynomial_envelope(jnp.asarray(x), exponent)

    first, second, third = jax.grad(envelope), jax.grad(jax.grad(envelope)), jax.grad(jax.grad(jax.grad(envelope)))
    assert envelope(0.0) == 1
    inside = 1 - 1e-12
    for derivative in (envelope, first, second):
        np.testing.assert_allclose(derivative(inside), 0, atol=1e-8)  # the third derivative is of order 100
        assert derivative(1.0) == derivative(1.5) == 0
    assert abs(third(inside)) > 1
    values = envelope(jnp.linspace(0, 1, 50))
    assert (np.diff(values) < 0).all()


def test_basis_is_the_spherical_bessel_function_of_order_zero() -> None:
    lengths = jnp.linspace(0.3, CUTOFF - 1e-6, 9)
    basis = bessel_basis(lengths, CUTOFF, 3, 6)
    roots = np.pi * np.arange(1, 4)
    without_envelope = 6 * roots / CUTOFF**2 * special.spherical_jn(0, roots * np.asarray(lengths)[:, None] / CUTOFF)
    np.testing.assert_allclose(basis, without_envelope * polynomial_envelope(lengths[:, None] / CUTOFF, 6), rtol=1e-9)


def test_basis_vanishes_from_the_cutoff_on() -> None:
    lengths = jnp.array([CUTOFF, CUTOFF + 1e-9, 2 * CUTOFF])
    np.testing.assert_array_equal(bessel_basis(lengths, CUTOFF, 3, 6), np.zeros((3, 3)))
    gradient = jax.jacobian(lambda r: bessel_basis(r, CUTOFF, 3, 6))(lengths)
    np.testing.assert_array_equal(gradient, np.zeros((3, 3, 3)))


def test_network_keeps_unit_variance() -> None:
    """Over the prior of its weights; the error of a second moment of 4000 draws is a few per cent."""
    mlp = MLP((16, 16, 16))
    x = jax.random.normal(jax.random.key(0), (4, 16))
    outputs = jax.vmap(lambda key: mlp.apply({"params": draw(mlp, key, x)}, x))(
        jax.random.split(jax.random.key(1), 1000)
    )
    np.testing.assert_allclose(np.mean(outputs**2), np.mean(x**2), rtol=0.25)


def test_network_is_what_it_says() -> None:
    mlp = MLP((5, 2), use_bias=True)
    x = jax.random.normal(jax.random.key(0), (3, 4))
    params = draw(mlp, jax.random.key(1), x)
    hidden = silu(x @ params["kernel_0"] / 2 + params["bias_0"])
    np.testing.assert_allclose(
        mlp.apply({"params": params}, x), hidden @ params["kernel_1"] / np.sqrt(5) + params["bias_1"], rtol=1e-12
    )


def test_last_layer_can_start_at_zero() -> None:
    mlp = MLP((5, 2), use_bias=True, zero_last=True)
    x = jnp.ones((3, 4))
    np.testing.assert_array_equal(mlp.apply({"params": draw(mlp, jax.random.key(1), x)}, x), np.zeros((3, 2)))
