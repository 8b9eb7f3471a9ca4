"""Time per SGHMC step of each preset at its own batch size, as ``fit`` runs it: many steps in one compiled call."""

import jax
import pytest

from benchmarks.cases import build_case, build_steps
from benchmarks.timing import environment


@pytest.mark.parametrize(("preset", "num_steps", "rounds"), [("tiny", 20, 10), ("small", 20, 5), ("paper", 1, 3)])
def test_sghmc_step(benchmark, capsys, preset, num_steps, rounds):
    case = build_case(preset)
    chunk, arguments = build_steps(case, num_steps)
    benchmark.group = "SGHMC steps"
    (states, _) = benchmark.pedantic(
        lambda: jax.block_until_ready(chunk(*arguments)), rounds=rounds, iterations=1, warmup_rounds=1
    )
    assert states.step.tolist() == [num_steps]
    if benchmark.stats is None:  # --benchmark-disable
        return
    milliseconds = 1e3 * benchmark.stats.stats.median / num_steps
    benchmark.extra_info |= {"ms_per_step": milliseconds, "steps_per_call": num_steps, "environment": environment()}
    with capsys.disabled():
        batch = case.config.sampler.batch_size
        print(f"\n{preset}: {milliseconds:.1f} ms per step of {batch} structures (median of {rounds} calls)")
