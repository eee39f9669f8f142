"""Deaths told apart: what happened, what is lost, what to do; and the same name and file work again."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest

from bridge import moments
from bridge.ide.joining import Joining
from bridge.kernels.registry import Kernels
from bridge.launchers.docker import DockerLauncher
from bridge.policy import built_in
from tests.e2e.conftest import Command, command, connect
from tests.faults.deaths import SOON, WayToEngine, begun, container, elsewhere, listed, status, told

__all__ = ["command", "connect"]  # fixtures
pytestmark = pytest.mark.anyio
one_era = pytest.mark.parametrize("connect", ["auto"], indirect=True, ids=["modern"])

# How a kernel's process ends, by its own code, and the words for it.
ENDS = {
    "exit": ("import os; os._exit(3)", "ended by itself with exit status 3"),
    "killed": ("import os; os.kill(os.getpid(), 9)", "signal 9 (SIGKILL)"),
    "crash": ("import ctypes; ctypes.string_at(0)", "signal 11 (SIGSEGV)"),
    "memory": ("hog = bytearray(400 * 2**20)", "ran out of memory (the limit is 160 MiB)"),
}


@pytest.fixture(scope="module")
def home(command: Command) -> Iterator[tuple[str, Path]]:
    """A sandbox with little memory, and its connection file."""
    started = command("up", "deaths", "--memory", "160MiB")
    assert started.returncode == 0, started.stderr
    yield "deaths", Path(started.stdout.strip())
    command("stop", "deaths")


@one_era
@pytest.mark.parametrize(("code", "words"), ENDS.values(), ids=ENDS)
async def test_how_a_sandboxes_kernel_ended_is_told_and_it_is_back_under_its_name_and_file(
    connect: Any, home: tuple[str, Path], code: str, words: str
) -> None:
    name, file = home
    written = file.read_text()
    async with asyncio.timeout(SOON), connect() as agent:
        await agent.call("connect_to_kernel", connection_file=name)
        await agent.run("x = 1")
        text = await told(agent, asyncio.create_task(agent.client.call_tool("execute_code", {"code": code})))
        assert f"In sandbox deaths the kernel's process {'was ' if 'exit' not in code else ''}" in text
        assert words in text
        assert "variables are lost" in text
        assert "How much of the code ran is not known" in text
        lost = await status(agent)
        assert (lost["state"], lost["epoch"], words in lost["reason"]) == ("lost", 1, True)
        after = await agent.run("'x' in globals()")
        assert after.startswith(f"Kernel {name} is new (epoch 2): all earlier variables are gone. In sandbox deaths")
        assert words in after.splitlines()[0]
        assert after.endswith("False")
        assert ((await status(agent))["state"], (await status(agent))["epoch"]) == ("idle", 2)
        [row] = await listed(agent)
        assert (row["name"], row["state"], row["connected"]) == (name, "alive", True)
        again = await agent.call("restart_kernel")
        assert again.startswith(f"Kernel {name} is new (epoch 3): all earlier variables are gone.")
        assert await agent.run("1 + 1") == "2"
    assert file.read_text() == written
    assert elsewhere(file, "print('same file')") == "same file\n"


@pytest.mark.parametrize(("code", "words"), ENDS.values(), ids=ENDS)
def test_the_shell_is_told_how_a_sandboxes_kernel_ended(
    command: Command, home: tuple[str, Path], code: str, words: str
) -> None:
    name, _ = home
    done = command("run", name, "-c", code)
    assert done.returncode == 4
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert words in json.loads(command("status", name, "--json").stdout)["last_ending"]
    assert command("restart", name).returncode == 0
    assert command("run", name, "-c", "6 * 7").stdout == "42\n"


CONTAINER_ENDS = {
    "killed": (lambda found: found.kill(), "killed from outside (SIGKILL)"),
    "stopped": (lambda found: found.stop(), "stopped from outside (SIGTERM)"),
}


@one_era
@pytest.mark.parametrize(("end", "words"), CONTAINER_ENDS.values(), ids=CONTAINER_ENDS)
async def test_how_a_sandboxes_container_ended_is_told_and_what_starts_another(
    connect: Any, command: Command, end: Any, words: str
) -> None:
    async with asyncio.timeout(SOON), connect() as agent:
        await agent.call("start_sandbox", name="ended")
        call = await begun(agent, "import time; time.sleep(60)")
        with container("ended") as found:
            await asyncio.to_thread(end, found)
        text = await told(agent, call)
        assert f"Sandbox ended has ended: {words}" in text
        assert "All its variables are lost" in text
        lost = await status(agent)
        assert (lost["state"], words in lost["reason"]) == ("lost", True)
        for arguments in (("status", "ended"), ("run", "ended", "-c", "1")):
            refused = await asyncio.to_thread(command, *arguments)
            assert (refused.returncode, words in refused.stdout + refused.stderr) == (4, True), refused
        [row] = [each for each in await listed(agent) if each["name"] == "ended"]
        assert row["state"].startswith(f"ended: {words}")
        refused = await agent.refused("execute_code", code="1")
        assert words in refused
        assert "Nothing was executed" in refused
        assert refused.count("starts another") == 1
        await agent.call("start_sandbox", name="ended")
        try:
            assert await agent.run("6 * 7") == "42"
        finally:
            await agent.call("stop_sandbox", kernel="ended")


@one_era
async def test_a_paused_sandbox_is_told_with_what_wakes_it_and_its_cell_goes_on(
    connect: Any, command: Command, home: tuple[str, Path]
) -> None:
    name, _ = home
    async with asyncio.timeout(2 * SOON), connect() as agent:
        await agent.call("connect_to_kernel", connection_file=name)
        await agent.run("import threading, pathlib; x = 7; go = pathlib.Path.home() / 'go'; go.unlink(missing_ok=True)")
        call = await begun(agent, "while not go.exists(): pass\nprint('through')", timeout=1)
        assert "Still running: execution 2" in agent.text(await call)
        with container(name) as found:
            found.pause()
            try:
                assert "Still running" in await agent.call("get_execution", execution=2, wait=0.2)
                refused = await agent.refused("execute_code", code="x", timeout=0.3)
                assert "busy with execution 2" in refused
                assert "Nothing was executed" in refused
                [row] = await listed(agent)
                assert "docker unpause" in row["state"]
                assert "docker unpause" in await agent.refused("restart_kernel")
                for arguments in (("status", name), ("run", name, "-c", "1")):
                    done = await asyncio.to_thread(command, *arguments)
                    assert (done.returncode, "docker unpause" in done.stdout + done.stderr) == (4, True), done
            finally:
                found.unpause()
        await agent.call("put_file", path="go", text="")
        assert (await agent.call("get_execution", execution=2, wait=SOON / 2)).endswith("through")
        assert await agent.run("x") == "7"


HOGS = """
import concurrent.futures, multiprocessing
def hog(): return len(bytearray(400 * 2**20))
with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
    print(pool.submit(hog).exception())
"""


@one_era
async def test_a_worker_that_runs_out_of_memory_is_told_of_by_its_cell_and_the_kernel_goes_on(
    connect: Any, command: Command, home: tuple[str, Path]
) -> None:
    name, _ = home
    words = "In this sandbox a process was killed: out of memory (the limit is 160 MiB for all of it together)."
    async with asyncio.timeout(SOON), connect() as agent:
        await agent.call("connect_to_kernel", connection_file=name)
        await agent.run("x = 7")
        text = await agent.run(HOGS)
        assert "terminated abruptly" in text
        assert words in text
        assert "The kernel and its variables are there." in text
        assert await agent.run("x") == "7"
        assert ((await status(agent))["state"], (await status(agent))["epoch"]) == ("idle", 1)
    done = await asyncio.to_thread(command, "run", name, "-c", HOGS)
    assert (done.returncode, words in done.stderr) == (0, True)


@one_era
async def test_a_kernel_goes_on_without_the_engine_and_its_death_and_return_are_told_as_far_as_can_be(
    connect: Any, home: tuple[str, Path], tmp_path: Path
) -> None:
    name, file = home
    engine = WayToEngine(tmp_path / "engine.sock")
    await engine.open()
    async with asyncio.timeout(SOON), connect(DOCKER_HOST=f"unix://{engine.socket}") as agent:
        await agent.call("connect_to_kernel", connection_file=name)
        await agent.run("x = 7")
        await engine.cut()
        assert await agent.run("x") == "7"
        listing = (await agent.client.call_tool("list_kernels", {})).structured_content
        assert str(engine.socket) in listing["trouble"]
        assert str(engine.socket) in await agent.refused("restart_kernel")
        assert await agent.run("x") == "7"
        text = agent.text(await agent.client.call_tool("execute_code", {"code": "import os; os._exit(3)"}))
        assert "for a reason that the engine does not tell" in text
        assert "Lost: kernel deaths" in text
        after = await agent.run("'x' in globals()")
        assert after.endswith("False")
        assert (await status(agent))["epoch"] == 2
        await engine.open()
        assert "epoch 3" in await agent.call("restart_kernel")
    await engine.cut()
    assert elsewhere(file, "print('same file')") == "same file\n"


class Ahead(datetime):
    """A clock that is an hour ahead."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Any:
        return datetime.now(tz) + timedelta(hours=1)


async def test_how_a_kernel_ended_is_told_though_the_clock_was_set_back_meanwhile(
    home: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = Kernels(built_in(), DockerLauncher, username="agent")
    try:
        with monkeypatch.context() as patch:
            patch.setattr(moments, "datetime", Ahead)
            await kernels.connect(home[0])
        outcome = await kernels.execute("import os; os._exit(3)", timeout=SOON)
        assert outcome.result
        assert "exit status 3" in outcome.result.notes[0]
    finally:
        await kernels.close()


async def test_how_a_kernel_ended_is_told_to_an_ide_though_the_clock_was_set_back_meanwhile(
    home: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _ = home
    joining = Joining(
        lambda: Kernels(built_in(), DockerLauncher, username="ide"), name, owner=False, request=None, engine=None
    )
    with monkeypatch.context() as patch:
        patch.setattr(moments, "datetime", Ahead)
        before = await joining.join()
    async with asyncio.timeout(SOON), joining.kernels() as kernels:
        await kernels.connect(name)
        await kernels.execute("import os; os._exit(3)", timeout=SOON)
        found = await joining.rejoin(before)
    assert found.process != before.process
    assert "exit status 3" in found.reason


JUMPS = """
import itertools, runpy, sys, time
real, jumps = time.time, itertools.cycle([0, 86400, -86400, 3600])
time.time = lambda: real() + next(jumps)
sys.argv[0] = "bridge"
runpy.run_module("bridge", run_name="__main__")
"""


@one_era
async def test_while_the_clock_jumps_every_time_out_is_kept_and_every_time_is_told(
    connect: Any, home: tuple[str, Path]
) -> None:
    name, _ = home
    async with asyncio.timeout(SOON), connect(program=("-c", JUMPS, "serve")) as agent:
        await agent.call("connect_to_kernel", connection_file=name)
        before = time.monotonic()
        assert "Still running" in await agent.run("import time; time.sleep(2); print('end')", timeout=0.5)
        assert 0.5 <= time.monotonic() - before < 2
        assert await agent.call("get_execution", execution=1, wait=SOON / 2) == "end"
        await asyncio.to_thread(elsewhere, home[1], "print('theirs')")
        activity = await agent.client.call_tool("get_activity", {})
        assert not activity.is_error
        [cell] = [each for each in activity.structured_content["cells"] if "theirs" in each["code"]]
        assert cell["seconds"] >= 0
        assert "exit status 3" in await agent.refused("execute_code", code="import os; os._exit(3)")
