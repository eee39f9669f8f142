"""An MCP client that costs next to nothing, so that what is measured is the server: JSON lines to a process and back.

The one rule: it asks for one thing at a time and waits for it, bounded; whatever else a server says is passed over.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ERA = "2025-06-18"
"""The protocol's revision that every server here knows."""


class NoAnswer(Exception):
    """A server has ended, or has not answered in time; the text is what it said last on standard error."""


class Server:
    """A server's process. Raises `NoAnswer`; an answer that is an error is raised as `RuntimeError`."""

    def __init__(
        self, command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None, patience: float = 60.0
    ) -> None:
        self._log, self._patience = log, patience
        self._number, self._rest = 0, b""
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=env, bufsize=0
            )
        assert self.process.stdin
        assert self.process.stdout
        self._stdin, self._stdout = self.process.stdin, self.process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self._stdout.close()

    def initialize(self) -> dict[str, Any]:
        """Begin, and return what the server says of itself: its first reply."""
        client = {"name": "bench", "version": "1"}
        told = self.ask("initialize", {"protocolVersion": ERA, "capabilities": {}, "clientInfo": client})
        self._send({"method": "notifications/initialized"})
        return told

    def call(self, tool: str, arguments: Mapping[str, Any], patience: float | None = None) -> dict[str, Any]:
        """Call a tool and return its result; raises `RuntimeError` where that is an error."""
        result = self.ask("tools/call", {"name": tool, "arguments": arguments}, patience)
        if result.get("isError"):
            raise RuntimeError(text(result)[:500])
        return result

    def ask(self, method: str, params: Mapping[str, Any], patience: float | None = None) -> dict[str, Any]:
        """Ask and return the result."""
        self._number += 1
        number, end = self._number, time.monotonic() + (patience or self._patience)
        self._send({"id": number, "method": method, "params": params})
        while True:
            told = self._line(end)
            if told.get("id") == number and "method" not in told:
                if "error" in told:
                    raise RuntimeError(str(told["error"])[:500])
                return dict(told["result"])
            if "id" in told and "method" in told:  # it asks us: nothing here can be asked
                self._send({"id": told["id"], "result": {}})

    def _send(self, message: Mapping[str, Any]) -> None:
        try:
            os.write(self._stdin.fileno(), json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        except BrokenPipeError:
            raise self._gone("has ended") from None

    def _line(self, end: float) -> dict[str, Any]:
        while True:
            pieces = [self._rest]
            while b"\n" not in pieces[-1]:
                wait = end - time.monotonic()
                if wait <= 0 or not select.select([self._stdout], [], [], wait)[0]:
                    raise self._gone("did not answer in time")
                if not (piece := os.read(self._stdout.fileno(), 1 << 20)):
                    raise self._gone("has ended")
                pieces.append(piece)
            line, _, self._rest = b"".join(pieces).partition(b"\n")
            try:
                told = json.loads(line)
            except ValueError:
                continue  # some print there what is no message
            if isinstance(told, dict):
                return told

    def _gone(self, how: str) -> NoAnswer:
        return NoAnswer(f"it {how}: {self._log.read_text(errors='replace')[-500:].strip()}")


def text(result: Mapping[str, Any]) -> str:
    """Return the text of a tool's result."""
    return "\n".join(each["text"] for each in result.get("content", ()) if each.get("type") == "text")
