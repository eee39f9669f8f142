"""Our server over HTTP, and clients of it that cost next to nothing; see `lines.py`."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from tests.bench.lines import ERA, text
from tests.bench.world import BRIDGE, SOON, World

_LISTENS = re.compile(r"serving MCP at http://127\.0\.0\.1:(\d+)/mcp ")


class Served:
    """A server's process; a port of the system's choice."""

    def __init__(self, world: World) -> None:
        self._world, self._log = world, world.log("http")
        token = world.directory / "token"
        with self._log.open("wb") as log:
            command = [*BRIDGE, "serve", "--transport", "http", "--port", "0", "--token-file", str(token)]
            self.process = subprocess.Popen(command, env=world.environment, stdout=log, stderr=log)
        world.wait_for(lambda: bool(_LISTENS.search(self._log.read_text())), self.process)
        found = _LISTENS.search(self._log.read_text())
        assert found
        self.port, self.token = int(found[1]), token.read_text().strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._world.end(self.process)

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Connect a client."""
        client = Client(self.port, self.token)
        try:
            client.initialize()
            yield client
        finally:
            client.close()


class Client:
    """One session on one connection, one request at a time."""

    def __init__(self, port: int, token: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SOON)
        self._number = 0
        self._headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
        }

    def initialize(self) -> None:
        """Begin a session."""
        client = {"name": "bench", "version": "1"}
        self._ask("initialize", {"protocolVersion": ERA, "capabilities": {}, "clientInfo": client})
        self._headers["MCP-Protocol-Version"] = ERA
        self._post({"method": "notifications/initialized"})

    def call(self, tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Call a tool; raises `RuntimeError` where its result is an error."""
        result = self._ask("tools/call", {"name": tool, "arguments": arguments})
        if result.get("isError"):
            raise RuntimeError(text(result)[:500])
        return result

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _ask(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        self._number += 1
        for line in self._post({"id": self._number, "method": method, "params": params}).splitlines():
            told = json.loads(line.removeprefix(b"data:")) if line.startswith(b"data:") and line[5:].strip() else {}
            if told.get("id") == self._number:
                return dict(told["result"])
        raise RuntimeError(f"no answer to {method}")

    def _post(self, message: Mapping[str, Any]) -> bytes:
        self._connection.request("POST", "/mcp", json.dumps({"jsonrpc": "2.0", **message}), self._headers)
        answer = self._connection.getresponse()
        if session := answer.getheader("Mcp-Session-Id"):
            self._headers["Mcp-Session-Id"] = session
        told = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{answer.status}: {told[:300]!r}")
        return told
