"""What a client is told while a cell runs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bridge import progress
from bridge.messages import Message
from bridge.progress import Progress

pytestmark = pytest.mark.anyio


def stream(text: str) -> Message:
    content: dict[str, Any] = {"name": "stdout", "text": text}
    return Message("iopub", "stream", "kernel", content, {}, "id", "execute_request", "us", "agent", in_subshell=False)


def newest(*texts: str) -> str:
    seen = Progress()
    for text in texts:
        seen.see(stream(text))
    return seen.newest()


def test_the_newest_line_is_the_last_one_that_says_something() -> None:
    assert newest() == ""
    assert newest("one\ntwo\n", "\n  \n") == "two"
    assert newest("half a li", "ne") == "half a line"


def test_a_line_that_is_redrawn_is_shown_as_it_stands() -> None:
    assert newest("\r 10%", "\r 20%", "\r\x1b[32m 30%\x1b[0m") == "30%"


def test_a_long_line_and_a_flood_are_cut() -> None:
    assert len(newest("x" * 10_000_000)) == progress.LONGEST
    assert newest(*["line\n"] * 10_000) == "line"


async def test_a_cell_is_told_of_at_a_bounded_rate_and_also_when_it_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PAUSE", 0.02)
    monkeypatch.setattr(progress, "HEARTBEAT", 0.1)
    told: list[tuple[float, str]] = []
    enough = asyncio.Event()

    async def tell(seconds: float, line: str) -> None:
        told.append((seconds, line))
        if line.startswith("running for"):
            enough.set()

    seen = Progress()
    reporting = asyncio.create_task(seen.report(tell))
    for number in range(1000):
        seen.see(stream(f"{number}\n"))
    async with asyncio.timeout(10):
        await enough.wait()
    reporting.cancel()
    assert [line for _, line in told][:1] == ["999"]
    assert [seconds for seconds, _ in told] == sorted({seconds for seconds, _ in told})
