"""What comes faster than it can be read, and the reply that is far ahead of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

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
