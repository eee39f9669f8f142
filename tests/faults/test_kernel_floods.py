"""A kernel that prints faster than anybody reads: what that takes has a bound, and what goes is counted and told.

Whether anything goes is up to the machine: `tests/integration/test_flood.py` has a reader that is held up for certain.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bridge.backlog import OVERHEAD
from tests.faults.conftest import SOON, Bridge, Serve

# What a small message takes while it waits: its frames as objects, its headers and its signature.
IN_MEMORY = OVERHEAD + 900
# Of a message's contents, around the text.
AROUND = len('{"name": "stdout", "text": ""}')


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each bridge's own directory is in here."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def memory(bridge: Bridge, field: str) -> int:
    told = Path(f"/proc/{bridge.process.pid}/status").read_text()
    return int(re.findall(rf"{field}:\s+(\d+) kB", told)[0]) * 1024


def of_journal(state: Path, query: str) -> Any:
    """Ask the one journal there is, whose bridge lives."""
    (file,) = state.rglob("cells.sqlite")
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
        return database.execute(query).fetchone()


# Small ones not faster than any real kernel sends them: what takes longer to read than to send has no bound.
@pytest.mark.parametrize(
    ("count", "size", "flood"),
    [(400, 5_000_000, "400,5000000"), (400_000, 100, "400000,100,25000")],
    ids=["large", "small"],
)
def test_a_flood_takes_far_less_memory_than_it_has_and_each_missing_message_is_counted(
    bridge: Serve, start_rogue_kernel: Callable[..., Any], state: Path, count: int, size: int, flood: str
) -> None:
    server = bridge().greet()
    server.connect(start_rogue_kernel())
    before = memory(server, "VmRSS")
    told = server.call("execute_code", code=f"numbers({flood})", timeout=SOON)
    # what comes while the machine does something else waits too; without a bound all of it would
    assert memory(server, "VmHWM") - before < count * (size + IN_MEMORY) * 3 / 4
    assert "running" not in told
    missing = re.search(r"Of its output (\d+) messages with (\d+) bytes are missing in the middle", told)
    messages, missed = map(int, missing.groups()) if missing else (0, 0)
    assert missed == messages * (size + AROUND)
    (kept,) = of_journal(state, "SELECT sum(length(body)) FROM outputs")
    (not_kept,) = of_journal(state, "SELECT missing FROM cells")
    assert kept + not_kept - messages * AROUND == count * size
    assert str(count - 1).rjust(16, ".") in told
