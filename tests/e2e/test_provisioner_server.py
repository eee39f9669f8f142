"""A real Jupyter server whose kernels come from our provisioner: start, run, interrupt, restart, delete, and deaths."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Command
from tests.e2e.provisioned import SOON, containers, until, write_kernelspec
from tests.jupyter import Channels, JupyterServer, jupyter_server, notebook

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Jupyter's directories of this module, with a kernelspec for each of our ways."""
    directory = tmp_path_factory.mktemp("world")
    (directory / "runtime").mkdir(mode=0o700)
    write_kernelspec(directory, "own", sandbox={"memory": "512MiB"})
    write_kernelspec(directory, "refused", sandbox={"image": "python:3.13"})
    write_kernelspec(directory, "shared", kernel="theirs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_RUNTIME_DIR", str(directory / "runtime"))
        patch.setenv("JUPYTER_PATH", str(directory))
        yield directory


@pytest.fixture(scope="module")
def running(world: Path) -> Iterator[JupyterServer]:
    """Start one server for all tests but the one that ends it."""
    with jupyter_server(world / "server") as server:
        yield server


@pytest.fixture
def server(running: JupyterServer) -> Iterator[JupyterServer]:
    """The server without any kernel; when its kernels have ended, nothing of them is left."""
    yield running
    running.close_all()
    assert not containers()


@pytest.fixture
def theirs(command: Command, server: JupyterServer) -> Iterator[str]:
    """A sandbox that others share, with a variable of theirs."""
    started = command("up", "theirs", "--memory", "512MiB")
    assert started.returncode == 0, started.stderr
    assert command("run", "theirs", "-c", "theirs = 41").returncode == 0
    yield "theirs"
    command("stop", "theirs")


async def until_it_prints(channels: Channels, code: str, text: str) -> None:
    """Run a cell again and again until it prints this: a kernel that is just starting again may lose one."""
    async with asyncio.timeout(SOON):
        while await channels.run(code) != text:
            pass


async def test_a_notebooks_whole_life_in_a_sandbox_of_its_own(server: JupyterServer) -> None:
    session = server.open_notebook("a.ipynb", name="own")
    kernel = server.kernel_of(session)
    async with server.channels(kernel) as channels:
        assert await channels.run("gone = 1; print('runs')") == "runs\n"
        cell = await channels.begin("while True: pass")
        await cell.until("execute_input")
        assert server.answer("POST", f"kernels/{kernel}/interrupt") == (204, None)
        assert await cell.done() == "KeyboardInterrupt"
    server.ask("POST", f"kernels/{kernel}/restart")
    async with server.channels(kernel) as channels:
        assert await channels.run("gone") == "NameError"
        # a death is told, and the server starts it again by itself
        await channels.begin("import os; os._exit(1)")
        await channels.until_state("restarting")
        await until_it_prints(channels, "print('anew')", "anew\n")
    # of a kernel that it is just restarting, a server refuses to take one
    until(lambda: server.answer("DELETE", f"sessions/{session['id']}") == (204, None), "it is ended")
    assert not containers()
    assert server.ask("GET", "kernels") == []


async def test_a_server_that_is_told_to_end_leaves_no_sandbox(world: Path) -> None:
    with jupyter_server(world / "another") as ending:
        for path in ("a.ipynb", "b.ipynb"):
            ending.open_notebook(path, name="own")
        assert containers()
    assert not containers()


async def test_a_start_that_fails_is_answered_with_why_and_hangs_nowhere(server: JupyterServer) -> None:
    status, answer = server.answer("POST", "sessions", notebook("a.ipynb", name="refused"))
    assert status == 500
    assert "is not among the policy's" in answer["message"]
    assert server.ask("GET", "kernels") == []
    assert "is not among the policy's" in server.log.read_text()


async def test_a_sandbox_that_somebody_stops_is_told_dead_and_leaves_the_list(
    server: JupyterServer, command: Command
) -> None:
    async with server.channels(server.kernel_of(server.open_notebook("a.ipynb", name="own"))) as channels:
        await channels.run("pass")
        [name] = [each["name"] for each in json.loads(command("ls", "--json").stdout)["kernels"] if each["image"]]
        assert command("stop", name).returncode == 0
        await channels.until_state("dead")
    until(lambda: not server.ask("GET", "kernels"), "it is not listed any more")


async def test_a_notebooks_whole_life_on_a_shared_kernel(server: JupyterServer, theirs: str, command: Command) -> None:
    session = server.open_notebook("a.ipynb", name="shared")
    kernel = server.kernel_of(session)
    async with server.channels(kernel) as channels:
        assert await channels.run("print(theirs)") == "41\n"
        cell = await channels.begin("while True: pass")
        await cell.until("execute_input")
        assert server.answer("POST", f"kernels/{kernel}/interrupt") == (204, None)
        assert await cell.done() == "KeyboardInterrupt"
        await channels.run("ours = 1")
    server.ask("POST", f"kernels/{kernel}/restart")
    async with server.channels(kernel) as channels:
        assert await channels.run("print(theirs)") == (
            "kernel-bridge: theirs is a shared kernel: a restart from here left it as it is, with all its variables. "
            "To restart it for real, for everybody: kernel-bridge restart theirs\n41\n"
        )
    assert server.answer("DELETE", f"sessions/{session['id']}") == (204, None)
    assert command("run", theirs, "-c", "print(theirs, ours)").stdout == "41 1\n"


async def test_a_shared_kernel_that_is_gone_is_told_dead_and_not_started_again_and_again(
    server: JupyterServer, theirs: str, command: Command
) -> None:
    before = server.log.stat().st_size
    async with server.channels(server.kernel_of(server.open_notebook("a.ipynb", name="shared"))) as channels:
        await channels.run("pass")
        assert command("stop", theirs).returncode == 0
        await channels.until_state("dead")
    until(lambda: not server.ask("GET", "kernels"), "it is not listed any more")
    told = server.log.read_bytes()[before:].decode()
    assert "restarting kernel" not in told
    assert "all its variables are lost" in told.lower()


async def test_a_restart_of_a_shared_kernel_that_is_gone_ends_as_dead(
    server: JupyterServer, theirs: str, command: Command
) -> None:
    kernel = server.kernel_of(server.open_notebook("a.ipynb", name="shared"))
    assert command("stop", theirs).returncode == 0
    server.answer("POST", f"kernels/{kernel}/restart")
    until(lambda: not server.ask("GET", "kernels"), "it is dead, not starting for ever")


async def test_a_shared_kernel_that_is_restarted_for_real_is_joined_again_by_itself(
    server: JupyterServer, theirs: str, command: Command
) -> None:
    async with server.channels(server.kernel_of(server.open_notebook("a.ipynb", name="shared"))) as channels:
        await channels.run("pass")
        assert command("restart", theirs).returncode == 0
        await channels.until_state("restarting")
        await until_it_prints(channels, "print('theirs' in globals())", "False\n")
