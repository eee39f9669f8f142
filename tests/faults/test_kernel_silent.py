"""What listens at a kernel's ports and is none, or does not answer: told apart, in bounded time, by every way to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Command, command, connect
from tests.faults.conftest import until
from tests.faults.deaths import SOON, listed

__all__ = ["command", "connect"]  # fixtures
pytestmark = pytest.mark.anyio
one_era = pytest.mark.parametrize("connect", ["auto"], indirect=True, ids=["modern"])

PORTS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
# A connection is tried for four seconds, and a command has to start besides.
BOUND = 15.0


def write(file: Path, port: int) -> Path:
    ports = dict.fromkeys(PORTS, port)
    file.write_text(json.dumps({"ip": "127.0.0.1", "transport": "tcp", "key": "secret-of-it", **ports}))
    return file


@contextmanager
def http() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            serving.join()


@contextmanager
def mute() -> Iterator[int]:
    """Somebody who lets everybody in and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield listener.getsockname()[1]


@contextmanager
def babble() -> Iterator[int]:
    """Somebody who says what is no greeting of ZMQ's, and goes on to."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:

        def answer() -> None:
            while True:
                try:
                    held.append(listener.accept()[0])
                    held[-1].sendall(b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f" + os.urandom(4096))
                except OSError:
                    if listener.fileno() < 0:
                        return

        answering = threading.Thread(target=answer, daemon=True)
        answering.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    answering.join(SOON)
    for each in held:
        each.close()


@one_era
@pytest.mark.parametrize("program", [http, mute, babble], ids=lambda each: each.__name__)
async def test_another_program_at_the_ports_is_told_as_that_in_bounded_time(
    connect: Any, command: Command, runtime: Path, program: Any
) -> None:
    with program() as port:
        file = write(runtime / "kernel-other.json", port)
        async with asyncio.timeout(2 * SOON), connect() as agent:
            before = time.monotonic()
            refused = await agent.refused("connect_to_kernel", connection_file=str(file))
            assert time.monotonic() - before < BOUND
            assert f"Nothing at 127.0.0.1:{port} answered as a kernel within" in refused
            assert "it has ended, or is another program" in refused
            assert "secret-of-it" not in refused
            rows = [each for each in await listed(agent) if each["kind"] == "host"]
            assert [row["state"].startswith("not answering: Nothing at") for row in rows] == [True]
            for arguments in (("status", str(file)), ("run", str(file), "-c", "1")):
                done = await asyncio.to_thread(command, *arguments, timeout=BOUND)
                assert (done.returncode, "another program" in done.stderr) == (4, True), done


@one_era
@pytest.mark.parametrize("program", [http, mute], ids=lambda each: each.__name__)
@pytest.mark.parametrize("taken", ["shell_port", "iopub_port", "control_port"])
async def test_a_kernel_one_of_whose_ports_was_taken_when_it_was_started_is_told_in_bounded_time(
    connect: Any, command: Command, runtime: Path, program: Any, taken: str
) -> None:
    """An ipykernel fails then, may hang with what it has bound so far, and leaves its file."""
    file, log = runtime / "kernel-taken.json", runtime / "kernel.log"
    with program() as port, contextlib.ExitStack() as undo:
        with contextlib.ExitStack() as free:
            others = {name: free.enter_context(socket.create_server(("127.0.0.1", 0))) for name in PORTS}
            ports = {name: each.getsockname()[1] for name, each in others.items()} | {taken: port}
        file.write_text(json.dumps(json.loads(write(file, port).read_text()) | ports))
        with log.open("wb") as out:
            kernel = subprocess.Popen(
                [sys.executable, "-m", "ipykernel_launcher", "-f", str(file)], stdout=out, stderr=out
            )
        undo.callback(kernel.wait, SOON)
        undo.callback(kernel.kill)
        await asyncio.to_thread(until, lambda: "Address already in use" in log.read_text(), "its failure")
        async with asyncio.timeout(2 * SOON), connect() as agent:
            before = time.monotonic()
            refused = await agent.refused("connect_to_kernel", connection_file=str(file))
            assert time.monotonic() - before < BOUND
            assert "Nothing listens on 127.0.0.1:" in refused
            assert "the kernel of this connection file has ended" in refused
            [row] = [each for each in await listed(agent) if each["kind"] == "host"]
            assert row["state"].startswith("not answering: Nothing listens on")
        done = await asyncio.to_thread(command, "run", str(file), "-c", "1", timeout=BOUND)
        assert (done.returncode, "has ended" in done.stderr) == (4, True), done


@one_era
async def test_a_kernel_that_was_stopped_before_anybody_connects_is_told_and_found_once_it_goes_on(
    connect: Any, command: Command, host_kernel: Any
) -> None:
    async with asyncio.timeout(2 * SOON), connect() as agent:
        while (await agent.client.call_tool("connect_to_kernel", {"connection_file": str(host_kernel.file)})).is_error:
            pass
        await agent.run("x = 1")
        await agent.call("disconnect_kernel")
        os.kill(host_kernel.process.pid, signal.SIGSTOP)
        try:
            before = time.monotonic()
            refused = await agent.refused("connect_to_kernel", connection_file=str(host_kernel.file))
            assert time.monotonic() - before < BOUND
            assert "Nothing at" in refused or "hangs" in refused
            done = await asyncio.to_thread(command, "run", str(host_kernel.file), "-c", "1", timeout=BOUND)
            assert done.returncode == 4
        finally:
            os.kill(host_kernel.process.pid, signal.SIGCONT)
        await agent.call("connect_to_kernel", connection_file=str(host_kernel.file))
        assert await agent.run("x") == "1"


@one_era
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_a_key_that_does_not_fit_is_told_as_that(
    connect: Any, command: Command, host_kernel: Any, *, busy: bool
) -> None:
    async with asyncio.timeout(2 * SOON), connect() as agent:
        while (await agent.client.call_tool("connect_to_kernel", {"connection_file": str(host_kernel.file)})).is_error:
            pass
        if busy:
            await agent.run("import time\nwhile True: print('on', flush=True); time.sleep(0.05)", timeout=0.3)
        wrong = host_kernel.file.with_name("kernel-wrong.json")
        wrong.write_text(json.dumps(json.loads(host_kernel.file.read_text()) | {"key": "an-earlier-one"}))
        refused = await agent.refused("connect_to_kernel", connection_file=str(wrong))
        assert "the key in the connection file is not its key" in refused
        assert "Name the file of the running one" in refused
        done = await asyncio.to_thread(command, "run", str(wrong), "-c", "1", timeout=BOUND)
        assert (done.returncode, "is not its key" in done.stderr) == (4, True), done
        assert "an-earlier-one" not in refused + done.stderr
        states = {each["name"]: each["state"] for each in await listed(agent)}
        assert "is not its key" in states["kernel-wrong"]
        assert states["kernel-test"] == "alive"


FILLED = """
import os, sys
from pathlib import Path
state = os.environ["XDG_STATE_HOME"]
script = f'mount -t tmpfs -o size=1m,mode=0700 tmpfs {state} && exec "$@"'
os.execvp("unshare", ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-m", "bridge", *sys.argv[1:]])
"""


@one_era
async def test_on_a_full_disk_every_result_comes_and_says_what_is_not_kept(
    connect: Any, host_kernel: Any, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    async with (
        asyncio.timeout(2 * SOON),
        connect(program=("-c", FILLED, "serve"), XDG_STATE_HOME=str(state)) as agent,
    ):
        while (await agent.client.call_tool("connect_to_kernel", {"connection_file": str(host_kernel.file)})).is_error:
            pass
        text = await agent.run("for n in range(200_000): print('line', n)")
        assert text.startswith("line 0\nline 1\n")
        assert "line 199999" in text
        assert "Not all of this output could be kept to be read later: database or disk is full." in text
        assert "cursor=0) reads all of it" not in text
        assert "42" in await agent.run("6 * 7")
        activity = await agent.client.call_tool("get_activity", {})
        assert "could be kept" in str(activity.structured_content["notes"])
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", FILLED, "run", str(host_kernel.file), "-c", "print('x' * 2_000_000)"],
        env=os.environ | {"XDG_STATE_HOME": str(state)},
        capture_output=True,
        text=True,
        timeout=SOON,
        check=False,
    )
    assert (done.returncode, len(done.stdout)) == (0, 2_000_001)
    assert "could be kept to be read later: database or disk is full" in done.stderr
    assert not list(state.iterdir())
