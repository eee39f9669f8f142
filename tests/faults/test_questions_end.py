"""A question that stands when the connection is lost, and what else goes on behind one: each has an end (rule 10)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from bridge.kernels.listing import Outcome
from bridge.kernels.registry import Kernels
from bridge.launchers.docker import DockerLauncher
from bridge.messages import Message
from bridge.outputs import Result
from bridge.policy import built_in
from tests.e2e.conftest import Command, command
from tests.faults.deaths import SOON
from tests.faults.test_kernel_gateway import UNTIL, kill_gateway, put
from tests.integration.conftest import connected

__all__ = ["command"]  # a fixture
pytestmark = pytest.mark.anyio

PATIENCE = 2.0


@pytest.fixture(scope="module")
def gate(command: Command) -> Iterator[str]:
    """A sandbox."""
    started = command("up", "gate")
    assert started.returncode == 0, started.stderr
    yield "gate"
    command("stop", "gate")


@pytest.fixture
async def kernels() -> AsyncIterator[Kernels]:
    found = Kernels(built_in(), DockerLauncher, username="agent", patience=PATIENCE)
    yield found
    await found.close()


def of(outcome: Outcome) -> Result:
    assert outcome.result
    return outcome.result


async def until_state(kernels: Kernels, *states: str) -> None:
    """Wait until the only kernel is in one of these states, as far as is known without a look at it."""
    async with asyncio.timeout(SOON):
        while kernels.statuses()[0].state not in states:
            await asyncio.sleep(0.02)


async def test_a_question_behind_a_lost_connection_ends_though_nobody_ever_calls(kernels: Kernels, gate: str) -> None:
    await kernels.connect(gate)
    asking = await kernels.execute("input('who? ')", timeout=SOON)
    assert of(asking).status == "asking"
    await kill_gateway(gate)
    await until_state(kernels, "lost")
    assert "which asks `who?` (send_input answers)" in kernels.statuses()[0].running[0]
    await until_state(kernels, "idle")
    result = of(await kernels.read(of(asking).execution))
    assert result.status == "error"
    assert any(f"Nobody answered within {PATIENCE:g} s" in each for each in result.notes)


async def test_a_question_that_nobody_heard_ends_too(kernels: Kernels, gate: str) -> None:
    await kernels.connect(gate)
    begun = await kernels.execute(f"{UNTIL.format('ask')}input('who? ')", timeout=0.5)
    assert of(begun).status == "running"
    await kill_gateway(gate)
    await until_state(kernels, "lost")
    await put(gate, "ask")
    await until_state(kernels, "busy")
    await until_state(kernels, "idle")
    result = of(await kernels.read(of(begun).execution))
    assert result.status == "error"
    assert any(f"Nobody answered within {PATIENCE:g} s" in each for each in result.notes)


async def test_leaving_a_kernel_whose_connection_is_lost_ends_what_is_asked(kernels: Kernels, gate: str) -> None:
    await kernels.connect(gate)
    await kernels.execute("input('who? ')", timeout=SOON)
    await kill_gateway(gate)
    await until_state(kernels, "lost")
    await kernels.disconnect()
    await kernels.connect(gate)
    assert of(await kernels.execute("1", timeout=SOON)).status == "ok"


async def test_a_cell_goes_on_where_only_our_own_reading_has_failed(
    kernels: Kernels, host_kernel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await connected(kernels, host_kernel)
    code = "import time\nprint('begun', flush=True)\nwhile 'go' not in globals(): time.sleep(0.01)\nprint('went on')"
    assert of(await kernels.execute(code, timeout=0.5)).status == "running"
    channels = kernels._connected.one(None).session._channels

    def fails(*_: Any) -> Message:
        raise MemoryError

    monkeypatch.setattr(channels, "_parse", fails)
    await channels.send("control", "kernel_info_request", {})
    await until_state(kernels, "lost")
    status = kernels.statuses()[0]
    assert "and what runs in it goes on" in str(status.reason)
    assert status.running == ("execution 1 of this bridge",)
    result = of(await kernels.read(1))
    assert result.status == "running"
    await kernels.interrupt()
    assert of(await kernels.execute("6 * 7", timeout=SOON)).status == "ok"
