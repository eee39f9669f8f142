"""What SECURITY.md says is shown by a test is: each test that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "SECURITY.md").read_text()
NAMED = re.findall(r"`(test_\w+)`", PAGE)


def test_each_test_that_the_page_names_is_there() -> None:
    files = (path.read_text() for path in TESTS.rglob("test_*.py"))
    there = {name for text in files for name in re.findall(r"^(?:async )?def (test_\w+)\(", text, re.MULTILINE)}
    assert NAMED
    assert sorted(set(NAMED) - there) == []


def test_each_danger_is_named_with_what_shows_that_it_is_defended() -> None:
    tables = re.findall(r"^\| danger \|.*\n\|---.*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert len(tables) > 1
    for row in "".join(tables).splitlines():
        danger, stops, shown, *more = row.strip("| ").split(" | ")
        assert danger, row
        assert stops, row
        assert "`test_" in shown, row
        assert not more, row
