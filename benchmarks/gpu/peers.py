"""This package, a plain e3nn-jax NequIP and, where PyTorch and it are installed, mir-group/nequip, in turn."""

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.gpu.clock import Clock
from benchmarks.peers import compare
from bnn_jax.config import PresetName

CASES: dict[PresetName, compare.Case] = {
    "tiny": compare.Case(1, 8, 2, 10),
    "small": compare.Case(2, 32, 3, 5),
    "paper": compare.Case(2, 64, 4, 30),
}
"""About the size of each preset; the other hyper-parameters are the same for all."""
NUM_ROUNDS, NUM_CALLS = 5, 5


def measure(presets: Sequence[PresetName], clock: Clock) -> Iterator[dict[str, Any]]:
    """Records with ``case``, ``implementations`` (names, sizes, times in ms by task and round) and ``rows``."""
    builders: dict[str, compare.Builder] = {compare.REFERENCE: compare.ours, "plain e3nn-jax": compare.plain}
    process = None
    if importlib.util.find_spec("torch") and importlib.util.find_spec("nequip"):
        process = compare.NequIPProcess(sys.executable, "eager", None)
        builders["nequip (eager)"] = process.build
    try:
        for preset in presets:
            if not clock.left():
                break
            found = compare.compare(CASES[preset], builders, NUM_ROUNDS, NUM_CALLS)
            yield {
                "preset": preset,
                "case": str(CASES[preset]),
                "implementations": [times._asdict() for times in found],
                "rows": compare.rows(CASES[preset], found),
            }
    finally:
        if process is not None:
            process.close()
