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
from bridge.session import KernelSession
from tests.e2e.conftest import Command, command
from tests.faults.deaths import SOON
from tests.faults.test_kernel_gateway import UNTIL, inside, kill_gateway, put
from tests.integration.conftest import connected

__all__ = ["command"]  # a fixture
pytestmark = pytest.mark.anyio

# Longer than any test takes: what happens once it is over is what a test lets happen.
PATIENCE = 600.0


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


def fire(timer: asyncio.TimerHandle) -> None:
    """Have what a timer waits for be now."""
    assert not timer.cancelled()
    assert 0 < timer.when() - asyncio.get_running_loop().time() <= PATIENCE
    timer._run()
    timer.cancel()


async def found_again(kernels: Kernels) -> KernelSession:
    """Have the patience with a lost connection be over, and return the session in which the question is open again."""
    lost = kernels._connected.one(None).session
    async with asyncio.timeout(SOON):
        while lost._unattended is None:  # until it is known why it is lost
            await asyncio.sleep(0.02)
        fire(lost._unattended)
        while "which asks `who?` (send_input answers)" not in str(kernels.statuses()[0].running) or is_lost(kernels):
            await asyncio.sleep(0.02)
    return kernels._connected.one(None).session


def is_lost(kernels: Kernels) -> bool:
    return kernels.statuses()[0].state == "lost"


async def ends_unanswered(kernels: Kernels, session: KernelSession, execution: int) -> None:
    assert session._questions.asked
    fire(session._questions.asked.patience)
    await until_state(kernels, "idle")
    result = of(await kernels.read(execution))
    assert result.status == "error"
    assert any(f"Nobody answered within {PATIENCE:g} s" in each for each in result.notes)


async def test_a_question_behind_a_lost_connection_ends_though_nobody_ever_calls(kernels: Kernels, gate: str) -> None:
    await kernels.connect(gate)
    asking = of(await kernels.execute("input('who? ')", timeout=SOON))
    assert asking.status == "asking"
    await kill_gateway(gate)
    await until_state(kernels, "lost")
    assert "which asks `who?` (send_input answers)" in kernels.statuses()[0].running[0]
    await ends_unanswered(kernels, await found_again(kernels), asking.execution)


async def test_a_question_that_nobody_heard_is_found_and_ends_too(kernels: Kernels, gate: str) -> None:
    await kernels.connect(gate)
    asks = "(pathlib.Path.home() / 'asks').touch()\ninput('who? ')"
    begun = of(await kernels.execute(f"{UNTIL.format('ask')}{asks}", timeout=0.5))
    assert begun.status == "running"
    await kill_gateway(gate)
    await until_state(kernels, "lost")
    await put(gate, "ask")
    await asyncio.to_thread(inside, gate, f"import time\n{UNTIL.format('asks')}")
    session = await found_again(kernels)
    assert session._questions.asked
    assert session._questions.asked.header == {}, "no request for it has come"
    await ends_unanswered(kernels, session, begun.execution)


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
