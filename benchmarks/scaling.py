"""Time and memory against the number of atoms and the size of the batch: a Markdown table.

From the repository's root::

    python -m benchmarks.scaling

The gradient of the log posterior, which is nearly a whole training step, and energies, forces and standard deviations
of posterior samples: for one periodic cell of silicon of growing size, then for a growing batch of ethanol. All sizes
of a preset take turns. Memory is the temporary memory that XLA plans for the compiled program; on a CPU, which computes
samples one after another, more samples need no more of it.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from benchmarks.cases import PRESETS, build_case, build_estimate, build_predictions
from benchmarks.timing import environment, head, paired, row
from bnn_jax.config import PresetName
from bnn_jax.posterior import value_and_grad_estimator

CELLS = (8, 64, 216, 512)
BATCH_SIZES = (1, 2, 4, 8, 16, 32)


class Program(NamedTuple):
    """A compiled program and what it needs."""

    call: Callable[[], Any]
    temporary_bytes: int
    """Of one device."""


class Size(NamedTuple):
    """What is computed at once."""

    system: str
    num_structures: int
    num_atoms: int
    num_edges: int
    gradient: Program
    prediction: Program


def build_program(jitted: Any, arguments: tuple[Any, ...], num_static: int = 0) -> Program:
    """Compile a jitted function for arguments of which the last ``num_static`` are static."""
    compiled = jitted.lower(*arguments).compile()
    dynamic = arguments[: len(arguments) - num_static]
    return Program(lambda: compiled(*dynamic), compiled.memory_analysis().temp_size_in_bytes)


def build_size(preset: PresetName, system: str, num_structures: int, num_samples: int) -> Size:
    """Both programs of a preset for so many structures of a system."""
    case = build_case(preset, system=system, num_structures=num_structures)
    params = jax.tree.map(lambda leaf: leaf[0], case.params(1))
    value_and_grad = jax.jit(value_and_grad_estimator(build_estimate(case)))
    gradient = build_program(value_and_grad, (params, case.batch(num_structures)))
    prediction = build_program(*build_predictions(case, num_samples, num_structures), num_static=2)
    return Size(system, num_structures, len(case.packed.species), len(case.packed.senders), gradient, prediction)


def figures(times: list[float], program: Program, share: int) -> list[str]:
    """Median time in ms, its part of ``share`` in us, and memory's in kB."""
    median = statistics.median(times)
    return [f"{median:.2f}", f"{1e3 * median / share:.1f}", f"{program.temporary_bytes / 1e3 / share:.0f}"]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=["tiny", "small"])
    parser.add_argument("--atoms", type=int, nargs="*", choices=CELLS, default=CELLS, help="of the periodic cell")
    parser.add_argument("--batch", type=int, nargs="*", default=BATCH_SIZES, help="structures of ethanol")
    parser.add_argument("--samples", type=int, default=1, help="of a prediction")
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    asked = [(f"silicon {atoms}", 1) for atoms in arguments.atoms] + [("ethanol", size) for size in arguments.batch]
    columns = "gradient, ms", "us/atom", "kB/atom", "prediction, ms", "us/atom/sample", "kB/atom/sample"
    print(head("system", "preset", "structures", "atoms", "edges/atom", *columns), flush=True)
    for preset in arguments.presets:
        sizes = [build_size(preset, system, number, arguments.samples) for system, number in asked]
        calls = {f"gradient {i}": size.gradient.call for i, size in enumerate(sizes)}
        calls |= {f"prediction {i}": size.prediction.call for i, size in enumerate(sizes)}
        times = paired(calls, arguments.rounds)
        for i, size in enumerate(sizes):
            cells = figures(times[f"gradient {i}"], size.gradient, size.num_atoms)
            cells += figures(times[f"prediction {i}"], size.prediction, size.num_atoms * arguments.samples)
            edges_per_atom = f"{size.num_edges / size.num_atoms:.1f}"
            print(row(size.system, preset, size.num_structures, size.num_atoms, edges_per_atom, *cells), flush=True)
    print(f"\n{arguments.samples} samples. Medians of {arguments.rounds} rounds. {environment()}")


if __name__ == "__main__":
    main()
