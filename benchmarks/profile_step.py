"""Where the time of an SGHMC step goes, from parts that contain one another: a Markdown table.

From the repository's root::

    python -m benchmarks.profile_step

The energy alone, then with its forces, then the log posterior's gradient, which differentiates through the forces, then
the whole step with mass, momentum and noise. The parts take turns; the difference of two rows is the cost of what was
added.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import jax

from benchmarks.cases import DATA_SIZE, PRESETS, Case, build_case, build_estimate
from benchmarks.timing import environment, head, median_ratio, paired, row
from bnn_jax.posterior import value_and_grad_estimator
from bnn_jax.sampling import chain


def build_parts(case: Case) -> dict[str, Callable[[], Any]]:
    """Each part as a compiled call on the preset's batch, from the smallest to the whole step."""
    apply, batch = case.potential.apply, case.batch(case.config.sampler.batch_size)
    params = jax.tree.map(lambda leaf: leaf[0], case.params(1))
    value_and_grad = value_and_grad_estimator(build_estimate(case))
    step = jax.jit(chain.build_step(value_and_grad, DATA_SIZE, case.config.sampler))
    energy = jax.jit(lambda params, batch: apply(params, batch.graph).energy)  # XLA drops the unused forces
    forces = jax.jit(lambda params, batch: apply(params, batch.graph)._replace(features=None))
    gradient = jax.jit(value_and_grad)
    state = chain.init(jax.random.key(1), params)
    return {
        "energy": lambda: energy(params, batch),
        "energy, forces and stds": lambda: forces(params, batch),
        "gradient of the log posterior": lambda: gradient(params, batch),
        "whole step": lambda: step(state, batch),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=["tiny", "small"])
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    print(head("part", "preset", "batch", "median ms", "min ms", "part / whole step"))
    for preset in arguments.presets:
        case = build_case(preset)
        times = paired(build_parts(case), arguments.rounds)
        for name, values in times.items():
            share = median_ratio(values, times["whole step"])
            numbers = f"{statistics.median(values):.2f}", f"{min(values):.2f}", f"{share:.2f}"
            print(row(name, preset, case.config.sampler.batch_size, *numbers), flush=True)
    print(f"\n{arguments.rounds} rounds. {environment()}")


if __name__ == "__main__":
    main()
