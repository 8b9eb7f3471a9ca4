"""BlackJAX's stock ``sghmc`` (alpha 0.01, beta 0): its exact law on normal targets, and many parallel chains of it.

Each call draws a momentum from N(0, 1), whatever the temperature, then takes n explicit Euler steps on one minibatch,

    x <- x + e p,    p <- (1 - a e) p + e grad log density(old x) + sqrt(2 a e T) n,

and forgets the momentum. With a -> 0 these are rotations by phi = arctan(e sqrt(k)) that grow by sqrt(1 + e^2 k), so
that the stationary variance is r sin^2(n phi) / (1 - r cos^2(n phi)) / k with r = (1 + e^2 k)^n: n kicks of which only
n - 1 reach the position before it is returned, hence n / (n - 1) / k as e -> 0, and divergence near n phi = pi.
"""

from functools import partial

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

ALPHA = 0.01


def stationary_covariance(target, step_size, num_integration_steps, temperature=1.0, gradient_std=0.0):
    """Of theta, by the discrete Lyapunov equation; requires a stable chain."""
    dimension = len(target.mean)
    eye, zero = np.eye(dimension), np.zeros((dimension, dimension))
    inner = np.block([[eye, step_size * eye], [-step_size * target.precision, (1 - ALPHA * step_size) * eye]])
    powers = [np.linalg.matrix_power(inner, i) for i in range(num_integration_steps + 1)]
    to_position = [power[:dimension, dimension:] for power in powers]  # from a momentum that many steps before
    noise = to_position[-1] @ to_position[-1].T
    noise += 2 * ALPHA * step_size * temperature * sum(part @ part.T for part in to_position[:-1])
    shared = step_size * gradient_std * sum(to_position[:-1], zero)
    transition = powers[-1][:dimension, :dimension]
    assert np.max(np.abs(np.linalg.eigvals(transition))) < 1, "the chain diverges"
    return scipy.linalg.solve_discrete_lyapunov(transition, noise + shared @ shared.T)


@partial(jax.jit, static_argnames=("num_integration_steps", "num_calls", "num_chains"))
def _chains(mean, precision, step_size, temperature, gradient_std, num_integration_steps, num_calls, num_chains):
    def grad_estimator(position, minibatch):
        return -precision @ (position - mean) + minibatch

    algorithm = blackjax.sghmc(grad_estimator, num_integration_steps)

    def one_chain(rng_key):
        def call(position, key):
            noise_key, step_key = jax.random.split(key)
            minibatch = gradient_std * jax.random.normal(noise_key, mean.shape)
            return algorithm.step(step_key, position, minibatch, step_size, temperature), None

        start = algorithm.init(mean + 1.0)
        return jax.lax.scan(call, start, jax.random.split(rng_key, num_calls))[0] - mean

    return jax.vmap(one_chain)(jax.random.split(jax.random.key(0), num_chains))


def run_chains(target, step_size, num_integration_steps, num_calls, num_chains, temperature=1.0, gradient_std=0.0):
    """Final theta - mu of chains started one unit off the mean: float64 [chain, d]."""
    arrays = (jnp.asarray(x, jnp.float32) for x in (*target, step_size, temperature, gradient_std))
    return np.asarray(_chains(*arrays, num_integration_steps, num_calls, num_chains), np.float64)
