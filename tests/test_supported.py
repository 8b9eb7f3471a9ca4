"""The installed JAX computes rightly, one that does not work is refused, and its internals are used in one file."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnn_jax import supported

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path for folder in ("bnn_jax", "tests", "benchmarks", "experiments") for path in (ROOT / folder).rglob("*.py")
)
INTERNALS = re.compile(
    r"\bjax\.(interpreters|extend|_src|core|lib)\b|\bfrom jax import .*\b(interpreters|extend|core|lib)\b|import jaxlib"
)
HOME = ROOT / "bnn_jax" / "jax_internals.py"


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("dtype", "length"), [(np.float64, 16_385), (np.float64, 40_000), (np.float32, 32_769)])
def test_products_of_many_small_matrices_are_right(dtype, length):
    """JAX issue 39103: 0.10.2 computes half of these sums wrongly on a CPU."""
    rows = jnp.arange(length, dtype=dtype)[:, None] * jnp.array([1, 0, 0], dtype)
    matrix = jnp.eye(3, dtype=dtype)
    squares = jax.jit(jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2)))(rows)
    np.testing.assert_array_equal(squares, np.arange(length, dtype=dtype) ** 2)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_internals_of_jax_are_used_in_one_file(path):
    if path not in (HOME, Path(__file__)):
        assert not INTERNALS.search(path.read_text())


def test_the_search_for_internals_finds_them():
    assert INTERNALS.search(HOME.read_text())


def test_every_internal_is_explained_in_its_file():
    docstring, code = HOME.read_text().split('"""', 2)[1:]
    for name in re.findall(r"from (jax\.\S+) import", code):
        assert f"``{name}" in docstring


def with_metadata(folder: Path, name: str, version: str) -> dict[str, str]:
    """Environment of a process to which another release of the distribution seems to be installed."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return os.environ | {"PYTHONPATH": str(folder)}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=300, cwd=ROOT
    )


@pytest.mark.parametrize(
    ("name", "version"), [("jax", "0.10.2"), ("jax", "0.4.38"), ("jaxlib", "0.11.1"), ("jax", "0.10.1.dev20260101")]
)
def test_a_release_that_does_not_work_is_refused_in_one_sentence(tmp_path, name, version):
    environment = with_metadata(tmp_path, name, version)
    script = "import sys; from bnn_jax.cli import main; sys.exit(main(['predict', 'run', 'in.xyz', 'out.xyz']))"
    command = run(environment, "-c", script)
    assert command.returncode == 2 and command.stdout == ""
    assert re.fullmatch(
        r"error: bnn_jax does not work with [^\n]+ get others with pip install [^\n]+\.\n", command.stderr
    )
    assert f"{name} {version}" in command.stderr and "'jax!=0.10.2,!=0.11.1,<" in command.stderr
    imported = run(environment, "-c", "import bnn_jax; bnn_jax.sghmc")
    assert imported.returncode == 1
    assert re.search(r"UnsupportedJaxError: bnn_jax does not work with [^\n]+\.\n$", imported.stderr)


@pytest.mark.parametrize("version", ["0.10.1", "0.11.2", "0.12.0.1", "0.13.0", "0.99", "0.12.1.dev20261201"])
def test_releases_that_work_or_may_work_pass(monkeypatch, version):
    monkeypatch.setattr(supported, "version", lambda _: version)
    supported.check_jax()


def test_a_release_without_what_the_package_needs_is_refused_in_one_sentence():
    script = "import jax.interpreters.batching as rules; del rules.primitive_batchers; import bnn_jax.model"
    done = run(dict(os.environ), "-c", script)
    assert done.returncode == 1
    assert re.search(r"UnsupportedJaxError: bnn_jax does not work with [^\n]+\.\n$", done.stderr)
