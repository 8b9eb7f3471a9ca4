"""Fixtures that all tests share, and the compilation cache that makes a second run of the suite fast."""

import gc
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import jax
import pooch
import pytest

if jax.config.jax_compilation_cache_dir is None:  # else JAX_COMPILATION_CACHE_DIR says where
    jax.config.update("jax_compilation_cache_dir", str(Path(pooch.os_cache("bnn_jax")) / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)


def pytest_report_header() -> str:
    """The releases under test."""
    return "with: " + ", ".join(f"{name} {version(name)}" for name in ("jax", "jaxlib", "flax", "e3nn-jax", "numpy"))


def pytest_collection_finish() -> None:
    """What is there by now stays: Python need not look through it again and again for what can go."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="module", autouse=True)
def few_mappings() -> Iterator[None]:
    """Let go of compiled programs before they fill the process's table of memory mappings, which ends in a crash.

    XLA maps each function of each program by itself, and Linux allows 65,530 mappings.
    """
    yield
    mappings = Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > 15_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def rng_key() -> jax.Array:
    """A typed PRNG key, the same in every run."""
    return jax.random.key(20240620)


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision for the length of one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the reference data sets, which are no part of the repository; the test is skipped without it."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("BNN_JAX_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip("reference data not found; set BNN_JAX_TEST_DATA to their folder")
    return folder
