"""Kernels that flood, die, come back or stand still under a server; and what such servers are known to get wrong."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.anyio

# Far more than it takes on a busy machine: only a hang fails it.
SOON = 60.0
# What is told at once is told within this, also on a busy machine.
AT_ONCE = 5.0


async def connected(agent: Any, kernel: Any) -> None:
    """Connect; the kernel was started a moment ago and may not listen yet."""
    async with asyncio.timeout(SOON):
        while True:
            result = await agent.client.call_tool("connect_to_kernel", {"connection_file": str(kernel.file)})
            if not result.is_error:
                return


async def status(agent: Any) -> dict[str, Any]:
    result = await agent.client.call_tool("kernel_status", {})
    [only] = result.structured_content["result"]
    return dict(only)


async def until_it_prints(agent: Any, code: str) -> asyncio.Task[Any]:
    """Begin a cell and return once its first line has come."""
    printed = asyncio.Event()

    async def tell(_: float, __: float | None, line: str | None) -> None:
        if line and line.startswith("line"):
            printed.set()

    call = asyncio.create_task(agent.client.call_tool("execute_code", {"code": code}, progress_callback=tell))
    async with asyncio.timeout(SOON):
        await printed.wait()
    return call


PRINTS = "import itertools, time\nfor n in itertools.count(): print('line', n, flush=True); time.sleep(0.001)"


async def test_a_kernel_that_is_killed_while_it_prints_is_told_at_once_with_all_that_it_had_printed(
    connect: Any, host_kernel: Any
) -> None:
    async with asyncio.timeout(SOON), connect() as agent:
        await connected(agent, host_kernel)
        call = await until_it_prints(agent, PRINTS)
        host_kernel.process.kill()
        before = time.monotonic()
        result = await call
        assert time.monotonic() - before < AT_ONCE
        assert result.is_error
        text = agent.text(result)
        lines = re.findall(r"^line (\d+)$", text, re.MULTILINE)
        assert lines == [str(number) for number in range(len(lines))]
        assert lines
        assert "has ended" in text


async def test_a_kernel_that_was_started_again_at_its_ports_during_a_cell_is_told_as_new_before_anything_else(
    connect: Any, start_host_kernel: Callable[..., Any]
) -> None:
    kernel = start_host_kernel("kernel-same")
    async with asyncio.timeout(SOON), connect() as agent:
        await connected(agent, kernel)
        await agent.run("x = 1")
        call = await until_it_prints(agent, PRINTS)
        await asyncio.to_thread(kernel.kill)
        again = await asyncio.to_thread(start_host_kernel, "kernel-same")
        assert "Lost" in agent.text(await call)
        await until_it_listens(again)
        is_new = "Kernel kernel-same is new (epoch 2): all earlier variables are gone."
        seen = (await agent.client.call_tool("list_variables", {})).structured_content
        assert (seen["total"], seen["notes"][0][: len(is_new)]) == (0, is_new)
        assert is_new in await agent.refused("inspect_object", name="x")
        assert is_new in await agent.refused("inspect_error")
        seen = (await agent.client.call_tool("inspect_object", {"name": "len"})).structured_content
        assert seen["notes"][0].startswith(is_new)
        told = await agent.run("'x' in globals()")
        assert told.startswith(is_new)
        seen = (await agent.client.call_tool("list_variables", {})).structured_content
        assert seen["notes"] == []
        assert told.endswith("False")
        assert await agent.run("1 + 1") == "2"


async def until_it_listens(kernel: Any) -> None:
    info = kernel.info
    for port in (info.shell_port, info.control_port, info.iopub_port):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(info.ip, port)
                writer.close()
                break
            await asyncio.sleep(0.02)


async def test_a_kernel_that_stands_still_keeps_no_call_waiting_and_goes_on_where_it_was(
    connect: Any, host_kernel: Any
) -> None:
    async with asyncio.timeout(SOON), connect() as agent:
        await connected(agent, host_kernel)
        await agent.run("x = 1")
        os.kill(host_kernel.process.pid, signal.SIGSTOP)
        try:
            assert "not begun yet" in await agent.run("x += 1; print('after', x)", timeout=0.5)
            assert "execution 2" in (await status(agent))["running"][0]
            assert "busy with execution 2" in await agent.refused("execute_code", code="x = 9", timeout=0.3)
        finally:
            os.kill(host_kernel.process.pid, signal.SIGCONT)
        assert await agent.call("get_execution", execution=2, wait=20) == "after 2"
        assert ((await status(agent))["state"], (await status(agent))["epoch"]) == ("idle", 1)
        # and leaving one that stands still does not wait for it either
        os.kill(host_kernel.process.pid, signal.SIGSTOP)
        try:
            await agent.run("x", timeout=0.2)
            before = time.monotonic()
            await agent.call("disconnect_kernel")
            assert time.monotonic() - before < AT_ONCE
        finally:
            os.kill(host_kernel.process.pid, signal.SIGCONT)


async def test_of_megabytes_in_many_messages_head_and_tail_come_with_the_size_of_the_rest(
    connect: Any, host_kernel: Any
) -> None:
    """A rate limit between kernel and server leaves a complaint in the place of the output."""
    async with asyncio.timeout(SOON), connect() as agent:
        await connected(agent, host_kernel)
        code = "for n in range(3000): print('line', n, 'x' * 1000, flush=True)"
        flood = asyncio.create_task(agent.run(code))
        answered = 0
        while not flood.done():
            assert (await status(agent))["state"] in ("busy", "idle")
            answered += not flood.done()
        text = await flood
        assert answered
        assert text.startswith("line 0 x")
        *_, last, hint = text.splitlines()
        assert last.startswith("line 2999 x")
        assert hint == "get_execution(execution=1, cursor=0) reads all of it, page by page."
        assert re.search(r"\d+ bytes, \d+ lines left out", text)
        assert await agent.run("6 * 7") == "42"


async def test_after_a_time_out_every_later_call_gets_its_own_result(connect: Any, host_kernel: Any) -> None:
    """Replies that are read one too late give each cell the error or the output of the one before it."""
    async with asyncio.timeout(SOON), connect() as agent:
        await connected(agent, host_kernel)
        cell = "import time; print('first', flush=True); time.sleep(1); print('first ends'); 1/0"
        text = await agent.run(cell, timeout=0.3)
        assert text.splitlines()[0] == "first"
        assert "Still running: execution 1" in text
        assert await agent.run("'second'") == "'second'"
        assert "ZeroDivisionError" in await agent.refused("get_execution", execution=1)
        assert "NameError" in await agent.refused("execute_code", code="third")
        assert await agent.run("print('fourth')") == "fourth"


async def test_a_cell_that_ends_its_own_process_is_told_as_lost_at_once(connect: Any, host_kernel: Any) -> None:
    """A crash that is taken for a time-out is told when all of the time is over."""
    async with asyncio.timeout(SOON), connect() as agent:
        await connected(agent, host_kernel)
        await agent.run("x = 1")
        before = time.monotonic()
        text = await agent.refused("execute_code", code="import os\nprint('last words', flush=True)\nos._exit(1)")
        assert time.monotonic() - before < AT_ONCE
        assert "Lost" in text
        assert "variables are gone" in text
        told = await status(agent)
        assert (told["state"], "has ended" in told["reason"]) == ("lost", True)


async def test_a_kernel_that_died_is_told_by_the_status_and_left_at_once(connect: Any, host_kernel: Any) -> None:
    """A status from memory says connected for ever, and a socket with unsent requests keeps its process from ending."""
    async with asyncio.timeout(SOON), connect() as agent:
        await connected(agent, host_kernel)
        host_kernel.kill()
        while (told := await status(agent))["state"] != "lost":
            await asyncio.sleep(0.01)
        assert "has ended" in told["reason"]
        before = time.monotonic()
        await agent.call("disconnect_kernel")
        assert time.monotonic() - before < AT_ONCE
        assert (await agent.client.call_tool("kernel_status", {})).structured_content["result"] == []


async def test_a_cell_pays_no_fixed_wait(connect: Any, host_kernel: Any) -> None:
    """Whoever polls for a result, or waits for silence, pays a tenth of a second or a whole one for every cell."""
    async with asyncio.timeout(SOON), connect() as agent:
        await connected(agent, host_kernel)
        took = []
        for number in range(20):
            before = time.monotonic()
            assert await agent.run(f"print({number})") == str(number)
            took.append(time.monotonic() - before)
    # the quickest, because the machine may be busy with something else
    assert min(took) < 0.1


def test_nothing_but_the_protocol_is_on_stdout_and_nothing_listens_on_the_network(host_kernel: Any) -> None:
    """Text between the messages breaks a client's connection; a port without a key is anybody's kernel."""
    server = subprocess.Popen([sys.executable, "-m", "bridge", "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdin
    assert server.stdout

    numbers = itertools.count()

    def ask(method: str, **parameters: Any) -> dict[str, Any]:
        assert server.stdin
        assert server.stdout
        number = next(numbers)
        request = {"jsonrpc": "2.0", "id": number, "method": method, "params": parameters}
        server.stdin.write(json.dumps(request).encode() + b"\n")
        server.stdin.flush()
        while (answer := json.loads(server.stdout.readline())).get("id") != number:
            assert answer["jsonrpc"] == "2.0"
        return dict(answer["result"])

    def call(tool: str, **arguments: Any) -> dict[str, Any]:
        return ask("tools/call", name=tool, arguments=arguments)

    try:
        client = {"name": "test", "version": "1"}
        ask("initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=client)
        server.stdin.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
        begun = time.monotonic()
        while call("connect_to_kernel", connection_file=str(host_kernel.file)).get("isError"):  # it starts just now
            assert time.monotonic() - begun < SOON
        assert call("execute_code", code="import os; os.write(1, b'raw'); 1/0")["isError"]
        assert call("execute_code", code="print('still')")["content"][0]["text"] == "still"
        assert not listening(server.pid)
    finally:
        server.stdin.close()
        assert server.wait(10) == 0
        left = server.stdout.read()
        server.stdout.close()
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in left.splitlines())


def listening(pid: int) -> set[str]:
    """Return the inodes of a process's TCP sockets that take connections."""
    own = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            own.add(str(each.readlink()))
    rows = [line.split() for kind in ("tcp", "tcp6") for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]]
    return {row[9] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in own}
