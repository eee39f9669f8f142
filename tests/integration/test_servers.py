"""What Jupyter servers are asked and what of their answers is believed; with a real one, and ones that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from bridge.kernels import servers
from tests.jupyter import jupyter_server

pytestmark = pytest.mark.anyio

SOON = 20.0


async def test_asking_a_server_does_not_count_as_use_which_would_keep_it_from_ending(
    runtime: Path, tmp_path: Path
) -> None:
    with jupyter_server(tmp_path, "--ServerApp.base_url=/of/me/") as server:
        kernel = server.kernel_of(server.open_notebook("work.ipynb"))
        before = server.ask("GET", "status?no_track_activity=1")["last_activity"]
        assert await servers.notebooks([runtime]) == {kernel: (str(server.root / "work.ipynb"),)}
        assert server.ask("GET", "status?no_track_activity=1")["last_activity"] == before


Answering = Callable[[bytes | None], AbstractAsyncContextManager[list[bytes]]]


@pytest.fixture
def answering(runtime: Path) -> Answering:
    """Let a server answer all requests with these bytes, or never; what it is asked is kept."""

    @contextlib.asynccontextmanager
    async def serve(answer: bytes | None) -> AsyncIterator[list[bytes]]:
        asked: list[bytes] = []

        async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.IncompleteReadError):
                asked.append(await reader.readuntil(b"\r\n\r\n"))
            if answer is None:
                await reader.read()
            else:
                writer.write(answer)
            writer.close()

        server = await asyncio.start_server(reply, "127.0.0.1", 0)
        leave_word(runtime, port=server.sockets[0].getsockname()[1])
        yield asked
        server.close()

    return serve


def leave_word(runtime: Path, **fields: Any) -> Path:
    """Write what a server leaves behind of itself; this process stands for it."""
    about = {"hostname": "127.0.0.1", "base_url": "/", "root_dir": "/r", "token": "s3cret", "pid": os.getpid()}
    file = runtime / f"jpserver-{os.getpid()}.json"
    file.write_text(json.dumps({**about, "sock": "", "secure": False, **fields}))
    return file


def http(content: Any, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nConnection: close\r\n\r\n{json.dumps(content)}".encode()


SESSION = {"path": "a.ipynb", "name": "a.ipynb", "type": "notebook", "kernel": {"id": "k"}}


async def test_the_token_is_shown_to_the_server_that_wrote_it(runtime: Path, answering: Answering) -> None:
    async with answering(http([SESSION])) as asked:
        assert await servers.notebooks([runtime]) == {"k": ("/r/a.ipynb",)}
    assert b"GET /api/sessions" in asked[0]
    assert b"Authorization: token s3cret" in asked[0]


@pytest.mark.parametrize("fault", ["ended", "another user's", "over TLS", "on another address", "by a socket", "huge"])
async def test_the_token_is_not_shown_to_whoever_else_may_listen_there(
    runtime: Path, answering: Answering, fault: str
) -> None:
    async with answering(http([SESSION])) as asked:
        [file] = runtime.glob("jpserver-*.json")
        fields = json.loads(file.read_text())
        done = subprocess.Popen([sys.executable, "-c", ""])
        done.wait(SOON)
        changes: dict[str, dict[str, Any]] = {
            "ended": {"pid": done.pid},
            "over TLS": {"secure": True},
            "on another address": {"hostname": "192.0.2.1"},
            "by a socket": {"sock": "/run/s"},
            "huge": {"more": "x" * 20_000},
        }
        file.write_text(json.dumps(fields | changes.get(fault, {})))
        if fault == "another user's":
            os.chown(file, 12345, 12345)
        assert await servers.notebooks([runtime]) == {}
    assert asked == []


@pytest.mark.parametrize(
    "answer",
    [
        http({"message": "Forbidden"}, "403 Forbidden"),
        http([1, {}, {"kernel": 1, "path": "a"}, {"kernel": {"id": "k"}, "path": None}]),
        http({"not": "a list"}),
        http(7),
        b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 50_000,
        b"no HTTP at all",
        b"",
        None,
    ],
)
async def test_a_server_that_tells_nothing_useful_costs_a_second_at_most(
    runtime: Path, answering: Answering, answer: bytes | None
) -> None:
    async with answering(answer) as asked, asyncio.timeout(SOON):
        assert await servers.notebooks([runtime]) == {}
    assert len(asked) == 1


async def test_nobody_there_and_words_that_are_none_are_no_servers(runtime: Path) -> None:
    leave_word(runtime, port=1)
    (runtime / "jpserver-1.json").write_text("{")
    (runtime / "jpserver-2.json").write_text("[]")
    (runtime / "jpserver-3.json").mkdir()
    os.mkfifo(runtime / "jpserver-4.json")
    assert await servers.notebooks([runtime, runtime / "none"]) == {}
