"""Time of energies and forces: one posterior sample, eight in one vmapped call, eight one after the other."""

import jax
import pytest

from benchmarks.cases import build_case, build_predictions
from benchmarks.samples import compare
from benchmarks.timing import environment

NUM_SAMPLES = 8
# structures of a batch: one as in molecular dynamics, 16 as in an evaluation
BATCHES = [("tiny", 1), ("tiny", 16), ("small", 1), ("small", 16)]


def time_call(benchmark, preset, num_structures, num_samples):
    case = build_case(preset)
    predictor, arguments = build_predictions(case, num_samples, num_structures)
    benchmark.group = f"energies and forces, {preset}, {num_structures} structures"
    benchmark.extra_info |= {"environment": environment()}
    prediction = benchmark.pedantic(
        lambda: jax.block_until_ready(predictor(*arguments)), rounds=10, iterations=1, warmup_rounds=1
    )
    assert prediction.energy.shape == (num_samples, num_structures + 1)  # one structure is padding
    return case


@pytest.mark.parametrize(("preset", "num_structures"), BATCHES)
def test_one_sample(benchmark, preset, num_structures):
    time_call(benchmark, preset, num_structures, 1)


@pytest.mark.parametrize(("preset", "num_structures"), BATCHES)
def test_eight_samples_in_one_call(benchmark, capsys, preset, num_structures):
    case = time_call(benchmark, preset, num_structures, NUM_SAMPLES)
    if benchmark.stats is None:  # --benchmark-disable
        return
    result = compare(case, NUM_SAMPLES, num_structures, 10)
    benchmark.extra_info |= result._asdict()
    with capsys.disabled():
        print(
            f"\n{preset}, {num_structures} structures: {NUM_SAMPLES} samples {result.together_ms:.2f} ms in one call,"
            f" {result.single_ms:.2f} ms one by one, ratio {result.saving:.2f}"
        )
