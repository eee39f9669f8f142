"""What a slow peer can hold and for how long, on real sockets; the times are shortened, and nothing else."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bridge.http import connections, door, serving
from tests.certificates import certified

pytestmark = pytest.mark.anyio

SOON = 20.0
HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"
BLOCK = b"x" * 0x10000
LARGE = b"x" * 0x800000


class Application:
    """Answers by what a request's path says."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.sent = 0
        self.was_left = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for _ in ("startup", "shutdown"):
                await send({"type": f"{(await receive())['type']}.complete"})
            return
        match scope["path"]:
            case "/refused":  # without a look at the body
                await self._answer(send, b"no")
            case "/wait":
                await self._start(send)
                await self.let_go.wait()
                await send({"type": "http.response.body", "body": b"late"})
            case "/large":
                await self._answer(send, LARGE)
            case "/flood":
                await self._start(send)
                task = asyncio.ensure_future(self._flood(send))
                while (await receive())["type"] != "http.disconnect":
                    pass
                self.was_left.set()
                task.cancel()
            case _:
                await self._echo(receive, send)

    async def _echo(self, receive: Any, send: Any) -> None:
        body, is_more = b"", True
        while is_more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.was_left.set()
                return
            body, is_more = body + message["body"], message["more_body"]
        await self._answer(send, body)

    @staticmethod
    async def _start(send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def _answer(self, send: Any, body: bytes) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", str(len(body)).encode())],
            }
        )
        await send({"type": "http.response.body", "body": body})

    async def _flood(self, send: Any) -> None:
        while True:
            await send({"type": "http.response.body", "body": BLOCK, "more_body": True})
            self.sent += len(BLOCK)


class Running:
    """The application, served, and what a test wants of it."""

    def __init__(self, port: int, app: Application) -> None:
        self.port = port
        self.app = app
        self.opened: list[asyncio.StreamWriter] = []

    async def open(self, *, buffers: int = 0x10000) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect; `buffers` bytes are taken from the network before anybody reads them."""
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
        connection.settimeout(0)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=connection, limit=buffers)
        self.opened.append(writer)
        return reader, writer

    async def until_closed(self, reader: asyncio.StreamReader) -> float:
        """Return after how many seconds the server has closed a connection, and read all until then."""
        begun = time.monotonic()
        async with asyncio.timeout(SOON):
            try:
                while await reader.read(65536):
                    pass
            except ConnectionResetError:
                pass
        return time.monotonic() - begun

    async def ask(self, path: str = "/echo", body: bytes = b"hello") -> bytes:
        reader, writer = await self.open()
        writer.write(request(path, body))
        async with asyncio.timeout(SOON):
            await reader.readuntil(b"\r\n\r\n")
            return await reader.readexactly(len(body))


def request(path: str, body: bytes) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.fixture
def place() -> serving.Place:
    return serving.Place(port=0)


@pytest.fixture
async def served(monkeypatch: pytest.MonkeyPatch, place: serving.Place) -> AsyncIterator[Running]:
    monkeypatch.setattr(door, "PATIENCE", 0.6)
    monkeypatch.setattr(door, "GREETED", 8)
    monkeypatch.setattr(connections, "HEAD", 0.6)
    monkeypatch.setattr(connections, "BODY", 1.2)
    monkeypatch.setattr(connections, "UNREAD", 0.6)
    monkeypatch.setattr(connections, "MOST", 8)
    listener, ready, app = serving.listen(place), asyncio.Event(), Application()
    server = serving._Server(app, listener, ready.set)
    task = asyncio.create_task(server.serve(sockets=[listener.bound]))
    await ready.wait()
    running = Running(listener.port, app)
    yield running
    for writer in running.opened:
        writer.transport.abort()
    app.let_go.set()
    server.should_exit = True
    async with asyncio.timeout(SOON):
        await task


async def test_who_sends_nothing_or_only_part_of_a_head_is_left(served: Running) -> None:
    silent, _ = await served.open()
    partial, writer = await served.open()
    writer.write(HEAD)
    assert 0.3 < await served.until_closed(silent) < 5
    assert await served.until_closed(partial) < 5


async def test_a_head_that_drips_has_no_more_time_than_one_that_stops(served: Running) -> None:
    reader, writer = await served.open()
    writer.write(HEAD + b"X: ")

    async def drip() -> None:
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    assert await served.until_closed(reader) < 5
    dripping.cancel()


async def test_the_same_holds_for_the_second_request_of_a_connection(served: Running) -> None:
    reader, writer = await served.open()
    writer.write(request("/echo", b"one"))
    await reader.readuntil(b"one")
    writer.write(HEAD)
    assert await served.until_closed(reader) < 5


async def test_between_two_requests_a_connection_is_kept(served: Running) -> None:
    reader, writer = await served.open()
    for _ in range(2):
        writer.write(request("/echo", b"one"))
        await reader.readuntil(b"one")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):  # more than a head may take
                await reader.read(1)


@pytest.mark.parametrize("path", ["/echo", "/refused"])
async def test_a_body_that_drips_is_left_even_where_its_answer_was_given(served: Running, path: str) -> None:
    reader, writer = await served.open()
    writer.write(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n".encode())

    async def drip() -> None:
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    assert 0.5 < await served.until_closed(reader) < 5
    dripping.cancel()
    if path == "/echo":
        async with asyncio.timeout(SOON):
            await served.app.was_left.wait()


async def test_a_body_that_comes_slowly_but_in_time_is_taken(served: Running) -> None:
    reader, writer = await served.open()
    whole = request("/echo", b"0123456789")
    writer.write(whole[:-10])
    for place in range(len(whole) - 10, len(whole)):
        writer.write(whole[place : place + 1])
        await asyncio.sleep(0.02)
    await reader.readuntil(b"0123456789")


async def test_an_answer_that_takes_long_is_waited_for(served: Running) -> None:
    reader, writer = await served.open()
    writer.write(request("/wait", b""))
    await reader.readuntil(b"\r\n\r\n")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2.0):  # more than any time there is here
            await reader.read(1)
    served.app.let_go.set()
    assert b"late" in await reader.readuntil(b"late")


async def test_who_does_not_read_is_left_and_little_was_kept_for_them(served: Running) -> None:
    _, writer = await served.open(buffers=4096)
    writer.write(request("/flood", b""))
    async with asyncio.timeout(SOON):
        await served.app.was_left.wait()
    assert served.app.sent < 2 * 1024 * 1024
    assert await served.ask() == b"hello"


async def test_who_reads_slowly_gets_all_of_it(served: Running) -> None:
    reader, writer = await served.open()
    writer.write(request("/large", b""))
    begun, got = time.monotonic(), len(await reader.readuntil(b"\r\n\r\n")) * 0
    while got < len(LARGE):
        got += len(await reader.readexactly(0x10000))
        await asyncio.sleep(0.015)
    assert time.monotonic() - begun > 2 * connections.UNREAD


async def test_who_leaves_in_an_answer_is_told_to_the_application(served: Running) -> None:
    reader, writer = await served.open()
    writer.write(request("/flood", b""))
    await reader.readuntil(b"\r\n\r\n")
    writer.close()
    async with asyncio.timeout(SOON):
        await served.app.was_left.wait()


async def test_the_oldest_that_waits_for_no_answer_makes_room(served: Running) -> None:
    waiting = []
    for _ in range(4):
        reader, writer = await served.open()
        writer.write(request("/wait", b""))
        await reader.readuntil(b"\r\n\r\n")
        waiting.append((reader, writer))
    idle = []
    for _ in range(6):
        reader, writer = await served.open()
        writer.write(request("/echo", b"one"))
        await reader.readuntil(b"one")
        idle.append((reader, writer))
    # eight may be open: so of ten the two oldest that are idle are gone, and no other
    for reader, _ in idle[:2]:
        assert await served.until_closed(reader) < 5
    for reader, writer in idle[2:]:
        writer.write(request("/echo", b"two"))
        await reader.readuntil(b"two")
    served.app.let_go.set()
    for reader, _ in waiting:
        assert b"late" in await reader.readuntil(b"late")
    for _, writer in [*waiting, *idle]:
        writer.close()


async def test_where_all_are_being_answered_no_more_come_in(served: Running) -> None:
    waiting = []
    for _ in range(8):
        reader, writer = await served.open()
        writer.write(request("/wait", b""))
        await reader.readuntil(b"\r\n\r\n")
        waiting.append((reader, writer))
    late, _ = await served.open()
    assert await served.until_closed(late) < 5
    served.app.let_go.set()
    for reader, writer in waiting:
        assert b"late" in await reader.readuntil(b"late")
        writer.close()
    assert await served.ask() == b"hello"


def descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


class TestTls:
    @pytest.fixture
    def place(self, tmp_path: Path) -> serving.Place:
        certificate, key = certified(tmp_path)
        return serving.Place(port=0, certificate=certificate, key=key)

    @staticmethod
    async def ask(served: Running, place: serving.Place) -> bytes:
        async with asyncio.timeout(SOON):
            tls = ssl.create_default_context(cafile=place.certificate)
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=tls)
            served.opened.append(writer)
            writer.write(request("/echo", b"hello"))
            await reader.readuntil(b"\r\n\r\n")
            return await reader.readexactly(5)

    async def test_who_says_nothing_to_tls_is_left(self, served: Running, place: serving.Place) -> None:
        silent, _ = await served.open()
        assert 0.3 < await served.until_closed(silent) < 5
        assert await self.ask(served, place) == b"hello"

    async def test_more_silent_ones_than_there_may_be_keep_nobody_out_and_hold_little(
        self, served: Running, place: serving.Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(door, "PATIENCE", SOON)
        before = descriptors()
        silent = [await served.open() for _ in range(30)]
        assert await self.ask(served, place) == b"hello"
        for reader, _ in silent[: 30 - 8]:
            assert await served.until_closed(reader) < 5
        # ours of all, theirs of those that may wait, and two of the one that asked
        assert descriptors() - before <= 30 + 8 + 2
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await silent[-1][0].read(1)


async def test_where_the_system_has_no_more_to_take_them_with_little_is_written_and_they_wait(
    served: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(door, "RETRY", 0.05)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    waiting = socket.socket()
    waiting.settimeout(0)
    unused = os.open("/", os.O_RDONLY)
    os.close(unused)
    resource.setrlimit(resource.RLIMIT_NOFILE, (unused, limits[1]))
    try:
        await asyncio.get_running_loop().sock_connect(waiting, ("127.0.0.1", served.port))
        async with asyncio.timeout(SOON):
            while "no more connections" not in caplog.text:
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.5)  # ten more tries
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(caplog.records) == 1
    assert "Traceback" not in caplog.text
    reader, writer = await asyncio.open_connection(sock=waiting)
    served.opened.append(writer)
    writer.write(request("/echo", b"hello"))
    async with asyncio.timeout(SOON):
        await reader.readuntil(b"hello")
