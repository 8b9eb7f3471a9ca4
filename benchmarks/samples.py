"""K posterior samples in one vmapped call against K calls of one sample each: a Markdown table.

From the repository's root::

    python -m benchmarks.samples

Both compute the same energies, forces and standard deviations. They take turns; the ratio is the median of the rounds'.
"""

import argparse
import statistics
from typing import NamedTuple

import jax
import numpy as np

from benchmarks.cases import PRESETS, Case, build_case, build_predictions
from benchmarks.timing import environment, head, median_ratio, paired, row


class Comparison(NamedTuple):
    """Medians over the rounds."""

    vmapped_ms: float
    """One call with all samples."""
    single_ms: float
    """As many calls as samples, one sample each."""
    ratio: float
    """Single over vmapped: above one, ``vmap`` is faster."""


def compare(case: Case, num_samples: int, num_structures: int, num_rounds: int) -> Comparison:
    """Time both ways in turn, after checking that they agree."""
    predictor, (samples, *rest) = build_predictions(case, num_samples, num_structures)
    one_sample = build_predictions(case, 1, num_structures)[0]
    singles = [jax.tree.map(lambda leaf, k=k: leaf[k : k + 1], samples) for k in range(num_samples)]
    calls = {
        "vmapped": lambda: predictor(samples, *rest),
        "single": lambda: [one_sample(sample, *rest) for sample in singles],
    }
    forces = np.concatenate([prediction.forces for prediction in calls["single"]()])
    np.testing.assert_allclose(calls["vmapped"]().forces, forces, rtol=1e-3, atol=1e-3 * np.abs(forces).max())
    times = paired(calls, num_rounds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return Comparison(medians["vmapped"], medians["single"], median_ratio(times["single"], times["vmapped"]))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=["tiny", "small"])
    parser.add_argument("--structures", type=int, nargs="+", default=[1, 16], help="sizes of the batch")
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    print(head("preset", "structures", "K", "one vmapped call, ms", "K single calls, ms", "single / vmapped"))
    for preset in arguments.presets:
        case = build_case(preset)
        for num_structures in arguments.structures:
            for num_samples in arguments.samples:
                result = compare(case, num_samples, num_structures, arguments.rounds)
                times = f"{result.vmapped_ms:.2f}", f"{result.single_ms:.2f}", f"{result.ratio:.2f}"
                print(row(preset, num_structures, num_samples, *times), flush=True)
    print(f"\nMedians of {arguments.rounds} rounds. {environment()}")


if __name__ == "__main__":
    main()
