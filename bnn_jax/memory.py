"""How much memory and disk there is, so that what cannot fit is refused before the work and not in its midst."""

import os
import resource
import shutil
from pathlib import Path
from typing import Any

import jax

from bnn_jax.types import InputError

_CGROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
COMPILATION_BYTES = 1_500_000_000
"""What XLA itself may take to compile a training step of the largest preset."""
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def available_memory() -> int:
    """Bytes that this process may still allocate on JAX's default device, as far as can be known.

    On a GPU or TPU what its allocator reports as free; on a CPU the smallest of what the machine has, what its control
    group leaves and what the process's own limit leaves. What nothing limits counts as 2**62.
    """
    stats = jax.local_devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return max(min(_machine(), _control_group(), _own_limit()), 0)


def peak_bytes(lowered: Any) -> int:
    """Memory of a compiled call on each device, arguments and results included, as XLA plans it.

    Args:
        lowered: from ``jax.jit(...).lower(...)``; it is compiled, which a later call of these shapes need not repeat.
    """
    memory = lowered.compile().memory_analysis()
    if memory is None:  # not every backend says
        return 0
    return sum(
        int(getattr(memory, f"{part}_size_in_bytes")) for part in ("argument", "output", "temp", "generated_code")
    )


def require_memory(num_bytes: int, what: str, cure: str) -> None:
    """Refuse what the memory could not hold, before it is tried.

    Args:
        num_bytes: that it takes.
        what: names it in the error.
        cure: what to do about it.

    Raises:
        InputError: less is available.
    """
    available = available_memory()
    if num_bytes > available:
        raise InputError(f"There is memory for {in_words(available)} and {what} needs {in_words(num_bytes)}; {cure}.")


def free_disk(folder: Path) -> int:
    """Bytes that the file system of an existing folder has left.

    Raises:
        OSError: the folder cannot be asked.
    """
    return shutil.disk_usage(folder).free


def in_words(num_bytes: int) -> str:
    """A number of bytes to read: ``'1.5 GiB'``."""
    power = min(max(0, num_bytes.bit_length() - 1) // 10, 6)
    value = num_bytes / 1024**power
    return f"{value:.{0 if value >= 100 else 3}{'f' if value >= 100 else 'g'}} {_UNITS[power]}"


def _machine() -> int:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return 2**62


def _control_group() -> int:
    for limit, usage in _CGROUP_FILES:
        texts = _lines(limit), _lines(usage)
        if all(text and text[0].isdigit() for text in texts):
            return int(texts[0][0]) - int(texts[1][0])
    return 2**62


def _own_limit() -> int:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    sizes = _lines("/proc/self/statm")
    if limit == resource.RLIM_INFINITY or not sizes:
        return 2**62
    return limit - int(sizes[0].split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
