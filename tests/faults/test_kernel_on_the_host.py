"""Host kernels that end, are replaced, stand still or are another program: told apart, and left or found again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Command, command, connect
from tests.faults.conftest import until
from tests.faults.deaths import SOON, begun, listed, status, told

__all__ = ["command", "connect"]  # fixtures
pytestmark = pytest.mark.anyio
one_era = pytest.mark.parametrize("connect", ["auto"], indirect=True, ids=["modern"])


async def at_host(agent: Any, kernel: Any) -> None:
    """Connect to a host kernel that may still be importing IPython, and give it a variable."""
    while (await agent.client.call_tool("connect_to_kernel", {"connection_file": str(kernel.file)})).is_error:
        pass
    await agent.run("x = 1")


async def is_left(agent: Any, command: Command, kernel: Any, words: str) -> None:
    """What is told of a host kernel that is no longer there, by every way to it."""
    lost = await status(agent)
    assert (lost["state"], "variables are gone" in lost["reason"]) == ("lost", True)
    refused = await agent.refused("execute_code", code="x")
    for each in ("variables are gone", words, "Nothing was executed", "start it where it was started"):
        assert each in refused
    assert (await agent.client.call_tool("kernel_status", {})).structured_content["result"] == []
    assert words in await agent.refused("connect_to_kernel", connection_file=str(kernel.file))
    for arguments in (("status", str(kernel.file)), ("run", str(kernel.file), "-c", "1")):
        done = await asyncio.to_thread(command, *arguments)
        assert words in done.stderr
        assert "Traceback" not in done.stderr
        assert done.returncode in (2, 4)


@one_era
async def test_a_host_kernel_that_is_killed_is_told_as_gone_with_its_variables(
    connect: Any, command: Command, host_kernel: Any
) -> None:
    async with asyncio.timeout(SOON), connect() as agent:
        await at_host(agent, host_kernel)
        call = await begun(agent, "import time; time.sleep(60)")
        os.kill(host_kernel.process.pid, signal.SIGKILL)
        text = await told(agent, call)
        assert text.startswith("begun\n")
        assert "The host kernel kernel-test has ended or closed its connection; its variables are gone." in text
        [row] = await listed(agent)
        assert "has ended" in row["state"]
        assert "restart it where it was started" in await agent.refused("restart_kernel")
        await is_left(agent, command, host_kernel, "has ended")
        shown = await asyncio.to_thread(command, "ls")
        assert "not answering: Nothing listens" in shown.stdout


@one_era
async def test_a_host_kernel_that_a_cell_ends_is_told_as_that_and_left(
    connect: Any, command: Command, host_kernel: Any
) -> None:
    async with asyncio.timeout(SOON), connect() as agent:
        await at_host(agent, host_kernel)
        text = await agent.run("quit()")
        assert "The cell called exit, which ended kernel kernel-test for everyone who uses it" in text
        await asyncio.to_thread(host_kernel.process.wait, SOON)
        while (await status(agent))["state"] != "lost":
            await asyncio.sleep(0.01)
        # it takes its file with it
        await is_left(agent, command, host_kernel, "no connection file")
        assert await listed(agent) == []


@one_era
async def test_a_host_kernel_whose_file_is_removed_goes_on_and_its_end_is_told_as_without_a_file(
    connect: Any, command: Command, host_kernel: Any
) -> None:
    async with asyncio.timeout(SOON), connect() as agent:
        await at_host(agent, host_kernel)
        host_kernel.file.unlink()
        assert await agent.run("x") == "1"
        assert await listed(agent) == []
        call = await begun(agent, "import time; time.sleep(60)")
        host_kernel.process.kill()
        assert "variables are gone" in await told(agent, call)
        await is_left(agent, command, host_kernel, "no connection file")


@one_era
async def test_another_kernel_at_the_same_ports_with_a_file_of_its_own_is_told_as_new(
    connect: Any, start_host_kernel: Any
) -> None:
    kernel = start_host_kernel("kernel-here")
    async with asyncio.timeout(SOON), connect() as agent:
        await at_host(agent, kernel)
        await asyncio.to_thread(kernel.kill)
        content = json.loads(kernel.file.read_text())
        kernel.file.write_text(json.dumps(content | {"key": "of-the-other-one"}))
        other = await asyncio.to_thread(start_host_kernel, "kernel-here")
        while await asyncio.to_thread(other.process.poll) is None:
            result = await agent.client.call_tool("execute_code", {"code": "'x' in globals()"})
            if not result.is_error:
                break
            assert "of-the-other-one" not in agent.text(result)
            if "disconnected" in agent.text(result):  # it had not begun to listen yet
                await agent.client.call_tool("connect_to_kernel", {"connection_file": str(kernel.file)})
        assert agent.text(result).endswith("False")
        assert (await status(agent))["state"] == "idle"


def is_reached(port: int) -> bool:
    """Whether anybody has a connection to a port of this machine, as the operating system tells it."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any((row[1], row[3]) == (f"0100007F:{port:04X}", "01") for row in rows)


@one_era
@pytest.mark.parametrize("old_one", ["is silent", "has ended"])
async def test_a_connection_file_that_is_replaced_while_one_connects_is_told_as_that_and_the_next_try_works(
    connect: Any, start_host_kernel: Any, old_one: str
) -> None:
    kernel = start_host_kernel("kernel-here")
    content = json.loads(kernel.file.read_text())
    async with asyncio.timeout(2 * SOON), connect() as agent:
        await at_host(agent, kernel)
        await agent.call("disconnect_kernel")
        await asyncio.to_thread(until, lambda: not is_reached(content["iopub_port"]), "the end of the connection")
        os.kill(kernel.process.pid, signal.SIGSTOP)
        call = asyncio.create_task(agent.refused("connect_to_kernel", connection_file=str(kernel.file)))
        await asyncio.to_thread(until, lambda: is_reached(content["iopub_port"]), "the beginning of another")
        new = kernel.file.with_suffix(".new")
        new.write_text(json.dumps(content | {"key": "of-the-other-one"}))
        new.replace(kernel.file)
        if old_one == "is silent":
            refused = await call
            await asyncio.to_thread(kernel.kill)
            other = await asyncio.to_thread(start_host_kernel, "kernel-here")
        else:
            # the next one may be there in time, and then has another key than the one that was read
            await asyncio.to_thread(kernel.kill)
            other = await asyncio.to_thread(start_host_kernel, "kernel-here")
            refused = await call
        assert f"The connection file {kernel.file} was replaced while it was connected to" in refused
        assert "connect again" in refused
        assert "of-the-other-one" not in refused
        await at_host(agent, other)
        assert await agent.run("x") == "1"
