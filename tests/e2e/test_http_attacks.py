"""What reaches the port but is no client of ours, or one that misbehaves: refused, bounded, and in nobody's way."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridge.http.connections import MOST
from tests.e2e.serving import Served, answer, connected, status
from tests.e2e.test_http import KERNEL, LONG, until_busy, until_free

SOON = 60.0
# What is answered at once is answered within this, also on a busy machine.
AT_ONCE = 5.0
LARGEST = 4 * 1024 * 1024
MODERN = (
    *("Content-Type: application/json", "Accept: application/json, text/event-stream"),
    *("MCP-Protocol-Version: 2026-07-28",),
)
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
}


def call(server: Served, tool: str, *lines: str, progress: bool = False, **arguments: Any) -> bytes:
    """Return a whole request of the modern era that calls a tool."""
    meta = META | ({"progressToken": 1} if progress else {})
    params = {"name": tool, "arguments": arguments, "_meta": meta}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
    own = ("Mcp-Method: tools/call", f"Mcp-Name: {tool}", f"Content-Length: {len(body)}")
    return server.head(*MODERN, *own, *lines) + body


@pytest.fixture
def server(serve: Callable[..., Served], runtime: Path) -> Served:
    return serve()


def test_a_right_request_is_answered_so_that_what_follows_means_something(server: Served) -> None:
    response = server.ask(call(server, "list_kernels"))
    assert status(response) == 200
    assert b'"structuredContent":{"kernels":[]' in response


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], 401),
        (["Authorization: Bearer wrong"], 401),
        (["Authorization: Bearer {token}", "Authorization: Bearer {token}"], 401),
        (["Authorization: Bearer {token}", "Origin: http://evil.example"], 403),
        (["Authorization: Bearer {token}", "Origin: null"], 403),
    ],
)
def test_without_the_token_or_from_another_sites_page_nothing_is_done(
    server: Served, lines: list[str], expected: int
) -> None:
    known = call(server, "list_kernels").replace(f"Authorization: Bearer {server.token}\r\n".encode(), b"")
    given = "".join(f"{each}\r\n" for each in lines).format(token=server.token).encode()
    response = server.ask(known.replace(b"\r\nHost:", b"\r\n" + given + b"Host:"))
    assert status(response) == expected
    assert (b"www-authenticate: Bearer" in response.lower().replace(b"bearer", b"Bearer")) is (expected == 401)
    assert server.token.encode() not in response


@pytest.mark.parametrize("host", ["evil.example:{port}", "evil.example", "127.0.0.1", "0.0.0.0:{port}", "127.0.0.1:1"])
def test_a_name_that_was_made_to_lead_here_is_refused(server: Served, host: str) -> None:
    ours = f"Host: 127.0.0.1:{server.port}".encode()
    request = call(server, "list_kernels").replace(ours, f"Host: {host.format(port=server.port)}".encode())
    assert status(server.ask(request)) == 421
    for name in ("localhost", "[::1]"):
        request = call(server, "list_kernels").replace(ours, f"Host: {name}:{server.port}".encode())
        assert status(server.ask(request)) == 200


def test_the_token_is_nowhere_but_in_its_file(serve: Callable[..., Served], runtime: Path) -> None:
    server = serve(KERNEL_BRIDGE_LOG="DEBUG")
    secret = server.token.encode()
    server.ask(server.head("Content-Length: 0", path=f"/mcp?token={server.token}", authorized=False))
    server.ask(server.head("Content-Length: 0", path=f"/{server.token}"))
    server.ask(server.head(f"X: {server.token}", "Content-Length: x"))
    assert status(server.ask(call(server, "list_kernels"))) == 200
    process = Path(f"/proc/{server.process.pid}")
    assert secret not in (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
    _, errors = server.end()
    assert "DEBUG" in errors
    assert server.token not in errors


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST /mcp HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /mcp HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /mcp HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused_and_the_connection_closed(server: Served, request_: bytes) -> None:
    before = time.monotonic()
    response = server.ask(request_)
    assert status(response) in (0, 400)  # 0: it closed before all was sent
    assert time.monotonic() - before < AT_ONCE
    assert status(server.ask(call(server, "list_kernels"))) == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"jsonrpc":"2.0","id":1}',
        b"\xff\xfe",
        b"9" * 10_000,
        b'{"id":1e999}',
    ],
)
@pytest.mark.parametrize("era", [MODERN, MODERN[:2]], ids=["modern", "legacy"])
def test_a_body_that_is_no_message_is_refused(server: Served, body: bytes, era: tuple[str, ...]) -> None:
    assert status(server.ask(server.head(*era, f"Content-Length: {len(body)}") + body)) == 400
    assert server.process.poll() is None


def test_an_upgrade_to_another_protocol_is_not_taken(server: Served) -> None:
    lines = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
    response = server.ask(server.head(*lines, "Sec-WebSocket-Version: 13", method="GET"))
    assert status(response) in (400, 406)


def test_a_body_that_is_too_large_is_refused_whether_it_says_so_or_not(server: Served) -> None:
    with server.open() as connection:
        connection.sendall(server.head(*MODERN, f"Content-Length: {LARGEST + 1}"))
        assert status(answer(connection)) == 413  # and none of it was waited for
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    response = server.ask(server.head(*MODERN, "Transfer-Encoding: chunked") + 5 * chunk + b"0\r\n\r\n")
    assert status(response) == 413
    within = b" " * (LARGEST - 1000)
    request = call(server, "list_kernels")
    head, _, body = request.partition(b"\r\n\r\n")
    told = f"Content-Length: {len(body)}".encode()
    larger = head.replace(told, f"Content-Length: {len(body) + len(within)}".encode())
    assert status(server.ask(larger + b"\r\n\r\n" + within + body)) == 200


def test_a_body_without_the_token_is_not_kept(server: Served) -> None:
    before = memory(server)
    with server.open() as connection:
        connection.sendall(server.head(*MODERN, f"Content-Length: {10**9}", authorized=False))
        assert status(answer(connection)) == 401
        block = b" " * 0x100000
        for _ in range(200):
            connection.sendall(block)
    assert memory(server) - before < 50 * 1024 * 1024


def memory(server: Served) -> int:
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_requests_sent_together_are_answered_one_after_the_other(server: Served) -> None:
    request = call(server, "list_kernels")
    with server.open() as connection:
        connection.sendall(3 * request + server.head("Content-Length: 0", "Connection: close", authorized=False))
        got = b""
        while more := connection.recv(65536):
            got += more
    assert [status(b"HTTP/1.1" + each) for each in got.split(b"HTTP/1.1")[1:]] == [200, 200, 200, 401]


def test_more_connections_than_there_may_be_keep_no_client_out(server: Served) -> None:
    held: list[socket.socket] = []
    files = Path(f"/proc/{server.process.pid}/fd")
    assert status(server.ask(call(server, "list_kernels"))) == 200
    before_all = len(list(files.iterdir()))
    try:
        for number in range(MOST + 50):
            held.append(server.open())
            if number % 3 == 0:
                held[-1].sendall(b"POST /mcp HTTP/1.1\r\nHost: a\r\nX: ")
            if number % 3 == 1:
                held[-1].sendall(server.head("Content-Length: 100", authorized=False) + b"slow")
        before = time.monotonic()
        for _ in range(5):
            assert status(server.ask(call(server, "list_kernels"))) == 200
        assert time.monotonic() - before < AT_ONCE
        assert len(list(files.iterdir())) <= before_all + MOST
    finally:
        for each in held:
            each.close()


@pytest.mark.anyio
async def test_a_client_that_does_not_read_keeps_nobody_waiting(server: Served, host_kernel: Any) -> None:
    """It calls for megabytes and reads none of them; beside it another one works."""
    async with asyncio.timeout(SOON), server.client("works") as agent:
        await connected(agent, host_kernel)
        while status(server.ask(call(server, "connect_to_kernel", connection_file=str(host_kernel.file)))) != 200:
            await asyncio.sleep(0.05)
        flood = "for n in range(200): print('x' * 1000)"
        stalled = []
        for _ in range(20):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.port))
            request = call(server, "execute_code", code=flood, kernel=KERNEL, timeout=30, progress=True)
            connection.sendall(request)
            stalled.append(connection)
        for number in range(10):
            before = time.monotonic()
            result = await agent.client.call_tool("kernel_status", {})
            assert not result.is_error
            assert time.monotonic() - before < AT_ONCE
            assert await agent.run(f"print({number})", kernel=KERNEL) == str(number)
        for each in stalled:
            each.close()


@pytest.mark.anyio
async def test_a_client_that_is_killed_in_a_call_interrupts_its_cell_since_2026(
    server: Served, host_kernel: Any
) -> None:
    async with asyncio.timeout(SOON), server.client("watcher") as watcher:
        await connected(watcher, host_kernel)
        assert status(server.ask(call(server, "connect_to_kernel", connection_file=str(host_kernel.file)))) == 200
        with server.open() as connection:
            connection.sendall(call(server, "execute_code", code=LONG, kernel=KERNEL))
            await until_busy(watcher)
            assert "of raw" in (await watcher.refused("interrupt_kernel", kernel=KERNEL))
        await until_free(watcher)
