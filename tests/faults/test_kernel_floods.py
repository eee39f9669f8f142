"""A kernel that prints faster than anybody reads: what that takes has a bound, and what goes is counted and told."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bridge.backlog import LIMIT
from tests.faults.conftest import SOON, Bridge, Serve

MIB = 2**20
# Beside what waits: what a cell keeps in memory, what a message takes while it is handled, what comes meanwhile.
BESIDE = 192 * MIB
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
    [(100, 5_000_000, "100,5000000"), (200_000, 100, "200000,100,25000")],
    ids=["large", "small"],
)
def test_a_flood_takes_no_more_memory_than_the_bound_and_each_missing_message_is_counted(
    bridge: Serve, start_rogue_kernel: Callable[..., Any], state: Path, count: int, size: int, flood: str
) -> None:
    server = bridge().greet()
    server.connect(start_rogue_kernel())
    before = memory(server, "VmRSS")
    told = server.call("execute_code", code=f"numbers({flood})", timeout=SOON)
    assert memory(server, "VmHWM") - before < LIMIT + BESIDE
    assert "running" not in told
    missing = re.search(r"Of its output (\d+) messages with (\d+) bytes are missing in the middle", told)
    messages, missed = map(int, missing.groups()) if missing else (0, 0)
    assert missed == messages * (size + AROUND)
    (kept,) = of_journal(state, "SELECT sum(length(body)) FROM outputs")
    (not_kept,) = of_journal(state, "SELECT missing FROM cells")
    assert kept + not_kept - messages * AROUND == count * size
    assert str(count - 1).rjust(16, ".") in told
