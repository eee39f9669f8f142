"""What comes faster than it can be read, and the reply that is far ahead of it."""

from __future__ import annotations

import asyncio
import functools
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridge import channels
from bridge.backlog import Backlog
from bridge.messages import Message
from bridge.outputs import Stream
from bridge.session import Loss, open_session

pytestmark = pytest.mark.anyio

SOON = 60.0


async def gone() -> Loss:
    return Loss("The kernel is gone.")


async def test_a_flood_on_one_channel_gives_way_to_all_else_and_its_cell_keeps_its_end(
    start_rogue_kernel: Callable[..., Any],
) -> None:
    session = await open_session(start_rogue_kernel().info, username="agent", explain=gone, timeout=SOON, starting=True)
    in_a_row = [0]

    def count(message: Message) -> None:
        in_a_row[-1] += 1
        session._receive(message)

    async def take_turns() -> None:
        while True:
            await asyncio.sleep(0)
            if in_a_row[-1]:
                in_a_row.append(0)

    session._channels.start(count, session._disconnected)
    turns = asyncio.create_task(take_turns())
    result = await session.execute("flood", timeout=SOON)
    turns.cancel()
    assert sum(in_a_row) >= 3000
    assert max(in_a_row) <= 100
    assert (result.status, result.notes) == ("ok", ())
    assert result.outputs == (Stream("stdout", "".join(f"{number}\n" for number in range(1500))),)
    await session.close()


@pytest.mark.parametrize(("count", "size"), [(200, 100_000), (30, 700_000), (10, 2_000_000)])
async def test_of_what_was_printed_while_nobody_read_each_byte_is_there_or_counted_and_the_cell_has_its_end(
    host_kernel: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, size: int
) -> None:
    monkeypatch.setattr(channels, "Backlog", functools.partial(Backlog, limit=2**20))
    session = await open_session(host_kernel.info, username="agent", explain=gone, timeout=SOON, starting=True)
    printed = tmp_path / "printed"

    def hold_up(_: Message) -> None:
        late = time.monotonic() + SOON
        while not printed.exists():
            assert time.monotonic() < late
            time.sleep(0.01)

    prints = f"import pathlib\nfor _ in range({count}): print('x' * {size}, flush=True)"
    code = f"{prints}\npathlib.Path({str(printed)!r}).touch()"
    result = await session.execute(code, timeout=SOON, on_message=hold_up)
    assert (result.status, result.execution_count) == ("ok", 1)
    (told,) = result.notes
    found = re.search(r"Of its output (\d+) messages with (\d+) bytes are missing", told)
    assert found, told
    messages, missed = map(int, found.groups())
    assert missed == result.left_out > 0
    kept = sum(len(each.text) for each in result.outputs if isinstance(each, Stream))
    around = kept + missed - count * (size + len("\n"))  # of each message's contents, around the text
    assert 0 < around < 50 * messages
    await session.close()
