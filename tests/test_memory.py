"""What is available is what the operating system says."""

import resource
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from bnn_jax import memory
from bnn_jax.types import InputError


def test_available_memory_is_below_the_machine_s():
    with open("/proc/meminfo") as file:
        total = next(1024 * int(line.split()[1]) for line in file if line.startswith("MemTotal"))
    assert 0 < memory.available_memory() <= total


def test_a_limit_of_the_process_counts():
    limit = 20 * 2**30
    code = (
        "import resource; from bnn_jax import memory;"
        f"resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit})); print(memory._own_limit())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 10 * 2**30 < int(done.stdout) < limit
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY == -1 or memory._own_limit() > 0


def test_a_control_group_counts(tmp_path, monkeypatch):
    (tmp_path / "max").write_text("3000\n")
    (tmp_path / "current").write_text("1000\n")
    monkeypatch.setattr(memory, "_CGROUP_FILES", ((str(tmp_path / "max"), str(tmp_path / "current")),))
    assert memory._control_group() == 2000 == memory.available_memory()
    (tmp_path / "max").write_text("max\n")
    assert memory._control_group() == 2**62


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (3 * 2**30, "3 GiB"), (2**71, "2048 EiB")],
)
def test_in_words(num_bytes, text):
    assert memory.in_words(num_bytes) == text


def test_a_call_that_does_not_fit_is_refused(monkeypatch):
    lowered = jax.jit(lambda x: jnp.sort(x @ x.T)).lower(jnp.zeros((300, 200)))
    needed = memory.peak_bytes(lowered)
    assert 4 * (300 * 200 + 300 * 300) <= needed < 4 * (300 * 200 + 8 * 300 * 300)
    memory.require_memory(needed, "the call", "wait")
    monkeypatch.setattr(memory, "available_memory", lambda: 2**20)
    memory.require_memory(2**20, "the call", "wait")
    with pytest.raises(InputError, match=r"^There is memory for 1 MiB and the call needs 2 MiB; buy some\.$"):
        memory.require_memory(2**21, "the call", "buy some")
