"""Paired timings, and Markdown."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax


def machine(more: Mapping[str, str] = {}) -> str:
    """Hardware, load, versions and ``more`` of the kind in one line, to stand beside every table."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":")[1].strip() if names else cpu
    packages = {name: version(name) for name in ("jax", "flax", "e3nn-jax")} | dict(more)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    listed = ", ".join(f"{name} {number}" for name, number in packages.items())
    return f"{cpu}, {os.cpu_count()} cores, load average {load}; Python {platform.python_version()}, {listed}."


def environment(more: Mapping[str, str] = {}) -> str:
    """:func:`machine` and JAX's device."""
    return f"{machine(more)} Device: {jax.devices()[0].device_kind}."


def time_calls(call: Callable[[], Any], num_calls: int) -> list[float]:
    """Wall time of each of ``num_calls`` calls, in ms; ``call`` returns the arrays to wait for."""
    times = []
    for _ in range(num_calls):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(1e3 * (time.perf_counter() - start))
    return times


def paired(calls: Mapping[str, Callable[[], Any]], num_rounds: int) -> dict[str, list[float]]:
    """Wall times in ms of calls that take turns, round by round, so that what else the machine does meets them alike.

    Each is called once before, to compile; each returns the arrays to wait for.
    """
    for call in calls.values():
        jax.block_until_ready(call())
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(num_rounds):
        for name, call in calls.items():
            times[name] += time_calls(call, 1)
    return times


def median_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def row(*cells: object) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def head(*names: str) -> str:
    """The first two lines of a Markdown table: the first column to the left, the others to the right."""
    return f"{row(*names)}\n{row('---', *['---:'] * (len(names) - 1))}"
