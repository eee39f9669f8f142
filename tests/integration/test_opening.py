"""A session that is opened while its caller leaves, or again while nobody calls, with a real kernel on the host."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import KernelDied, KernelNotResponding
from bridge.kernels import opening
from bridge.kernels.connected import Connected
from bridge.kernels.heritage import Heritage
from bridge.kernels.registry import Kernels
from bridge.launchers.docker import DockerLauncher
from bridge.messages import Message
from bridge.outputs import Result
from bridge.policy import built_in, parse
from bridge.session import open_session
from tests.audited import lines
from tests.integration.conftest import connected

pytestmark = pytest.mark.anyio

SOON = 30.0


@pytest.fixture(autouse=True)
def _first_bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test's bridges know of none before them."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def make(**options: Any) -> Kernels:
    return Kernels(built_in(), DockerLauncher, username="agent", **options)


async def run(kernels: Kernels, code: str, timeout: float = SOON) -> Result:
    result = (await kernels.execute(code, timeout=timeout)).result
    assert result
    return result


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(SOON):
        while not true():
            await asyncio.sleep(0.01)


@contextmanager
def reading_stops(connected: Connected) -> Iterator[None]:
    """Have our own reading of a kernel fail, so that its connection is lost and what runs in it goes on."""

    def fails(*_: Any) -> Message:
        raise MemoryError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connected.session._channels, "_parse", fails)
        yield


async def lose(kernels: Kernels) -> Connected:
    connected = kernels._connected.one(None)
    with reading_stops(connected):
        await connected.session._channels.send("control", "kernel_info_request", {})
        await until(lambda: connected.session.lost and connected.session.reason)
    return connected


def asks_once(file: Path) -> str:
    """Return a cell that asks as soon as a file is there, and says so by another one."""
    return (
        f"import pathlib, time\nwhile not pathlib.Path({str(file)!r}).exists(): time.sleep(0.01)\n"
        f"pathlib.Path({str(file) + '.asks'!r}).touch()\ninput('who? ')"
    )


async def let_ask(file: Path) -> None:
    file.touch()
    await until(Path(f"{file}.asks").exists)


async def test_a_caller_that_leaves_while_the_heritage_is_read_costs_none_of_it(
    host_kernel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make()
    await connected(first, host_kernel)
    await run(first, "'one'")
    await run(first, "'two'")
    await first.close()
    read, goes_on = Heritage.kept, threading.Event()

    def held(*arguments: Any) -> Any:
        assert goes_on.wait(SOON)
        return read(*arguments)

    monkeypatch.setattr(Heritage, "kept", held)
    second = make()
    leaving = asyncio.create_task(second.connect(str(host_kernel.file)))
    await until(second.statuses)
    running = asyncio.create_task(run(second, "'three'"))
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    assert not running.done()
    goes_on.set()
    assert (await running).execution == 3
    assert (await second.read(1)).result
    await second.close()


async def test_a_lost_kernel_that_has_ended_is_given_up_by_the_next_call_which_says_why(
    host_kernel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "AGAIN", 0.01)
    tried: list[Any] = []

    async def counting(*arguments: Any, **options: Any) -> Any:
        tried.append(arguments)
        return await open_session(*arguments, **options)

    kernels = make()
    await connected(kernels, host_kernel)
    assert (await run(kernels, "import time; time.sleep(600)", timeout=0.2)).status == "running"
    lost = await lose(kernels)
    host_kernel.kill()
    monkeypatch.setattr(opening, "open_session", counting)
    kernels._opening._attend(lost)
    await until(lambda: len(tried) > 1)
    assert [each.state for each in kernels.statuses()] == ["lost"]
    with pytest.raises(KernelDied, match=r"this connection was given up.*the bridge has disconnected from it"):
        await run(kernels, "1")
    await kernels.close()


async def test_however_often_it_is_tried_in_the_background_the_audit_is_told_once(
    host_kernel: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "audit.jsonl"
    policy = parse(f"version: 1\naudit: {{file: {file}}}\n", origin="test")
    kernels = Kernels(policy, DockerLauncher, username="agent")
    await connected(kernels, host_kernel)
    assert (await run(kernels, "import time; time.sleep(600)", timeout=0.2)).status == "running"
    lost = await lose(kernels)
    before = len(lines(file))
    monkeypatch.setattr(opening, "AGAIN", 0.01)
    failed: list[int] = []

    async def fails_at_first(*arguments: Any, **options: Any) -> Any:
        if len(failed) < 5:
            failed.append(1)
            raise KernelNotResponding("silent")
        return await open_session(*arguments, **options)

    monkeypatch.setattr(opening, "open_session", fails_at_first)
    kernels._opening._attend(lost)
    await until(lambda: not lost.session.lost)
    await until(lambda: len(lines(file)) == before + 2)
    begun, ended = lines(file)[before:]
    assert (begun["event"], begun["again"]) == ("attach", True)
    assert (ended["of"], ended["outcome"], len(failed)) == ("attach", "ok", 5)
    await kernels.interrupt()
    await kernels.close()


async def test_leaving_a_lost_kernel_ends_a_question_that_nobody_heard(host_kernel: Any, tmp_path: Path) -> None:
    kernels = make()
    await connected(kernels, host_kernel)
    assert (await run(kernels, asks_once(tmp_path / "go"), timeout=0.2)).status == "running"
    await lose(kernels)
    await let_ask(tmp_path / "go")
    assert await kernels.disconnect() == ("kernel-test", "")
    await kernels.connect(str(host_kernel.file))
    assert (await run(kernels, "1")).status == "ok"
    await kernels.close()


async def test_leaving_a_lost_kernel_that_does_not_answer_says_that_its_cell_may_ask(
    host_kernel: Any, tmp_path: Path
) -> None:
    kernels = make()
    await connected(kernels, host_kernel)
    assert (await run(kernels, "input('who? ')")).status == "asking"
    await lose(kernels)
    host_kernel.kill()
    name, told = await kernels.disconnect()
    assert name == "kernel-test"
    assert told.startswith("The connection to it was lost while a cell of yours ran, and is not back")
    assert "If it asks for input, the kernel stands still" in told
    assert not kernels.statuses()
    await kernels.close()
