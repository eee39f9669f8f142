"""The server over HTTP as a process of its own, real clients for it in both eras, and raw sockets for all else."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import httpx2
from mcp import Client
from mcp.client.session import ElicitationFnT, MessageHandlerFnT
from mcp.client.streamable_http import streamable_http_client
from mcp.types import Implementation

from tests.e2e.conftest import Agent

SOON = 60.0
LISTENS = re.compile(r"serving MCP at (https?://\S+):(\d+)/mcp for all that have the token in (.*)\.$", re.MULTILINE)

Mode = Literal["auto", "legacy"]


class Served:
    """A server process that listens."""

    def __init__(self, process: subprocess.Popen[str], token_file: Path, ca: Path | None) -> None:
        self.process = process
        self.token_file = token_file
        self._trusted = ssl.create_default_context(cafile=ca) if ca else None
        self._errors: list[str] = []
        self._told = threading.Event()
        # all the time, or a server that tells much would wait for a reader
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()
        assert self._told.wait(SOON)
        found = LISTENS.search("".join(self._errors))
        assert found, "".join(self._errors)
        assert found[3] == str(token_file)
        self.url = f"{found[1]}:{found[2]}/mcp"
        self.port = int(found[2])
        self.token = token_file.read_text().strip()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self._errors.append(line)
            if LISTENS.search(line):
                self._told.set()
        self._told.set()

    @asynccontextmanager
    async def client(
        self,
        name: str = "agent",
        mode: Mode = "auto",
        *,
        user: ElicitationFnT | None = None,
        hears: MessageHandlerFnT | None = None,
        url: str | None = None,
    ) -> AsyncIterator[Agent]:
        """Connect a client that says this is its name."""
        headers = {"Authorization": f"Bearer {self.token}"}
        async with httpx2.AsyncClient(headers=headers, timeout=SOON, verify=self._trusted or True) as http:
            transport = streamable_http_client(url or self.url, http_client=http)
            info = Implementation(name=name, version="1")
            async with Client(
                transport, mode=mode, client_info=info, elicitation_callback=user, message_handler=hears
            ) as client:
                assert (client.protocol_version >= "2026") is (mode == "auto")
                yield Agent(client)

    def open(self) -> socket.socket:
        """Connect without any protocol."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=SOON)

    def ask(self, request: bytes) -> bytes:
        """Send bytes and return all that comes until the server closes or is silent behind a whole answer."""
        with self.open() as connection:
            connection.sendall(request)
            return answer(connection)

    def head(self, *lines: str, path: str = "/mcp", method: str = "POST", authorized: bool = True) -> bytes:
        """Return a request's head; its body must be announced in the lines."""
        own = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}"]
        own += [f"Authorization: Bearer {self.token}"] if authorized else []
        return "\r\n".join([*own, *lines, "", ""]).encode("latin-1")

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal and return the exit code and all that was written to stderr."""
        self.process.send_signal(number)
        code = self.process.wait(SOON)
        self._reading.join(SOON)
        return code, "".join(self._errors)

    def stop(self) -> None:
        """End it, if it has not ended."""
        self.process.kill()
        self.process.wait(SOON)
        self._reading.join(SOON)
        if self.process.stderr:
            self.process.stderr.close()


def answer(connection: socket.socket) -> bytes:
    """Return one whole answer that says how long it is, or what comes until the server closes."""
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while True:
            head, end, body = got.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)^content-length: *(\d+)", head, re.MULTILINE)
            if end and length and len(body) >= int(length[1]):
                return got
            more = connection.recv(65536)
            if not more:
                return got
            got += more
    return got


def status(response: bytes) -> int:
    """Return the status of an answer; 0 for none."""
    return int(response.split(b" ", 2)[1]) if response else 0


def start(
    token_file: Path,
    *arguments: str,
    ca: Path | None = None,
    port: int = 0,
    program: Sequence[str] = ("-m", "bridge"),
    **environment: str,
) -> Served:
    """Start the command, or what stands for it, and return once it says that it listens."""
    command = [sys.executable, *program, "serve", "--transport", "http", "--port", str(port)]
    command += ["--token-file", str(token_file), *arguments]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ | environment
    )
    try:
        return Served(process, token_file, ca)
    except BaseException:
        process.kill()
        process.communicate()
        raise


async def connected(agent: Any, kernel: Any) -> None:
    """Connect; the kernel was started a moment ago and may not listen yet."""
    while True:
        result = await agent.client.call_tool("connect_to_kernel", {"connection_file": str(kernel.file)})
        if not result.is_error:
            return
