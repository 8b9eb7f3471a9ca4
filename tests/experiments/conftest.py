"""The experiments' files, which are scripts and no packages, for the length of a test."""

import sys
from collections.abc import Iterator
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
