"""IVON: each step against algorithm 1 in double precision, and what it ends at against a posterior in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnn_jax.config import IVONConfig, TrainerConfig
from bnn_jax.training import build_step, init
from bnn_jax.training.ivon import Normal, ivon, sample

NUM_DATA, PRIOR_STD, NOISE_STD = 20, 0.5, 0.8
CONSTANT = TrainerConfig(learning_rate=0.05, schedule="plateau", average_decay=0.0)
"""Constant learning rate; of the average the last step is all that is left."""


def test_draws_have_mean_and_variance() -> None:
    normal = Normal({"w": jnp.asarray([3.0, -1.0])}, {"w": jnp.asarray([0.04, 9.0])})
    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn = np.asarray(jax.vmap(lambda key: sample(key, normal))(keys)["w"], np.float64)
    std = np.sqrt(normal.variance["w"])
    assert (np.abs(drawn.mean(axis=0) - normal.mean["w"]) < 4 * std / np.sqrt(20_000)).all()
    np.testing.assert_allclose(drawn.var(axis=0), normal.variance["w"], rtol=4 * np.sqrt(2 / 20_000))


@pytest.mark.usefixtures("x64")
def test_steps_are_algorithm_1() -> None:
    """Three of them, so that momentum and its correction count; the radius clips one of the weights."""
    config = IVONConfig(hess_init=2.0, beta1=0.7, beta2=0.9, clip_radius=0.25)
    optimizer, places = ivon(config, NUM_DATA, PRIOR_STD), []
    target, slopes = np.array([1.0, -2.0, 0.4]), np.array([0.3, 5.0, 1.0])

    def value_and_grad_fn(params, minibatch, rng_key):
        del minibatch, rng_key
        places.append(np.asarray(params["w"]))
        gradient = {"w": jnp.tanh(params["w"] - target) * slopes}
        return (jnp.sum(params["w"]), jnp.zeros(())), gradient

    step = build_step(value_and_grad_fn, CONSTANT, optimizer)
    mean = np.array([0.9, 1.0, -0.3])
    state = init(jax.random.key(3), {"w": jnp.asarray(mean)}, CONSTANT, optimizer)
    delta, h, g, clipped = 1 / (20 * 0.5**2), np.full(3, 2.0), np.zeros(3), np.zeros(3, bool)
    for t in range(1, 4):
        state, info = step(state, None)
        variance = 1 / (20 * (h + delta))
        gradient = np.tanh(places[-1] - target) * slopes
        estimate = gradient * (places[-1] - mean) / variance
        g = 0.7 * g + 0.3 * gradient
        h = 0.9 * h + 0.1 * estimate + 0.5 * 0.1**2 * (h - estimate) ** 2 / (h + delta)
        newton = (g / (1 - 0.7**t) + delta * mean) / (h + delta)
        clipped |= np.abs(newton) > 0.25
        mean = mean - 0.05 * (2.0 + delta) * np.clip(newton, -0.25, 0.25)
        np.testing.assert_allclose(state.params["w"], mean, rtol=1e-6)  # the learning rate is float32
        np.testing.assert_allclose(state.optimizer.hessian["w"], h, rtol=1e-6)
        np.testing.assert_allclose(state.average.mean["w"], mean, rtol=1e-6)
        np.testing.assert_allclose(state.average.variance["w"], 1 / (20 * (h + delta)), rtol=1e-6)
        assert info.is_finite and info.loss == pytest.approx(places[-1].sum())
    assert clipped.any() and not clipped.all()
    assert len({place.tobytes() for place in places}) == 3


def test_linear_regression_ends_at_its_posterior() -> None:
    """With columns at right angles the posterior has independent weights: mean and precision in closed form.

    The curvature estimate is H (e^2 + shift e) with e from N(0, 1): its variance is 2 H^2 at the posterior's mean. A
    running mean with a = 1 - beta2 has the relative std sqrt(a), and the last term of the update raises it by
    a / 2 * 2 H^2 / (h + delta), less than a. The mean has the std sqrt(r / 2) sigma for steps of the rate r, at most.
    """
    rng, num_copies, steps, a = np.random.default_rng(0), 500, 3_000, 0.005
    design = np.linalg.qr(rng.normal(size=(NUM_DATA, 3)))[0] * np.sqrt(NUM_DATA) * np.array([0.5, 1.0, 2.0])
    targets = design @ np.array([1.0, -0.5, 0.3]) + NOISE_STD * rng.normal(size=NUM_DATA)
    precision = design.T @ design / NOISE_STD**2 + np.eye(3) / PRIOR_STD**2
    expected = np.linalg.solve(precision, design.T @ targets / NOISE_STD**2)
    x, y = jnp.asarray(design, jnp.float32), jnp.asarray(targets, jnp.float32)

    def loss(params, minibatch, rng_key):
        del minibatch, rng_key
        return 0.5 * jnp.mean((y - x @ params["w"]) ** 2) / NOISE_STD**2, jnp.zeros(())

    optimizer = ivon(IVONConfig(hess_init=1.0, beta2=1 - a, clip_radius=1e30), NUM_DATA, PRIOR_STD)
    step = build_step(jax.value_and_grad(loss, has_aux=True), CONSTANT, optimizer)

    def trained(rng_key):
        state = init(rng_key, {"w": jnp.zeros(3)}, CONSTANT, optimizer)
        return jax.lax.scan(lambda state, _: (step(state, None)[0], None), state, length=steps)[0].average

    found = jax.jit(jax.vmap(trained))(jax.random.split(jax.random.key(1), num_copies))
    precisions = np.asarray(1 / found.variance["w"], np.float64)
    np.testing.assert_allclose(precisions.mean(axis=0), np.diag(precision), rtol=a + 4 * np.sqrt(a / num_copies))
    std, rate = 1 / np.sqrt(np.diag(precision)), CONSTANT.learning_rate * (1.0 + 1 / (NUM_DATA * PRIOR_STD**2))
    error = np.asarray(found.mean["w"], np.float64).mean(axis=0) - expected
    assert (np.abs(error) < 4 * std * np.sqrt(rate / 2 / num_copies)).all()
