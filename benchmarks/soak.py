"""A long run watched from outside: does its memory, its number of open files or the time of its steps grow?

From the repository's root, on Linux::

    python -m benchmarks.soak

`bnn-jax fit` runs the preset ``tiny`` for 100,000 steps on a terminal, with progress bar, log and checkpoints, as a
user's run does. Memory is the resident set; times are from the rows of the log as they appear.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.timing import head, machine, row

NUM_WINDOWS = 10


class Look(NamedTuple):
    """The process at one moment."""

    seconds: float
    step: int
    resident_mb: float
    open_files: int


def settings(num_steps: int) -> list[str]:
    """Half of the steps before the first sample, the rest in ten cycles."""
    values = {
        "sampler.convergence_steps": num_steps // 2,
        "sampler.cycle_steps": num_steps // 20,
        "sampler.num_samples": 11,
    }
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def watch(run: Path, num_steps: int, interval_seconds: float = 0.5) -> list[Look]:
    """Start the run on a pseudo-terminal and look at it until it ends."""
    terminal, other_end = os.openpty()
    arguments = ["fit", "ammonia", "--preset", "tiny", "--out", str(run), *settings(num_steps)]
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; from bnn_jax.cli import main; sys.exit(main())", *arguments],
        stdout=other_end,
        stderr=other_end,
    )
    os.close(other_end)
    threading.Thread(target=drain, args=(terminal,), daemon=True).start()
    looks, begin, page = [], time.monotonic(), os.sysconf("SC_PAGE_SIZE")
    while process.poll() is None:
        try:
            resident = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * page / 1e6
            open_files = len(os.listdir(f"/proc/{process.pid}/fd"))
        except (OSError, IndexError):  # it has just ended
            break
        looks.append(Look(time.monotonic() - begin, last_step(run / "log.jsonl"), resident, open_files))
        time.sleep(interval_seconds)
    if process.wait():
        raise SystemExit(f"The run failed with exit code {process.returncode}.")
    return looks


def drain(terminal: int) -> None:
    """Read what the run shows, as a terminal does."""
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:  # the other end is closed
        pass


def last_step(log: Path) -> int:
    """Step of the last row of a log, 0 where there is none."""
    if not log.exists():
        return 0
    with open(log, "rb") as handle:
        handle.seek(max(0, log.stat().st_size - 4096))
        rows = handle.read().split(b"\n")[:-1]
    return int(rows[-1].split(b'"step": ')[1].split(b",")[0]) if rows else 0


def table(looks: list[Look], num_steps: int) -> str:
    """Ten windows of the sampling, from step 1,000 on."""
    seconds, steps, resident, files = np.array(looks).T
    lines = [head("steps", "resident, MB", "open files", "ms a step")]
    edges = np.linspace(1_000, num_steps, NUM_WINDOWS + 1)
    times, levels, counts = [], [], []
    for first, last in itertools.pairwise(edges):
        inside = (steps >= first) & (steps < last) & (steps > 0)
        if inside.sum() < 2:
            continue
        slope = np.polyfit(steps[inside], seconds[inside], 1)[0]
        times.append(1e3 * slope)
        levels.append(resident[inside].max())
        counts.append(files[inside].max())
        lines.append(row(f"{first:.0f} to {last:.0f}", f"{levels[-1]:.0f}", f"{counts[-1]:.0f}", f"{times[-1]:.2f}"))
    lines.append(
        f"\nFrom first to last window: memory {levels[-1] - levels[0]:+.0f} MB (range {np.ptp(levels):.0f}), open files"
        f" {counts[-1] - counts[0]:+.0f}, step time {times[-1] / times[0] - 1:+.1%} (slowest over fastest window"
        f" {max(times) / min(times) - 1:+.1%})."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        looks = watch(Path(folder) / "run", options.steps)
    print(table(looks, options.steps))
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
