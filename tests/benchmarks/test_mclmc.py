"""The challenger's kernel: its geometry, its energy, and normal targets with and without noise in the gradient."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.mcmc.integrators import IntegratorState, esh_dynamics_momentum_update_one_step, isokinetic_velocity_verlet
from numpy.testing import assert_allclose

from benchmarks.samplers import mclmc
from bnn_jax.types import InputError

DIMENSION = 8
PRECISION = np.geomspace(0.25, 4.0, DIMENSION).astype(np.float32)
NUM_CHAINS = 2_000
NUM_SIGMA = 5
"""Two-sided chance 6e-7, as in tests/statistics."""


def gradient_fn(position, minibatch):
    return -PRECISION * position + minibatch


def log_density(position):
    return -0.5 * jnp.sum(PRECISION * position**2)


def path(step_size, num_steps, inverse_mass=1.0, length=np.inf, temperature=1.0, start=None):
    """States and infos of one chain with full gradients."""
    kernel, zero = mclmc.build_kernel(length), jnp.zeros(DIMENSION)
    start = mclmc.init(jnp.ones(DIMENSION), jax.random.key(1)) if start is None else start

    def step(state, key):
        new, info = kernel(key, state, gradient_fn, zero, step_size, inverse_mass, temperature)
        return new, (new, info)

    return jax.lax.scan(step, start, jax.random.split(jax.random.key(0), num_steps))[1]


@partial(jax.jit, static_argnames=("num_steps",))
def final_positions(step_size, inverse_mass, noise_std, temperature, length, num_steps):
    kernel = mclmc.build_kernel(DIMENSION**0.5) if length is None else mclmc.build_kernel(np.inf)

    def one(key):
        def step(state, key):
            noise_key, step_key = jax.random.split(key)
            noise = noise_std * jax.random.normal(noise_key, (DIMENSION,))
            return kernel(step_key, state, gradient_fn, noise, step_size, inverse_mass, temperature)[0], None

        start, direction, steps = jax.random.split(key, 3)
        position = jax.random.normal(start, (DIMENSION,)) * PRECISION**-0.5
        keys = jax.random.split(steps, num_steps)
        return jax.lax.scan(step, mclmc.init(position, direction), keys)[0].position

    return jax.vmap(one)(jax.random.split(jax.random.key(0), NUM_CHAINS))


def variances(step, inverse_mass=1.0, noise_std=0.0, temperature=1.0, length=None, time=20.0):
    """Of each coordinate over that of the target, from chains that ran for a time that forgets their start.

    Args:
        step: h / sqrt(d), the time step that Hamiltonian dynamics would have.
    """
    h, noise = step * DIMENSION**0.5, jnp.broadcast_to(jnp.asarray(noise_std, jnp.float32), (DIMENSION,))
    mass = jnp.broadcast_to(jnp.asarray(inverse_mass, jnp.float32), (DIMENSION,))
    draws = np.asarray(final_positions(h, mass, noise, temperature, length, round(time / step)), np.float64)
    return np.mean(draws**2, axis=0) * PRECISION / temperature


ERROR = np.sqrt(2 / NUM_CHAINS)
"""Standard error of one of them."""
WHITE = 1 / PRECISION
NOISE = np.where(np.arange(DIMENSION) < DIMENSION // 2, 8.0, 0.5) * PRECISION**0.5
"""Standard deviations that differ by 16 between halves of the whitened coordinates, where the gradient has 1."""


def test_the_direction_keeps_its_length():
    states, infos = path(1.0, 500, inverse_mass=jnp.asarray(WHITE), length=2.0)
    assert_allclose(jnp.linalg.norm(states.momentum, axis=1), 1, atol=1e-6)
    assert bool(infos.is_finite.all())


def test_it_is_blackjax_s_full_batch_integrator_in_one_gradient_a_step():
    """Its positions and energy changes are those of isokinetic velocity Verlet, with which it shares no step loop."""
    step_size, mass, temperature = 0.7, np.linspace(0.5, 2.0, DIMENSION).astype(np.float32), 0.5
    tempered = lambda x: log_density(x) / temperature  # noqa: E731
    start = mclmc.init(jnp.ones(DIMENSION), jax.random.key(1))
    turn = esh_dynamics_momentum_update_one_step(mass)
    gradient = jax.grad(tempered)(start.position)
    middle = start._replace(momentum=turn(start.momentum, gradient, step_size, -0.5)[0])
    states, infos = path(step_size, 10, jnp.asarray(mass), temperature=temperature, start=middle)
    theirs = IntegratorState(*start[:2], tempered(start.position), gradient)
    integrator, positions, changes = isokinetic_velocity_verlet(tempered, mass), [], []
    for _ in range(10):
        before = theirs
        theirs, kinetic = integrator(theirs, step_size)
        positions.append(theirs.position)
        changes.append(kinetic - theirs.logdensity + before.logdensity)
    assert_allclose(states.position, jnp.stack(positions), rtol=1e-4, atol=1e-5)
    ours = np.asarray(infos.energy_change)
    assert np.isnan(ours[0])
    assert_allclose(ours[1:] * DIMENSION**0.5, jnp.stack(changes[:-1]), atol=1e-4)


def test_the_energy_error_of_a_step_falls_with_the_third_power_of_its_size():
    """Mean square over one path of equal length; float32 leaves a floor of some 1e-6."""
    rms = [
        float(jnp.sqrt(jnp.nanmean(path(step, round(40 / step), length=3.0)[1].energy_change ** 2)))
        for step in (1.0, 0.5, 0.25)
    ]
    assert_allclose(np.divide(rms[:-1], rms[1:]), 8, rtol=0.3)


def test_a_pytree_moves_as_its_coordinates_do():
    kernel, key = mclmc.build_kernel(2.0), jax.random.key(0)
    flat = mclmc.init(jnp.arange(4.0), jax.random.key(1))
    tree = mclmc.MCLMCState(*({"a": leaf[:1], "b": leaf[1:].reshape(3, 1)} for leaf in flat[:2]), flat.half_change)
    mass = {"a": 2.0, "b": jnp.arange(1.0, 4.0)[:, None]}
    negative = lambda position, _: jax.tree.map(jnp.negative, position)  # noqa: E731
    new_tree, _ = kernel(key, tree, negative, None, 0.5, mass)
    new_flat, _ = kernel(key, flat, negative, None, 0.5, jnp.array([2.0, 1, 2, 3]))
    assert_allclose(jnp.concatenate([new_tree.position["a"], new_tree.position["b"][:, 0]]), new_flat.position)


@pytest.mark.parametrize("temperature", [0.25, 1.0])
def test_small_steps_tend_to_the_target(temperature):
    """With full gradients; at a large step the variances are too large by far more than Monte Carlo error."""
    small = variances(0.2, WHITE, temperature=temperature)
    assert_allclose(small, 1, atol=NUM_SIGMA * ERROR)
    assert_allclose(small.mean(), 1, atol=NUM_SIGMA * ERROR / DIMENSION**0.5)
    large = variances(1.6, WHITE, temperature=temperature)
    assert large.mean() - 1 > NUM_SIGMA * ERROR / DIMENSION**0.5


def test_no_preconditioner_is_needed_where_there_is_time():
    assert_allclose(variances(0.1, time=40.0), 1, atol=NUM_SIGMA * ERROR)


@pytest.mark.parametrize("length", [None, np.inf], ids=["refreshed", "by_noise_alone"])
def test_noise_that_is_the_same_in_all_directions_does_no_harm(length):
    """Three times the gradient itself: SGHMC would be heated by as much as its step allows."""
    assert_allclose(variances(0.1, WHITE, 3 * PRECISION**0.5, length=length), 1, atol=NUM_SIGMA * ERROR)


@pytest.mark.parametrize("length", [None, np.inf], ids=["refreshed", "by_noise_alone"])
def test_noise_that_differs_does_unless_the_preconditioner_makes_it_the_same(length):
    """Variances 1.6 and 0.46 times the target's, 2.3 and 0.03 without refreshment; and 1 with W as 1 / V."""
    first, last = variances(0.1, WHITE, NOISE, length=length).reshape(2, -1)
    assert np.all(first > 1.4) and np.all(last < 0.6)
    by_noise = NOISE**-2 * np.exp(np.mean(np.log(WHITE * NOISE**2)))
    assert_allclose(variances(0.05, by_noise, NOISE, length=length, time=60.0), 1, atol=NUM_SIGMA * ERROR)


def test_wrong_settings_are_refused():
    with pytest.raises(InputError, match="decoherence_length"):
        mclmc.build_kernel(0.0)
    with pytest.raises(InputError, match="two coordinates"):
        mclmc.init(jnp.ones(1), jax.random.key(0))
