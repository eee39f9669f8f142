"""What differs where the server is served over HTTP: it has many clients, a port, and no stdin to be closed.

What else goes wrong with its clients is in `tests/e2e/test_http_attacks.py`, and how it ends in a call in
`tests/e2e/test_http.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.e2e import serving
from tests.e2e.serving import Mode, Served, status
from tests.e2e.test_http_attacks import META, MODERN, call
from tests.faults.conftest import ENDS_WITHIN, SOON, asked, ours, run, until

pytestmark = pytest.mark.anyio

KERNEL = "kernel-test"


@pytest.fixture
def serve(tmp_path: Path, runtime: Path) -> Iterator[Callable[..., Served]]:
    started: list[Served] = []

    def start(*arguments: str, **options: Any) -> Served:
        started.append(serving.start(tmp_path / "token", *arguments, **options))
        return started[-1]

    yield start
    for each in started:
        each.stop()


def ended(server: Served, number: signal.Signals) -> int:
    """End it by a signal, which must be in time, and return its exit status as a shell tells it."""
    before = time.monotonic()
    code, errors = server.end(number)
    assert time.monotonic() - before < ENDS_WITHIN
    assert "Traceback" not in errors
    return code if code >= 0 else 128 - code


BY = pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, 137)])


@BY
async def test_while_a_kernel_does_not_answer(
    serve: Callable[..., Served], host_kernel: Any, number: signal.Signals, code: int
) -> None:
    server = serve()
    with contextlib.suppress(Exception):  # how a client takes its server's end is not ours
        async with asyncio.timeout(SOON), server.client() as agent:
            await serving.connected(agent, host_kernel)
            await agent.run("x = 6", kernel=KERNEL)
            await agent.call("list_variables", kernel=KERNEL)
            os.kill(host_kernel.process.pid, signal.SIGSTOP)
            assert await asyncio.to_thread(ended, server, number) == code
    assert server.process.poll() is not None
    os.kill(host_kernel.process.pid, signal.SIGCONT)
    # the port is free for the next one, which finds the kernel as it was
    again = serve(port=server.port)
    async with asyncio.timeout(SOON), again.client() as agent:
        await serving.connected(agent, host_kernel)
        assert await agent.run("x * 7", kernel=KERNEL) == "42"


@BY
def test_while_the_engine_says_nothing(
    serve: Callable[..., Served],
    hanging_engine: tuple[str, socket.socket],
    number: signal.Signals,
    code: int,
) -> None:
    address, listening = hanging_engine
    server = serve("--engine", address)
    with server.open() as client:
        client.sendall(call(server, "start_sandbox", name="never"))
        with contextlib.closing(asked(listening)):
            assert ended(server, number) == code


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("at", ["its first container", "its gateway", "its connection file"])
async def test_while_a_sandbox_starts_of_which_nothing_is_left(
    serve: Callable[..., Served], engine: docker.DockerClient, runtime: Path, at: str, mode: Mode
) -> None:
    server = serve()
    there = {
        "its first container": lambda: ours(engine),
        "its gateway": lambda: [each for each in ours(engine) if "gateway" in each],
        "its connection file": lambda: list(runtime.glob("kernel-bridge-half*")),
    }

    def end() -> int:
        until(there[at], at)
        return ended(server, signal.SIGTERM)

    ending, told = asyncio.create_task(asyncio.to_thread(end)), ""
    with contextlib.suppress(Exception):  # how a client takes its server's end is not ours
        async with asyncio.timeout(SOON), server.client(mode=mode) as agent:
            await agent.client.list_tools()  # which the SDK does behind the first call else, and takes its end for that
            told = await agent.call("start_sandbox", name="half")
    assert await ending == 143
    if "is connected" in told:  # it was quicker than the signal
        assert len(ours(engine)) == 3
    else:
        assert (ours(engine), list(runtime.iterdir())) == ([], [])


async def test_while_another_program_holds_a_lock_on_the_journal(
    serve: Callable[..., Served], host_kernel: Any, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    server = serve(XDG_STATE_HOME=str(state))
    with server.open():
        async with asyncio.timeout(SOON), server.client() as agent:
            await serving.connected(agent, host_kernel)
            await agent.run("first = 1", kernel=KERNEL)
            status(server.ask(call(server, "connect_to_kernel", connection_file=str(host_kernel.file))))
        (file,) = state.rglob("cells.sqlite")
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert status(server.ask(call(server, "execute_code", code="second = 2", kernel=KERNEL))) == 200
            assert ended(server, signal.SIGTERM) == 143
    assert run("run", str(host_kernel.file), "-c", "print(first)").stdout == "1\n"


def test_while_a_client_does_not_read_what_it_has_asked_for(serve: Callable[..., Served]) -> None:
    server = serve()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}}).encode()
        request = server.head(*MODERN, "Mcp-Method: tools/list", f"Content-Length: {len(body)}") + body
        client.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            while True:
                client.sendall(request)
        assert status(server.ask(call(server, "list_kernels"))) == 200
        assert ended(server, signal.SIGTERM) == 143


HALVES = [rb"\ud800", b"\xed\xa0\x80", b"\xff"]


@pytest.mark.parametrize("half", HALVES, ids=["escaped", "raw", "not UTF-8"])
def test_half_a_surrogate_pair_is_answered_in_the_modern_era(serve: Callable[..., Served], half: bytes) -> None:
    server = serve()
    whole = call(server, "execute_code", code="HALF", kernel="none")
    head, _, body = whole.partition(b"\r\n\r\n")
    body = body.replace(b"HALF", half)
    head = b"\r\n".join(each for each in head.split(b"\r\n") if not each.startswith(b"Content-Length"))
    told = server.ask(head + f"\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    assert status(told) == (400 if half == b"\xff" else 200)
    assert b'"error"' in told or b'"isError":true' in told
    assert status(server.ask(call(server, "list_kernels"))) == 200


@pytest.mark.parametrize("half", HALVES, ids=["escaped", "raw", "not UTF-8"])
def test_half_a_surrogate_pair_is_answered_before_2026(serve: Callable[..., Served], half: bytes) -> None:
    server = serve()
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"execute_code","arguments":{"code":"%b"}}}'
    body = body % half
    told = server.ask(server.head(*MODERN[:2], f"Content-Length: {len(body)}") + body)
    assert status(told) == 400
    assert b"Parse error" in told
    assert status(server.ask(call(server, "list_kernels"))) == 200
