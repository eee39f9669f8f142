"""A sandbox's gateway that is lost while cells run: it comes back on its ports, and the cells are followed on."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.kernels.cells import RECOVERED
from tests.e2e.conftest import Command, command, connect
from tests.faults.deaths import SOON, begun, container, listed, status, why_lost

__all__ = ["command", "connect"]  # fixtures
pytestmark = pytest.mark.anyio
one_era = pytest.mark.parametrize("connect", ["auto"], indirect=True, ids=["modern"])

# Goes on once the file is there that the test puts into the home directory.
UNTIL = "import pathlib, time\nwhile not (pathlib.Path.home() / {!r}).exists(): time.sleep(0.01)\n"
BACK = "The connection was lost while it ran and is back; what it printed in between is not here."


@pytest.fixture(scope="module")
def home(command: Command) -> Iterator[tuple[str, Path]]:
    """A sandbox, and its connection file."""
    started = command("up", "gate")
    assert started.returncode == 0, started.stderr
    yield "gate", Path(started.stdout.strip())
    command("stop", "gate")


@pytest.fixture(autouse=True)
def _first_bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test's bridge knows of none before it, so that its cells are numbered from 1 on."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


async def kill_gateway(name: str) -> None:
    with container(name, "gateway") as found:
        await asyncio.to_thread(found.kill)


def inside(name: str, code: str, status: tuple[int, ...] = (0,)) -> None:
    """Run something beside the kernel, as nobody who is connected to it; it ends in any case, with such a status."""
    bounded = f"import pathlib, signal\nsignal.alarm({SOON:.0f})\n{code}"
    with container(name) as found:
        code_of, output = found.exec_run(["/opt/kernel/bin/python", "-c", bounded])
    assert code_of in status, output


async def put(name: str, file: str) -> None:
    await asyncio.to_thread(inside, name, f"(pathlib.Path.home() / {file!r}).touch()")


@one_era
async def test_a_cell_whose_gateway_was_lost_is_followed_on_in_the_same_call(
    connect: Any, home: tuple[str, Path]
) -> None:
    name, file = home
    written = file.read_text()
    async with asyncio.timeout(SOON), connect() as agent:
        await agent.call("connect_to_kernel", connection_file=name)
        await agent.run("x = 7")
        call = await begun(agent, f"{UNTIL.format('one')}print('after', x)\nx + 1")
        await kill_gateway(name)
        # the call itself brings the gateway back
        while (await status(agent))["state"] != "busy":
            await asyncio.sleep(0.05)
        assert not call.done()
        await put(name, "one")
        result = await call
        text = agent.text(result)
        assert not result.is_error, text
        first, *rest = text.splitlines()
        assert first.startswith("The connection to gate was lost and is back; its variables are intact. The gateway of")
        assert rest == ["begun", "after 7", "8", RECOVERED]
        assert await agent.call("get_execution", execution=2) == f"begun\nafter 7\n8\n{RECOVERED}"
        assert await agent.run("x") == "7"
        told = await status(agent)
        assert (told["state"], told["epoch"]) == ("idle", 1)
    assert file.read_text() == written


@one_era
async def test_a_cell_that_nobody_waits_for_is_followed_on_by_the_next_look_and_can_be_interrupted(
    connect: Any, home: tuple[str, Path]
) -> None:
    name, _ = home
    async with asyncio.timeout(SOON), connect() as agent:
        await agent.call("connect_to_kernel", connection_file=name)
        await (await begun(agent, UNTIL.format("never"), timeout=0.5))
        await kill_gateway(name)
        assert "variables live on" in await why_lost(agent)
        [row] = await listed(agent)
        assert "its gateway ended; connecting brings it back" in row["state"]
        text = await agent.call("get_execution", execution=1, wait=0.3)
        assert text.splitlines()[:2] == ["begun", BACK]
        assert "Still running: execution 1" in text
        assert (await status(agent))["running"] == ["execution 1 of this bridge"]
        assert "busy with execution 1" in await agent.refused("execute_code", code="1", timeout=0.3)
        stopped = await agent.refused("interrupt_kernel")
        assert "KeyboardInterrupt" in stopped
        assert await agent.run("6 * 7") == "42"


@one_era
async def test_a_cell_that_ended_while_its_gateway_was_away_is_told_as_the_kernel_has_kept_it(
    connect: Any, home: tuple[str, Path]
) -> None:
    name, _ = home
    async with asyncio.timeout(SOON), connect() as agent:
        await agent.call("connect_to_kernel", connection_file=name)
        code = f"{UNTIL.format('two')}print('unheard')\n(pathlib.Path.home() / 'ended').touch()"
        await (await begun(agent, code, timeout=0.5))
        await kill_gateway(name)
        await why_lost(agent)
        await put(name, "two")
        await asyncio.to_thread(
            inside, name, "while not (pathlib.Path.home() / 'ended').exists(): __import__('time').sleep(0.01)"
        )
        assert await agent.call("get_execution", execution=1, wait=20) == f"begun\nunheard\n{RECOVERED}"
        assert "intact" in await agent.run("1")


@one_era
async def test_what_a_cell_asked_when_its_gateway_was_lost_is_asked_on_and_answered(
    connect: Any, home: tuple[str, Path]
) -> None:
    name, _ = home
    async with asyncio.timeout(SOON), connect() as agent:
        await agent.call("connect_to_kernel", connection_file=name)
        assert "Waiting for input: `who?`" in await agent.run("print('hello', input('who? '))")
        await kill_gateway(name)
        await why_lost(agent)
        text = await agent.call("send_input", text="you", execution=1, timeout=20)
        assert "hello you" in text
        assert BACK in text


@one_era
async def test_a_kernel_that_died_while_its_gateway_was_away_takes_its_cell_with_it(
    connect: Any, home: tuple[str, Path]
) -> None:
    name, _ = home
    async with asyncio.timeout(SOON), connect() as agent:
        await agent.call("connect_to_kernel", connection_file=name)
        call = await begun(agent, UNTIL.format("no"), timeout=0.5)
        await call
        await kill_gateway(name)
        await why_lost(agent)
        with container(name) as found:
            events = [json.loads(line) for line in found.logs(stderr=False).splitlines()]
        pid = [each["pid"] for each in events if each["event"] == "started"][-1]
        # the supervisor ends all that is left, which may be this too
        await asyncio.to_thread(inside, name, f"import os; os.kill({pid}, 9)", (0, 137))
        after = await agent.run("1 + 1")
        assert re.match(r"Kernel gate is new \(epoch 2\): all earlier variables are gone", after)
        text = await agent.refused("get_execution", execution=1)
        assert "the process that ran it has ended" in text
        assert "Lost: " in text


def test_the_shell_follows_its_cell_on_and_ends_with_the_cells_own_outcome(
    command: Command, home: tuple[str, Path]
) -> None:
    name, _ = home

    async def both() -> Any:
        cell = asyncio.create_task(
            asyncio.to_thread(
                command,
                *("run", name, "-c", f"(__import__('pathlib').Path.home() / 'runs').touch()\n{UNTIL.format('three')}"),
            )
        )
        await asyncio.to_thread(
            inside, name, "while not (pathlib.Path.home() / 'runs').exists(): __import__('time').sleep(0.01)"
        )
        await kill_gateway(name)
        back = asyncio.to_thread(command, "status", name)
        assert (await back).returncode == 0
        await put(name, "three")
        return await cell

    done = asyncio.run(both())
    assert done.returncode == 0, done.stderr
    assert "was lost and is back" in done.stderr


@one_era
async def test_a_restart_while_the_gateway_is_away_brings_a_new_process_under_the_same_file(
    connect: Any, home: tuple[str, Path]
) -> None:
    name, file = home
    written = file.read_text()
    async with asyncio.timeout(SOON), connect() as agent:
        await agent.call("connect_to_kernel", connection_file=name)
        await agent.run("x = 1")
        await kill_gateway(name)
        await why_lost(agent)
        assert "is new (epoch 2)" in await agent.call("restart_kernel")
        assert await agent.run("'x' in globals()") == "False"
    assert file.read_text() == written
