"""The gateway's proxy on real sockets of this machine, with a resolver that the test gives."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.anyio

SOON = 20.0
HOST = "index.example"
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Resolver:
    """Answers with what a test says, and keeps what it was asked."""

    def __init__(self, *answers: list[str] | Exception) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):  # the other side was quicker
        await writer.wait_closed()


async def ended(tasks: Iterable[asyncio.Task[None]]) -> None:
    for each in list(tasks):
        each.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(1 << 16):
        writer.write(chunk)
        await writer.drain()
    await closed(writer)


@asynccontextmanager
async def serving(answer: Answer, address: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    open_: set[asyncio.Task[None]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_.add(task)
        try:
            await answer(reader, writer)
        except (asyncio.CancelledError, ConnectionError):
            pass  # the test is over, or the proxy was the first to leave
        finally:
            await closed(writer)

    server = await asyncio.start_server(one, address, port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await ended(open_)


class Door:
    """A proxy on a Unix socket, and what it wrote to its log."""

    def __init__(self, path: Path, log: Callable[[], list[dict[str, Any]]]) -> None:
        self.path = path
        self.log = log

    @asynccontextmanager
    async def open(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        try:
            async with asyncio.timeout(SOON):
                yield reader, writer
        finally:
            await closed(writer)

    async def ask(self, data: bytes) -> bytes:
        """Send, and return all that comes until the proxy closes."""
        async with self.open() as (reader, writer):
            writer.write(data)
            return await reader.read()


@pytest.fixture
def door(proxy: Any, egress: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Make a proxy for some entries; `ranges` are the loopback addresses that the tests listen on."""

    @asynccontextmanager
    async def opened(
        resolve: Resolver,
        port: int,
        *,
        ranges: tuple[str, ...] = ("127.0.0.0/8",),
        upstream: int | None = None,
        near: tuple[str, ...] = (),
    ) -> AsyncIterator[Door]:
        said = {
            "allow": [[HOST, port, ranges]],
            "upstream": ["127.0.0.1", upstream] if upstream else None,
            "refuse": near,
        }
        rules = egress.read(json.dumps(said))
        path = tmp_path / "proxy"
        listener = proxy.streams.listen(path)
        made = proxy.Proxy(rules, (), resolve=resolve)
        task = asyncio.create_task(made.serve(listener))
        lines: list[dict[str, Any]] = []

        def log() -> list[dict[str, Any]]:
            lines.extend(map(json.loads, capfd.readouterr().out.splitlines()))
            return lines

        try:
            yield Door(path, log)
        finally:
            await ended([task, *made._connections._open, *made._connections._leaving])
            listener.close()

    return opened


def connect(port: int, host: str = HOST) -> bytes:
    return f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()


OPEN = b"HTTP/1.1 200 Connection established\r\n\r\n"


async def test_a_listed_pair_becomes_a_tunnel_and_what_follows_the_head_is_its_first_bytes(door: Any) -> None:
    second = b"CONNECT evil.example:443 HTTP/1.1\r\n\r\n"  # the far end's business
    async with serving(echo) as port, door(Resolver(["127.0.0.1"]), port) as way:
        async with way.open() as (reader, writer):
            writer.write(connect(port, "INDEX.example.") + second)
            writer.write_eof()
            assert await reader.read() == OPEN + second
        (line,) = way.log()
        assert (line["event"], line["target"], line["at"]) == ("opened", f"{HOST}:{port}", "127.0.0.1")


async def test_the_listed_name_is_resolved_once_and_never_the_asked_one(door: Any) -> None:
    resolver = Resolver(["127.0.0.1"], ["127.0.0.2"])
    async with serving(echo) as port, door(resolver, port) as way:
        async with way.open() as (reader, writer):
            writer.write(connect(port, "Index.EXAMPLE."))
            assert await reader.readuntil(b"\r\n\r\n") == OPEN
        assert resolver.asked == [(HOST, port)]
        assert way.log()[0]["at"] == "127.0.0.1"


async def test_any_other_pair_is_refused_in_words_and_one_line_of_the_log_and_nothing_is_resolved(door: Any) -> None:
    resolver = Resolver(["127.0.0.1"])
    async with serving(echo) as port, door(resolver, port) as way:
        for target in (f"evil.example:{port}", f"{HOST}:{port + 1}", f"127.0.0.1:{port}", f"localhost:{port}"):
            answer = await way.ask(f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())
            assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")
            assert f"{target} may not be reached".encode() in answer
            assert f"allows {HOST}:{port}.".encode() in answer
        assert resolver.asked == []
        assert [(line["event"], line["asked"].split()[0]) for line in way.log()] == [("refused", "CONNECT")] * 4


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1"])
async def test_a_listed_name_that_resolves_to_what_is_not_public_is_not_connected_to(door: Any, address: str) -> None:
    reached: list[int] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.append(1)
        await closed(writer)

    async with serving(note) as port, door(Resolver([address]), port, ranges=("10.0.0.0/8",)) as way:
        answer = await way.ask(connect(port))
        assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")
        assert b"resolves to 127.0.0.1, which is the gateway itself (loopback)" in answer
        assert b"allow_addresses" in answer
        assert way.log()[0]["event"] == "refused"
    assert not reached


async def test_of_several_answers_only_those_that_may_be_are_connected_to(door: Any) -> None:
    touched: list[str] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        touched.append(writer.get_extra_info("sockname")[0])
        await echo(reader, writer)

    both = Resolver(["127.0.0.1", "127.0.0.2"])
    async with (
        serving(note, "127.0.0.2") as port,
        serving(note, "127.0.0.1", port),
        door(both, port, ranges=("127.0.0.2/32",)) as way,
        way.open() as (reader, writer),
    ):
        writer.write(connect(port) + b"x")
        assert await reader.readexactly(len(OPEN) + 1) == OPEN + b"x"
    assert touched == ["127.0.0.2"]


async def test_an_address_that_does_not_answer_gives_way_to_the_next_one(door: Any) -> None:
    both = Resolver(["127.0.0.1", "127.0.0.3"])
    async with serving(echo, "127.0.0.3") as port, door(both, port) as way, way.open() as (reader, writer):
        writer.write(connect(port) + b"x")
        assert await reader.readexactly(len(OPEN) + 1) == OPEN + b"x"


async def test_where_nobody_listens_and_where_a_name_is_not_known_the_answer_says_so(door: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    async with door(Resolver(["127.0.0.1"], unknown, []), port) as way:
        answer = await way.ask(connect(port))
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert b"does not take a connection (127.0.0.1: " in answer
        assert b"could not be resolved: Name or service not known" in await way.ask(connect(port))
        assert b"has no address" in await way.ask(connect(port))


async def test_a_lookup_that_hangs_and_a_connection_that_hangs_have_an_end(
    door: Any, proxy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hanging(Resolver):
        async def __call__(self, host: str, port: int) -> list[str]:
            await asyncio.Event().wait()
            return await super().__call__(host, port)

    monkeypatch.setattr(proxy, "LOOKUP_SECONDS", 0.2)
    monkeypatch.setattr(proxy, "CONNECT_SECONDS", 0.2)
    async with door(Hanging(["127.0.0.1"]), 443) as way:
        assert (await way.ask(connect(443))).startswith(b"HTTP/1.1 504 ")
    with socket.socket() as full:  # a listener that nobody accepts from, its queue filled
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for each in fillers:
            each.settimeout(0)
            each.connect_ex(("127.0.0.1", port))
        async with door(Resolver(["127.0.0.1"]), port) as way:
            answer = await way.ask(connect(port))
            assert b"does not take a connection (127.0.0.1: no answer)" in answer
        for each in fillers:
            each.close()


async def test_half_of_a_tunnel_can_end_while_the_other_half_goes_on(door: Any) -> None:
    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(str(len(await reader.read())).encode())
        await closed(writer)

    async with serving(count) as port, door(Resolver(["127.0.0.1"]), port) as way, way.open() as (reader, writer):
        writer.write(connect(port) + b"x" * 1_000_000)
        writer.write_eof()
        assert await reader.read() == OPEN + b"1000000"


async def test_a_peer_that_does_not_read_slows_the_other_down_instead_of_filling_memory(door: Any) -> None:
    sent = 0
    stuck = asyncio.Event()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.transport.set_write_buffer_limits(high=1 << 16)
        while sent < 256 << 20:
            writer.write(bytes(1 << 16))
            try:
                await asyncio.wait_for(writer.drain(), 2)
            except TimeoutError:
                break
            sent += 1 << 16
        stuck.set()
        writer.transport.abort()

    async with serving(flood) as port, door(Resolver(["127.0.0.1"]), port) as way, way.open() as (_, writer):
        writer.transport.pause_reading()
        writer.write(connect(port))
        await stuck.wait()
    assert sent < 64 << 20


async def test_a_head_that_does_not_end_has_an_end_in_size_and_in_time(
    door: Any, proxy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with door(Resolver(["127.0.0.1"]), 443) as way:
        assert (await way.ask(b"CONNECT " + b"a" * 20_000)).startswith(b"HTTP/1.1 431 ")
        monkeypatch.setattr(proxy, "HEAD_SECONDS", 0.2)
        assert (await way.ask(b"CONNECT index.example:443 HTTP/1.1\r\nX: ")).startswith(b"HTTP/1.1 408 ")
        async with way.open() as (reader, writer):
            writer.write_eof()  # whoever asks nothing gets nothing, and leaves no line behind
            assert await reader.read() == b""
        assert [line["event"] for line in way.log()] == ["refused", "refused"]


async def test_more_connections_than_allowed_are_told_so_and_the_others_go_on(door: Any, proxy: Any) -> None:
    async with serving(echo) as port, door(Resolver(["127.0.0.1"]), port) as way:
        async with contextlib.AsyncExitStack() as held:
            for _ in range(proxy.MAX_TUNNELS):
                reader, writer = await held.enter_async_context(way.open())
            writer.write(connect(port))
            assert await reader.readuntil(b"\r\n\r\n") == OPEN  # the last one, so all of them have been taken
            for _ in range(300):
                assert (await way.ask(connect(port))).startswith(b"HTTP/1.1 503 ")
            writer.write(b"still here")
            assert await reader.readexactly(10) == b"still here"
        async with asyncio.timeout(SOON):
            while (await way.ask(connect(port + 1))).startswith(b"HTTP/1.1 503 "):  # until the closed ones are gone
                await asyncio.sleep(0.01)


def test_lines_of_refusals_are_bounded_a_second_and_what_was_left_out_is_counted(
    proxy: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    bounded = proxy.streams.Bounded(20, clock=lambda: now[0])
    for _ in range(50):
        bounded.say("refused", text="x")
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert len(lines) == 20
    assert not [line for line in lines if "left_out" in line]
    for later, left_out in ((1.5, 30), (1.6, None), (9.0, None)):
        now[0] = later
        bounded.say("refused", text="x")
        assert json.loads(capfd.readouterr().out).get("left_out") == left_out


async def test_whoever_asks_again_and_again_does_not_fill_the_log(door: Any, proxy: Any) -> None:
    async with door(Resolver(["127.0.0.1"]), 443) as way:
        for _ in range(3 * proxy.REFUSED_LINES):
            assert (await way.ask(connect(444))).startswith(b"HTTP/1.1 403 ")
        assert len(way.log()) < 3 * proxy.REFUSED_LINES


# -- behind an upstream proxy


@asynccontextmanager
async def upstream(reply: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Another proxy: it answers every request in one way, and then returns what it gets."""
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(reply)
        await echo(reader, writer)

    async with serving(answer) as port:
        yield port, heads


async def test_an_address_of_the_engines_machine_is_not_connected_to_although_it_is_a_public_one(door: Any) -> None:
    async with door(Resolver(["51.15.7.9"]), 443, near=("51.15.7.0/24",)) as way:
        told = await way.ask(connect(443))
    assert told.startswith(b"HTTP/1.1 403 ")
    assert b"engine's machine" in told


async def test_behind_a_proxy_it_gets_the_listed_pair_and_nothing_of_the_kernels_request(door: Any) -> None:
    resolver = Resolver(["127.0.0.1"])
    async with upstream(b"HTTP/1.1 200 OK\r\nVia: x\r\n\r\nfirst") as (port, heads):
        async with door(resolver, 443, ranges=(), upstream=port) as way, way.open() as (reader, writer):
            writer.write(b"CONNECT INDEX.example.:443 HTTP/1.0\r\nProxy-Authorization: Basic eA==\r\nX: y\r\n\r\n")
            writer.write(b"CONNECT evil.example:443 HTTP/1.1\r\n\r\n")
            writer.write_eof()
            whole = await reader.read()
        assert heads == [b"CONNECT index.example:443 HTTP/1.1\r\nHost: index.example:443\r\n\r\n"]
        assert whole == OPEN + b"firstCONNECT evil.example:443 HTTP/1.1\r\n\r\n"
    assert resolver.asked == [("127.0.0.1", port)], "the name is the proxy's to resolve"


async def test_other_pairs_do_not_get_as_far_as_the_upstream_proxy(door: Any) -> None:
    async with upstream(b"HTTP/1.1 200 OK\r\n\r\n") as (port, heads):
        async with door(Resolver(["127.0.0.1"]), 443, ranges=(), upstream=port) as way:
            assert (await way.ask(connect(443, "evil.example"))).startswith(b"HTTP/1.1 403 ")
            assert (await way.ask(connect(port, "127.0.0.1"))).startswith(b"HTTP/1.1 403 ")
        assert heads == []


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", b"it said 407 Proxy Authentication Required."),
        (b"HTTP/1.1 403 Forbidden\r\nX: y\r\n\r\nbody", b"it said 403 Forbidden."),
        (b"SSH-2.0-x\r\n\r\n", b"it said no HTTP."),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 9000, b"did not answer"),
    ],
)
async def test_where_the_upstream_proxy_refuses_no_byte_of_the_kernel_reaches_it(
    door: Any, reply: bytes, why: bytes
) -> None:
    later = bytearray()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        with contextlib.suppress(ConnectionResetError):  # it was left while it still spoke
            later.extend(await reader.read())
        await closed(writer)

    async with serving(answer) as port, door(Resolver(["127.0.0.1"]), 443, ranges=(), upstream=port) as way:
        told = await way.ask(connect(443) + b"CONNECT evil.example:443 HTTP/1.1\r\n\r\n")
        assert told.startswith(b"HTTP/1.1 502 ")
        assert why in told
    assert not later
