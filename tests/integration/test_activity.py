"""What is seen of the others' work, with real sessions of several clients on one ipykernel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from bridge.channels import Channels, open_channels
from bridge.connection import load
from bridge.kernels.activity import Activity, OthersCell
from bridge.kernels.registry import Kernels
from bridge.launchers.docker import DockerLauncher
from bridge.policy import built_in
from tests.integration.conftest import connected

pytestmark = pytest.mark.anyio

SOON = 30.0


class Other:
    """Another client of the kernel: what it sends, and until when to wait for it."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels
        self._idle: dict[str, asyncio.Event] = {}
        self._running: dict[str, asyncio.Event] = {}
        self.subshell = ""
        channels.start(self._receive, lambda _: None)

    def _receive(self, message: Any) -> None:
        if message.channel == "control" and "subshell_id" in message.content:
            self.subshell = message.content["subshell_id"]
            self._of(self._running, "subshell").set()
        if message.channel != "iopub":
            return
        if message.msg_type == "stream" and "begun" in message.content["text"]:
            self._of(self._running, message.parent_id).set()
        if message.content.get("execution_state") == "idle":
            self._of(self._idle, message.parent_id).set()

    @staticmethod
    def _of(table: dict[str, asyncio.Event], msg_id: str) -> asyncio.Event:
        return table.setdefault(msg_id, asyncio.Event())

    async def send(self, code: str, *, subshell: str = "", **content: Any) -> str:
        asked = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        message = self.channels.new_message("execute_request", asked | {"stop_on_error": False} | content)
        if subshell:
            message["header"]["subshell_id"] = subshell
        await self.channels.send_message("shell", message)
        return str(message["header"]["msg_id"])

    async def until_idle(self, msg_id: str) -> None:
        async with asyncio.timeout(SOON):
            await self._of(self._idle, msg_id).wait()

    async def until_begun(self, msg_id: str) -> None:
        """Wait until the cell has printed the word."""
        async with asyncio.timeout(SOON):
            await self._of(self._running, msg_id).wait()

    async def run(self, code: str, **how: Any) -> None:
        await self.until_idle(await self.send(code, **how))

    async def open_subshell(self) -> str:
        await self.channels.send("control", "create_subshell_request", {})
        await self.until_begun("subshell")
        return self.subshell


Join = Callable[..., Any]


@pytest.fixture
async def join(host_kernel: Any) -> AsyncIterator[Join]:
    """Connect another client to the kernel, by whose name it is asked to."""
    joined: list[Other] = []

    async def other(username: str = "alice", file: Any = None) -> Other:
        info = load(file or host_kernel.file)
        joined.append(Other(await open_channels(info, username=username, timeout=SOON, starting=True)))
        return joined[-1]

    yield other
    for each in joined:
        await each.channels.close()


async def told(kernels: Kernels, enough: Callable[[Activity], bool], since: str | None = None) -> Activity:
    """Ask until the messages that are on their way have come."""
    async with asyncio.timeout(SOON):
        while not enough(found := await kernels.activity(since=since, look=False)):
            await asyncio.sleep(0.01)
    return found


def state(kernels: Kernels) -> str:
    return kernels.statuses()[0].state


async def cells(kernels: Kernels, number: int, since: str | None = None) -> tuple[OthersCell, ...]:
    return (await told(kernels, lambda found: len(found.cells) >= number, since)).cells


async def test_cells_of_others_are_told_with_whose_they_were_and_how_they_went(kernels: Kernels, join: Join) -> None:
    alice, bob = await join("alice"), await join("bob")
    await alice.run("x = 1\nprint('hello')")
    await bob.run("1/0")
    await kernels.execute("ours = 1", timeout=SOON)
    first, second = await cells(kernels, 2)
    assert (first.username, first.code, first.outcome, first.output) == (
        "alice",
        "x = 1\nprint('hello')",
        "ok",
        "hello",
    )
    assert (second.username, second.outcome) == ("bob", "error")
    assert second.output.endswith("ZeroDivisionError: division by zero")
    assert first.session != second.session
    assert first.began <= second.began


async def test_two_clients_of_one_user_are_told_apart(kernels: Kernels, join: Join) -> None:
    for each in [await join("alice"), await join("alice")]:
        await each.run("pass")
    first, second = await cells(kernels, 2)
    assert (first.username, second.username) == ("alice", "alice")
    assert first.session != second.session


async def test_what_runs_is_told_with_its_output_so_far_and_later_how_it_ended(kernels: Kernels, join: Join) -> None:
    alice = await join()
    sent = await alice.send("print('begun', flush=True)\nimport time; time.sleep(1); print('done')")
    await alice.until_begun(sent)
    now = await told(kernels, lambda found: bool(found.running) and bool(found.running[0].output))
    assert (state(kernels), now.cells) == ("busy", ())
    [running] = now.running
    assert (running.outcome, running.output, running.username) == ("running", "begun", "alice")
    assert "alice" in now.busy_with[0]
    [ended] = await cells(kernels, 1, now.cursor)
    assert (ended.cell, ended.outcome, ended.output) == (running.cell, "ok", "begun\ndone")
    assert ended.seconds > 0.5


async def test_a_cell_that_ran_before_the_bridge_came_is_told_without_its_code(
    host_kernel: Any, kernels: Kernels, join: Join
) -> None:
    alice = await join()
    await kernels.disconnect()
    await alice.run("secret = 'not seen'")
    code = "import time; time.sleep(1); print('begun', flush=True); time.sleep(1); raise ValueError('late')"
    sent = await alice.send(code)
    await connected(kernels, host_kernel)
    assert "began before the bridge came" in (await kernels.activity(look=False)).notes[0]
    await alice.until_idle(sent)
    [cell] = await cells(kernels, 1)
    assert (cell.code, cell.outcome, cell.username) == (None, "error", "alice")
    assert cell.output.startswith("begun")
    assert cell.output.endswith("ValueError: late")
    await alice.run("y = 1")
    assert [each.code for each in await cells(kernels, 2)] == [None, "y = 1"]


async def test_a_thread_that_still_prints_is_not_taken_for_a_cell(kernels: Kernels, join: Join) -> None:
    alice = await join()
    await alice.run(
        "import threading, time\nt = threading.Thread(target=lambda: (time.sleep(1.5), print('late')))\nt.start()"
    )
    await alice.run("t.join()")
    await alice.run("'after'")
    assert len(await cells(kernels, 3)) == 3
    assert (await told(kernels, lambda _: state(kernels) == "idle")).running == ()


async def test_a_silent_request_is_no_cell_and_leaves_nothing_behind(kernels: Kernels, join: Join) -> None:
    alice = await join()
    await alice.run("hidden = 1; print('hidden')", silent=True, store_history=False)
    await alice.run("shown = 1")
    assert [each.code for each in await cells(kernels, 1)] == ["shown = 1"]
    assert (await told(kernels, lambda _: state(kernels) == "idle")).busy_with == ()


async def test_a_cell_in_anothers_subshell_is_told_and_keeps_nobody_waiting(kernels: Kernels, join: Join) -> None:
    alice = await join()
    subshell = await alice.open_subshell()
    sent = await alice.send("print('begun', flush=True); import time; time.sleep(2); inside = 1", subshell=subshell)
    await alice.until_begun(sent)
    now = await told(kernels, lambda found: bool(found.running))
    assert now.running[0].code
    assert now.running[0].code.endswith("inside = 1")
    assert (state(kernels), now.busy_with) == ("idle", ())
    outcome = await kernels.execute("'inside' in globals()", timeout=SOON)
    assert outcome.result
    assert "False" in str(outcome.result.outputs)
    await alice.until_idle(sent)
    assert [each.outcome for each in await cells(kernels, 1)] == ["ok"]


async def test_another_bridges_cells_are_told_as_such(host_kernel: Any, kernels: Kernels) -> None:
    other = Kernels(built_in(), DockerLauncher, username="codex")
    await connected(other, host_kernel)
    await other.execute("theirs = 1", timeout=SOON)
    [cell] = await cells(kernels, 1)
    assert (cell.client, cell.username, cell.code) == ("kernel-bridge", "codex", "theirs = 1")
    assert (await other.activity(look=False)).cells == ()
    await other.close()


async def test_what_was_run_before_the_kernel_was_restarted_is_of_an_earlier_epoch(
    kernels: Kernels, join: Join, start_host_kernel: Any, host_kernel: Any
) -> None:
    alice = await join()
    await alice.run("before = 1")
    await cells(kernels, 1)
    sent = await alice.send("print('begun', flush=True); import time; time.sleep(60)")
    await alice.until_begun(sent)
    await told(kernels, lambda found: bool(found.running))
    host_kernel.kill()
    ports = [
        f"--{each}={getattr(host_kernel.info, f'{each}_port')}" for each in ("shell", "iopub", "stdin", "hb", "control")
    ]
    key = f"--Session.key={host_kernel.info.key}"
    start_host_kernel("kernel-test", *ports, key)
    async with asyncio.timeout(SOON):
        while "epoch 2" not in "".join((await kernels.activity(look=False)).notes):
            await asyncio.sleep(0.05)
    again = await join()
    await again.run("after = 1")
    seen = await cells(kernels, 3)
    assert [(each.code, each.epoch, each.outcome) for each in seen[::2]] == [
        ("before = 1", 1, "ok"),
        ("after = 1", 2, "ok"),
    ]
    assert seen[1].outcome == "lost"


async def test_a_kernel_that_is_gone_is_told_once_more_and_why(kernels: Kernels, join: Join, host_kernel: Any) -> None:
    alice = await join()
    await alice.run("last = 1")
    await cells(kernels, 1)
    host_kernel.kill()
    gone = await told(kernels, lambda found: bool(found.notes))
    assert [each.code for each in gone.cells] == ["last = 1"]
    assert "has ended" in gone.notes[0]
    assert gone.names is None


async def test_names_that_came_changed_or_went_are_told_whoever_did_it(kernels: Kernels, join: Join) -> None:
    alice = await join()
    await alice.run("kept = []; changed = 1; gone = 2")
    first = await kernels.activity()
    assert first.names is None
    assert "first look" in first.notes[0]
    await alice.run("changed = 'new'; del gone; made = 3; kept.append(1)")
    await kernels.execute("mine = 4", timeout=SOON)
    names = (await kernels.activity()).names
    assert names == {"bound": ("made", "mine"), "rebound": ("changed",), "deleted": ("gone",)}
    assert (await kernels.activity()).names == {"bound": (), "rebound": (), "deleted": ()}


async def test_names_are_told_while_a_cell_runs(kernels: Kernels, join: Join) -> None:
    alice = await join()
    await kernels.activity()
    sent = await alice.send("import time; early = 1; print('begun', flush=True); time.sleep(2); late = 2")
    await alice.until_begun(sent)
    names = (await kernels.activity()).names
    assert names
    assert names["bound"] == ("early", "time")
    await alice.until_idle(sent)


async def test_where_names_cannot_be_looked_at_the_cells_are_told_all_the_same(kernels: Kernels, join: Join) -> None:
    session = next(iter(kernels._connected.values())).session
    session._channels.kernel_info = {**session._channels.kernel_info, "supported_features": []}
    alice = await join()
    sent = await alice.send("print('begun', flush=True); import time; time.sleep(2)")
    await alice.until_begun(sent)
    await told(kernels, lambda found: bool(found.running))
    now = await kernels.activity()
    assert now.names is None
    assert "no subshells" in now.notes[0]
    assert len(now.running) == 1
    await alice.until_idle(sent)
