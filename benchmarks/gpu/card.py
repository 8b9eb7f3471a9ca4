"""What the device can do at best: a large matrix product and a large copy, in single precision."""

import jax
import jax.numpy as jnp

from benchmarks.gpu.clock import median_ms

SECONDS = 1.0
PRECISIONS = ("float32", "tensorfloat32")
"""Of products of float32 matrices: what the package asks for, and what is faster on a GPU that has it."""


def measure() -> dict[str, float]:
    """FLOP/s of matrix products by precision, and bytes/s of a copy, read and write together."""
    is_small = jax.default_backend() == "cpu"
    size = 2048 if is_small else 8192
    matrix = jax.random.normal(jax.random.key(0), (size, size))
    found = {}
    for precision in PRECISIONS:
        product = jax.jit(lambda a, precision=precision: jnp.matmul(a, a, precision=precision))
        found[f"flops_per_s_{precision}"] = 2 * size**3 / (1e-3 * median_ms(lambda: product(matrix), SECONDS))  # noqa: B023
    long = jnp.zeros(2**26 if is_small else 2**29)
    copy = jax.jit(lambda a: a + 1)
    found["bytes_per_s"] = 2 * long.nbytes / (1e-3 * median_ms(lambda: copy(long), SECONDS))
    return found
