"""Bugs of our own, put into a real server: each costs one call, which is told so, and nothing of the inside is told.

No real fault makes these, so they stand in the program that is started: a name of a kernel that is none calls them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.e2e import serving
from tests.faults.conftest import SOON, Bridge, Serve

INSIDE = "what nobody outside is told"
# What is tried, as a program: it breaks a part of the server and then is the server.
BREAKS = f"""
import asyncio, sys
from bridge.__main__ import main
from bridge.channels import Channels
from bridge.kernels.opening import Opening
from bridge.kernels.registry import Kernels

async def variables(self, name=None, **_):
    if name == "crash":
        raise RuntimeError({INSIDE!r})
    if name == "stray":
        raise asyncio.CancelledError({INSIDE!r})
    if name == "task":
        task = asyncio.ensure_future(asyncio.sleep(60))
        asyncio.get_running_loop().call_soon(task.cancel)
        await task
    return await looked(self, name, **_)

def parse(self, channel, frames):
    if b"break " + channel.encode() in b"".join(frames):
        raise MemoryError({INSIDE!r})
    return parsed(self, channel, frames)

async def what_became_of(self, connected):
    raise RuntimeError({INSIDE!r})

looked, Kernels.variables = Kernels.variables, variables
parsed, Channels._parse = Channels._parse, parse
if sys.argv[1] == "unexplained":
    Opening._what_became_of = what_became_of
    del sys.argv[1]
main()
"""


@pytest.fixture
def broken(bridge: Serve) -> Bridge:
    return bridge(program=("-c", BREAKS)).greet()


def test_a_crash_in_a_tool_is_told_as_one_and_the_log_has_it(broken: Bridge, host_kernel: Any) -> None:
    broken.connect(host_kernel)
    told = broken.refused("list_variables", kernel="crash")
    assert "kernel-bridge itself failed in this call, which is a bug" in told
    assert INSIDE not in told
    assert INSIDE in broken.log.read_text()
    assert broken.call("execute_code", code="6 * 7") == "42"


@pytest.mark.parametrize("which", ["stray", "task"])
def test_a_cancellation_that_nobody_asked_for_costs_the_one_call(broken: Bridge, host_kernel: Any, which: str) -> None:
    broken.connect(host_kernel)
    answer = broken.answer(broken.start_call("list_variables", kernel=which))
    assert "An internal operation of kernel-bridge was cancelled" in answer["error"]["message"]
    assert INSIDE not in str(answer)
    assert broken.call("execute_code", code="6 * 7") == "42"


@pytest.mark.parametrize("channel", ["iopub", "shell"])
def test_what_reads_a_kernel_fails_and_the_call_and_the_next_one_are_told(
    broken: Bridge, host_kernel: Any, channel: str
) -> None:
    broken.connect(host_kernel)
    broken.call("execute_code", code="x = 6")
    # on iopub the cell itself comes back; the reply on shell holds what it raised
    told = broken.refused("execute_code", code=f"raise ValueError('break {channel}')", timeout=SOON)
    assert "kernel-bridge itself failed in reading what the kernel sends" in told
    assert INSIDE not in told
    assert "was lost and is back; its variables are intact" in told
    assert broken.call("execute_code", code="x * 7").endswith("42")


def test_why_a_kernel_was_lost_cannot_be_found_out_and_whoever_waits_is_told_so(
    bridge: Serve, host_kernel: Any
) -> None:
    server = bridge(program=("-c", BREAKS, "unexplained")).greet()
    server.connect(host_kernel)
    told = server.refused("execute_code", code="import os; os._exit(1)", timeout=SOON)
    assert "was lost, and kernel-bridge could not find out why" in told
    assert INSIDE not in told
    server.ask("ping")


@pytest.fixture
def served(tmp_path: Path, runtime: Path) -> Iterator[serving.Served]:
    server = serving.start(tmp_path / "token", program=("-c", BREAKS))
    yield server
    server.stop()


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["auto", "legacy"], ids=["modern", "legacy"])
async def test_over_http_they_cost_the_one_call_of_the_one_client(
    served: serving.Served, host_kernel: Any, mode: Literal["auto", "legacy"]
) -> None:
    async with asyncio.timeout(SOON), served.client("one", mode) as one, served.client("other") as other:
        await serving.connected(one, host_kernel)
        await serving.connected(other, host_kernel)
        assert "kernel-bridge itself failed" in await one.refused("list_variables", kernel="crash")
        for which in ("stray", "task"):
            with pytest.raises(Exception, match="An internal operation of kernel-bridge was cancelled"):
                await one.client.call_tool("list_variables", {"kernel": which})
        assert await one.run("x = 6; x", kernel="kernel-test") == "6"
        assert await other.run("x * 7", kernel="kernel-test") == "42"
