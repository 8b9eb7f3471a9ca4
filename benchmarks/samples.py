"""K posterior samples in one vmapped call against K calls of one sample each: a Markdown table.

From the repository's root::

    JAX_NUM_CPU_DEVICES=2 python -m benchmarks.samples

Both compute the same energies, forces and standard deviations. They take turns; ratios are medians of the rounds'.
The samples of one call are spread over all devices, a single sample is computed on one; give as many as there are
cores, as the command line does.

K calls are also what a committee of K separate models costs, for example MACE's ASE calculator given several models:
it builds the neighbour list once, calls one model after another, each of which repeats all that does not depend on the
weights, and copies the results to the host once. Here too nothing is waited for before the last call is sent off.
"""

import argparse
import statistics
from typing import NamedTuple

import jax
import numpy as np

from benchmarks.cases import PRESETS, Case, build_case, build_predictions
from benchmarks.timing import environment, head, median_ratio, paired, row
from bnn_jax.predict import spread

ATOMS_PER_STRUCTURE = 9
"""Of ethanol."""


class Comparison(NamedTuple):
    """Medians over the rounds."""

    together_ms: float
    """One call with all samples."""
    single_ms: float
    """As many calls as samples, one sample each."""
    saving: float
    """Single over together: above one, one call is faster."""
    cost: float
    """All samples in one call, in units of one call of one sample."""


def compare(case: Case, num_samples: int, num_structures: int, num_rounds: int) -> Comparison:
    """Time both ways in turn, after checking that they agree."""
    predictor, (samples, *rest) = build_predictions(case, num_samples, num_structures)
    one_sample = build_predictions(case, 1, num_structures)[0]
    one_rest = build_predictions(case, 1, num_structures)[1][1:]
    host = jax.device_get(samples)
    singles = [spread(jax.tree.map(lambda leaf, k=k: leaf[k : k + 1], host)) for k in range(num_samples)]
    calls = {
        "together": lambda: predictor(samples, *rest),
        "single": lambda: [one_sample(sample, *one_rest) for sample in singles],
    }
    forces = np.concatenate([prediction.forces for prediction in calls["single"]()])
    np.testing.assert_allclose(calls["together"]().forces, forces, rtol=1e-3, atol=1e-3 * np.abs(forces).max())
    times = paired(calls, num_rounds)
    saving = median_ratio(times["single"], times["together"])
    medians = {name: statistics.median(values) for name, values in times.items()}
    return Comparison(medians["together"], medians["single"], saving, num_samples / saving)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=["tiny", "small"])
    parser.add_argument("--structures", type=int, nargs="+", default=[1, 16], help="sizes of the batch")
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    columns = "one call, ms", "K single calls, ms", "single / one call", "one call / one sample", "us/atom/sample"
    print(head("preset", "structures", "K", *columns))
    for preset in arguments.presets:
        case = build_case(preset)
        for num_structures in arguments.structures:
            for num_samples in arguments.samples:
                result = compare(case, num_samples, num_structures, arguments.rounds)
                per_atom = 1e3 * result.together_ms / (num_structures * ATOMS_PER_STRUCTURE * num_samples)
                figures = f"{result.together_ms:.2f}", f"{result.single_ms:.2f}", f"{result.saving:.2f}"
                figures += f"{result.cost:.2f}", f"{per_atom:.1f}"
                print(row(preset, num_structures, num_samples, *figures), flush=True)
    print(f"\n{len(jax.devices())} devices. Medians of {arguments.rounds} rounds. {environment()}")


if __name__ == "__main__":
    main()
