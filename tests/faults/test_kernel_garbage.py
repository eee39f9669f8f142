"""A server on a kernel that answers as no kernel should: every call ends, in a right result or in a sentence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridge.execution import UNREPLIED
from tests.e2e.conftest import connect
from tests.faults.deaths import peak_memory

__all__ = ["connect"]  # a fixture
pytestmark = pytest.mark.anyio

# More than all of it takes on a busy machine, so that only a hang fails it.
SOON = 60.0


async def connected(agent: Any, kernel: Any) -> str:
    return str(await agent.call("connect_to_kernel", connection_file=str(kernel.file)))


RIGHT = {
    "garbage": "after the garbage",
    "odd": "after the odd",
    "twice": "once",
    "astray": "of this cell",
    "idle_first": "after its idle",
    "no_idle": "without idle\nThe kernel did not report idle after the cell's reply; output may be missing.",
    "no_reply": f"without a reply\n{UNREPLIED}",
    "another": "honest",
}


async def test_garbage_repetitions_and_strays_spoil_neither_their_own_cell_nor_the_next(
    connect: Any, start_rogue_kernel: Callable[..., Any]
) -> None:
    rogue = start_rogue_kernel()
    async with asyncio.timeout(SOON), connect() as agent:
        await connected(agent, rogue)
        for cell, right in RIGHT.items():
            assert agent.text(await agent.client.call_tool("execute_code", {"code": cell})) == right, cell
            assert await agent.run("honest") == "honest", cell
        assert (await agent.client.call_tool("kernel_status", {})).structured_content["result"][0]["state"] == "idle"
    assert rogue.process.poll() is None


async def test_while_a_kernel_floods_its_output_every_other_call_is_answered(
    connect: Any, start_rogue_kernel: Callable[..., Any]
) -> None:
    rogue = start_rogue_kernel()
    async with asyncio.timeout(SOON), connect() as agent:
        await connected(agent, rogue)
        flooding = asyncio.create_task(agent.run("flood", kernel="kernel-rogue"))
        answered = 0
        while not flooding.done():
            await agent.client.call_tool("kernel_status", {})
            answered += not flooding.done()
        lines = (await flooding).splitlines()
        assert (lines[0], lines[-1]) == ("0", "1499")
        # others' cells never end here, so the kernel is asked, and that it answers in turn means that they have
        assert await agent.run("honest", kernel="kernel-rogue") == "honest"
        assert answered


async def test_a_kernel_that_never_replies_is_waited_for_no_longer_than_asked_and_left_at_once(
    connect: Any, start_rogue_kernel: Callable[..., Any]
) -> None:
    rogue = start_rogue_kernel()
    async with asyncio.timeout(SOON), connect() as agent:
        await connected(agent, rogue)
        assert "Still running: execution 1" in await agent.run("never", timeout=0.3)
        assert "busy with execution 1" in await agent.refused("execute_code", code="honest", timeout=0.3)
        assert "[no output]" in await agent.refused("interrupt_kernel")
        assert await agent.run("honest") == "honest"
        assert "not begun yet" in await agent.run("silent", timeout=0.3)
        assert "busy with execution 3" in await agent.refused("execute_code", code="honest", timeout=0.3)
        assert "not begun yet" in await agent.call("get_execution", execution=3, wait=0.3)
        assert "Disconnected" in await agent.call("disconnect_kernel")


async def test_a_kernel_that_answers_slowly_is_waited_for(connect: Any, start_rogue_kernel: Callable[..., Any]) -> None:
    rogue = start_rogue_kernel()
    async with asyncio.timeout(SOON), connect() as agent:
        await connected(agent, rogue)
        assert "not begun yet" in await agent.run("slow", timeout=0.1)
        assert await agent.call("get_execution", execution=1, wait=20) == "slow"


async def test_a_kernel_that_tells_nonsense_of_itself_is_connected_to_and_used(
    connect: Any, start_rogue_kernel: Callable[..., Any]
) -> None:
    rogue = start_rogue_kernel('{"language_info": [1], "supported_features": 5, "banner": {}}')
    async with asyncio.timeout(SOON), connect() as agent:
        assert "(unknown)" in await connected(agent, rogue)
        assert await agent.run("honest") == "honest"
        assert "could not be looked into" in await agent.refused("list_variables")
        status = await agent.client.call_tool("kernel_status", {})
        assert status.structured_content["result"][0]["language"] == "unknown"


@pytest.mark.parametrize("connect", ["auto"], indirect=True, ids=["modern"])
async def test_a_kernel_that_prints_in_the_smallest_messages_is_kept_up_with(
    connect: Any, host_kernel: Any, tmp_path: Path
) -> None:
    """What is not read as fast as a kernel sends it lies in memory: to drop it would drop the ends of cells too."""
    sends = """
kernel = get_ipython().kernel
parent, content = kernel.get_parent(), {"name": "stdout", "text": "x\\n"}
for _ in range(100_000): kernel.session.send(kernel.iopub_socket, "stream", content, parent=parent)
"""
    async with asyncio.timeout(2 * SOON), connect(XDG_STATE_HOME=str(tmp_path)) as agent:
        while (await agent.client.call_tool("connect_to_kernel", {"connection_file": str(host_kernel.file)})).is_error:
            pass
        shown = await agent.run(sends, timeout=100)
        assert "get_execution(execution=1, cursor=0) reads all of it" in shown
        assert peak_memory() < 200 << 20
