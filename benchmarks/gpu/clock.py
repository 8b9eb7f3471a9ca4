"""Time that is left, programs compiled side by side within it, and the time that they take."""

import concurrent.futures
import contextlib
import os
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import jax

Key = TypeVar("Key", bound=Hashable)
T = TypeVar("T")


class Clock(NamedTuple):
    """A moment after which nothing new is begun."""

    end: float
    """Of :func:`time.monotonic`, in s."""

    @classmethod
    def of(cls, seconds: float) -> "Clock":
        """From now on."""
        return cls(time.monotonic() + seconds)

    def left(self) -> float:
        """Seconds, at least zero."""
        return max(0.0, self.end - time.monotonic())

    def part(self, share: float) -> "Clock":
        """A share of what is left."""
        return Clock.of(share * self.left())


class Compiled(NamedTuple):
    """A compiled call, and what XLA says of it."""

    call: Callable[..., Any]
    """Takes what was not static in the arguments."""
    compile_s: float
    flops: float | None
    """Of the traced program, for backends hide some in library calls; the body of a loop counts once."""
    bytes_accessed: float | None
    temporary_bytes: int | None


def compile_call(jitted: Any, *arguments: Any, **static: Any) -> Compiled:
    """Compile a jitted function for arguments, the static ones by name."""
    start = time.perf_counter()
    lowered = jitted.lower(*arguments, **static)
    compiled = lowered.compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    return Compiled(
        compiled,
        seconds,
        (lowered.cost_analysis() or {}).get("flops"),
        (compiled.cost_analysis() or {}).get("bytes accessed"),
        None if memory is None else int(memory.temp_size_in_bytes),
    )


def side_by_side(jobs: Mapping[Key, Callable[[], T]], clock: Clock) -> dict[Key, T]:
    """Results of the jobs, which are begun in the order given, in half as many threads as there are cores.

    When the time is over no other is begun; those that are, which nothing can stop, are waited for. What is left out is
    said on stderr.
    """
    threads = max(1, (os.cpu_count() or 2) // 2)
    results, begun, waiting = {}, {}, list(jobs)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        while begun or (waiting and clock.left()):
            while waiting and len(begun) < threads and clock.left():
                key = waiting.pop(0)
                begun[pool.submit(jobs[key])] = key
            for future in concurrent.futures.wait(begun, return_when=concurrent.futures.FIRST_COMPLETED).done:
                key = begun.pop(future)
                with left_out_if_it_fails(key):
                    results[key] = future.result()
    if waiting:
        print(f"Left out for want of time: {', '.join(map(str, waiting))}", file=sys.stderr)
    return {key: results[key] for key in jobs if key in results}


@contextlib.contextmanager
def left_out_if_it_fails(key: Hashable) -> Iterator[None]:
    """What the device refuses, for want of memory mostly, ends in a line on stderr, and the rest goes on."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        print(f"Left out: {key}, {str(error).splitlines()[0][:200]}", file=sys.stderr)


def median_ms(call: Callable[[], Any], seconds: float, most: int = 50) -> float:
    """Median wall time in ms of a call that returns the arrays to wait for, once warm, over so many seconds."""
    jax.block_until_ready(call())
    clock, times = Clock.of(seconds), []
    while not times or (clock.left() and len(times) < most):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(1e3 * (time.perf_counter() - start))
    return sorted(times)[len(times) // 2]


def figures(compiled: Compiled) -> dict[str, float | None]:
    """What XLA says, for a record."""
    return {name: value for name, value in compiled._asdict().items() if name != "call"}
