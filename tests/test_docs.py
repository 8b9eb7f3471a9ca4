"""What the documentation points to exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
PATH = re.compile(r"`((?:tests|benchmarks|experiments|bnn_jax)/[^`\s]*)`")


def visible_text(page: Path) -> str:
    return COMMENT.sub("", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_named_exists(page: Path) -> None:
    missing = [path for path in PATH.findall(visible_text(page)) if not (ROOT / path).exists()]
    assert not missing


def test_every_promise_has_a_test() -> None:
    rows = re.findall(r"^\| (\d) \|(.*)$", visible_text(ROOT / "docs" / "promises.md"), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 9))
    for number, row in rows:
        assert any(path.startswith("tests/") for path in PATH.findall(row)), f"promise {number} names no test"
