"""The command for a lent accelerator: it ends in time, and what it found by then is there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.__main__ import affordable_chains
from benchmarks.gpu.clock import Clock, side_by_side
from benchmarks.gpu.section import section

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_it_runs_on_a_cpu(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--minutes", "1", "--presets", "tiny", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["command"].endswith(f"--out {tmp_path}") and "jax" in results["environment"]
    assert results["tests"]["passed"] is not False, done.stderr
    assert (tmp_path / "section.md").read_text() == section(results)


STEP = {
    "preset": "paper",
    "batch_size": 30,
    "flops": 2e9,
    "bytes_accessed": 1e9,
    "compile_s": 9.0,
    "temporary_bytes": 1,
}
RESULTS = {
    "command": "python -m benchmarks.gpu --out here",
    "environment": "A CPU, 2 cores; Python 3.12, jax 0.11. Device: A Card.",
    "platform": "driver 1",
    "tests": {"passed": True, "line": "7 passed in 60 s"},
    "steps": [STEP | {"chains": chains, "ms_per_step": ms} for chains, ms in ((1, 2.0), (8, 5.0), (2, 2.5), (4, 3.9))],
    "predictions": [
        {"system": "ethanol", "atoms": 9, "samples": k, "ms": 0.1 * k, "us_per_atom_and_sample": 11.1} | STEP
        for k in (8, 1)
    ],
    "card": {"flops_per_s_float32": 5e13, "flops_per_s_tensorfloat32": 4e14, "bytes_per_s": 2e12},
    "training": [
        {"preset": "paper", "chains": 4, "step": step, "seconds": step * 0.004, "valid_forces_mae": 0.1}
        | {"valid_forces_rmse": 0.2}
        for step in (0, 1000)
    ],
}


def test_the_section_has_a_table_of_every_part_that_there_is():
    text = section(RESULTS)
    assert text.startswith("## On A Card\n\n```\npython -m benchmarks.gpu --out here\n```\n\n")
    assert "| paper | 1 | 30 | 2.000 | 1.00 | 0.56 | 1e+03 | 2 | 500 | 25 |" in text
    assert "| paper | 8 | 30 | 5.000 | 2.50 | 1.39 | 400 | 0.8 | 200 | 10 |" in text
    assert "| paper | ethanol | 8 | 0.800 | 8.00 | 11.10 |" in text
    assert "4 ms a step of all, and 1.11 hours for 10^6 steps" in text
    assert "implementation" not in text
    assert "hours" not in section({key: RESULTS[key] for key in ("command", "environment", "platform")})


def test_chains_that_cost_no_more_than_twice_one():
    assert affordable_chains(RESULTS["steps"], "paper") == 4
    assert affordable_chains(RESULTS["steps"], "tiny") == 1


def test_jobs_that_come_too_late_are_left_out(capsys):
    assert side_by_side({"a": lambda: 1, "b": lambda: 2}, Clock.of(60)) == {"a": 1, "b": 2}
    assert side_by_side({"a": lambda: 1}, Clock.of(0)) == {}
    assert "Left out for want of time: a" in capsys.readouterr().err


def test_a_job_that_fails_for_other_reasons_than_the_device_is_heard_of():
    with pytest.raises(ZeroDivisionError):
        side_by_side({"a": lambda: 1 / 0}, Clock.of(60))
