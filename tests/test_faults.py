"""Promises 3 and 7: whatever happens to a run, nothing is lost, nothing is wrong, and no traceback is shown."""

import sys

import pytest

from benchmarks import faults


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="signals, limits and mounts are Linux's")
def test_a_small_fault_campaign(tmp_path):
    """A tenth of the trials of ``python benchmarks/faults.py``."""
    outcomes = list(faults.campaign(tmp_path, scale=0.1, seed=1))
    assert len(outcomes) == 10
    for outcome in outcomes:
        assert (outcome.lost, outcome.wrong, outcome.tracebacks) == (0, 0, 0), outcome
