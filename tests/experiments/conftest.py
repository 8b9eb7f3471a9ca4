"""The experiments' files, which are scripts and no packages, for the length of a test."""

import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bnn_jax.methods import registry


@pytest.fixture(autouse=True)
def modules(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Those of the folder that a test file names ``FOLDER`` can be imported; what they register is forgotten again."""
    folder = request.module.FOLDER
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
    yield
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "/").parent == folder:
            del sys.modules[name]


@pytest.fixture
def run_script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[object, str]]:
    """``python FILE ARGUMENTS...`` in this process: its exit code and what it wrote to stderr."""

    def run(path: Path, *arguments: str) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", [str(path), *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(path), run_name="__main__")
        return ended.value.code, capsys.readouterr().err

    return run
