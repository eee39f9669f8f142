"""A real Jupyter server, or JupyterLab, on loopback with directories of its own; and what its browser would send it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

# A server on a busy machine imports its extensions for a while; starting a kernel waits for IPython.
SERVER_START = 90.0
SOON = 60.0


@dataclass(frozen=True)
class Api:
    """A server's own interface, as its page in the browser uses it."""

    port: int
    base_url: str
    token: str

    def answer(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Send a request as the browser does; returns the status and the JSON, None where there is no content."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=SOON)
        try:
            headers = {"Authorization": f"token {self.token}", "Content-Type": "application/json"} | headers
            connection.request(method, f"{self.base_url}api/{path}", body=body and json.dumps(body), headers=headers)
            answer = connection.getresponse()
            content = answer.read()
            return answer.status, json.loads(content) if content else None
        finally:
            connection.close()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request that must succeed; returns the answer's JSON."""
        status, content = self.answer(method, path, body)
        assert status < 400, (status, content)
        return content

    @asynccontextmanager
    async def channels(self, kernel: str) -> AsyncIterator[Channels]:
        """Open a kernel's channels for a block, as a notebook's page does while it is open."""
        url = f"ws://127.0.0.1:{self.port}{self.base_url}api/kernels/{kernel}/channels"
        request = HTTPRequest(url, headers={"Authorization": f"token {self.token}"}, connect_timeout=SOON)
        async with asyncio.timeout(SOON):
            socket = await websocket_connect(request)
        try:
            yield Channels(socket)
        finally:
            socket.close()
            async with asyncio.timeout(SOON):
                while await socket.read_message() is not None:
                    pass

    async def run(self, kernel: str, code: str) -> str:
        """Run a cell as the notebook does and return what it printed, or its error's name."""
        async with self.channels(kernel) as channels:
            return await channels.run(code)


@dataclass(frozen=True)
class JupyterServer(Api):
    """A server that runs; its notebooks lie in `root`, its word of itself and its kernels' files in `runtime`."""

    root: Path
    runtime: Path
    process: subprocess.Popen[bytes]
    log: Path

    def open_notebook(self, path: str, **kernel: str) -> dict[str, Any]:
        """Make a notebook and its session, as JupyterLab does on opening it; returns the session."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            self.ask("PUT", f"contents/{path}", {"type": "notebook"})
        return dict(self.ask("POST", "sessions", notebook(path, **kernel)))

    def close_all(self) -> None:
        """Shut down all kernels, as a person does at the end of the day, and wait until they have ended."""
        deadline = time.monotonic() + SOON
        while kernels := self.ask("GET", "kernels"):
            assert time.monotonic() < deadline, kernels
            for each in kernels:
                self.answer("DELETE", f"kernels/{each['id']}")  # one that just restarts is refused, and tried again

    def kernel_of(self, session: dict[str, Any]) -> str:
        return str(session["kernel"]["id"])


def notebook(path: str, **kernel: str) -> dict[str, Any]:
    """Return what is posted as a notebook's new session."""
    return {"path": path, "name": Path(path).name, "type": "notebook", "kernel": kernel or {"name": "python3"}}


@dataclass(frozen=True)
class Channels:
    """A kernel's channels, as a notebook's page has them; every wait ends in time."""

    socket: WebSocketClientConnection
    session: str = field(default_factory=lambda: uuid.uuid4().hex)

    async def send(self, msg_type: str, content: dict[str, Any], channel: str = "shell") -> str:
        """Send any message; returns its id."""
        header = {"msg_id": uuid.uuid4().hex, "msg_type": msg_type, "session": self.session}
        header |= {"username": "person", "version": "5.3", "date": "2026-01-01T00:00:00Z"}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": channel}
        await self.socket.write_message(json.dumps(message))
        return header["msg_id"]

    async def until(self, wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """Return the messages up to the one that is wanted."""
        seen: list[dict[str, Any]] = []
        async with asyncio.timeout(SOON):
            while not seen or not wanted(seen[-1]):
                raw = await self.socket.read_message()
                assert raw is not None, "the server closed the channels"
                seen.append(json.loads(raw))
        return seen

    async def until_state(self, state: str) -> None:
        """Wait until the server tells this state of the kernel."""
        await self.until(lambda message: message["content"].get("execution_state") == state)

    async def begin(self, code: str) -> Cell:
        """Send a cell and return it while it runs, or waits."""
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": True}
        return Cell(self, await self.send("execute_request", content))

    async def run(self, code: str) -> str:
        """Run a cell and return what it printed, or its error's name."""
        return await (await self.begin(code)).done()


@dataclass(frozen=True)
class Cell:
    """A cell that the person runs."""

    channels: Channels
    request: str

    async def until(self, msg_type: str, **content: Any) -> list[dict[str, Any]]:
        """Return this cell's messages up to one of a type and with these fields."""

        def is_wanted(message: dict[str, Any]) -> bool:
            fits = message["msg_type"] == msg_type and content.items() <= message["content"].items()
            return fits and self._is_of_this(message)

        return [each for each in await self.channels.until(is_wanted) if self._is_of_this(each)]

    async def done(self) -> str:
        messages = await self.until("status", execution_state="idle")
        told = (each["content"] for each in messages if each["channel"] == "iopub")
        return "".join(each.get("text", each.get("ename", "")) for each in told)

    def _is_of_this(self, message: dict[str, Any]) -> bool:
        return bool(message["parent_header"].get("msg_id") == self.request)


@contextmanager
def jupyter_server(directory: Path, *arguments: str, program: str = "jupyter_server") -> Iterator[JupyterServer]:
    """Start a server whose files all lie in a directory but for the runtime directory, which is the test's."""
    root, token = directory / "notebooks", uuid.uuid4().hex
    root.mkdir(parents=True, exist_ok=True)
    environment = {
        "JUPYTER_TOKEN": token,
        "JUPYTER_CONFIG_DIR": str(directory / "config"),
        "JUPYTER_DATA_DIR": os.environ.get("JUPYTER_DATA_DIR", str(directory / "data")),
        "JUPYTERLAB_SETTINGS_DIR": str(directory / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(directory / "workspaces"),
    }
    if program == "jupyter_server":
        environment["JUPYTER_NO_CONFIG"] = "1"  # without the extensions that others have installed beside it
    command = [sys.executable, "-m", program, "--no-browser", "--ServerApp.port=0", f"--ServerApp.root_dir={root}"]
    command += ["--ServerApp.ip=127.0.0.1", *(["--allow-root"] if os.geteuid() == 0 else []), *arguments]
    log = directory / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=output, stderr=output, cwd=root)
    try:
        runtime = Path(os.environ["JUPYTER_RUNTIME_DIR"])
        word = _word(process, runtime, log)
        yield JupyterServer(word["port"], quote(word["base_url"]), token, root, runtime, process, log)
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask a server to end, as its service manager does, and wait until it has."""
    process.terminate()
    try:
        process.wait(SOON)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(SOON)
        raise


def _word(process: subprocess.Popen[bytes], runtime: Path, log: Path) -> dict[str, Any]:
    """Wait, bounded, until the server has left word of itself and listens; returns its word."""
    file = runtime / f"jpserver-{process.pid}.json"
    end = os.times().elapsed + SERVER_START
    while os.times().elapsed < end:
        try:
            word = dict(json.loads(file.read_text()))
            socket.create_connection(("127.0.0.1", word["port"]), SOON).close()
        except (OSError, ValueError):
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError(f"the server ended at its start: {log.read_text()}") from None
        else:
            return word
    raise AssertionError(f"the server did not listen in time: {log.read_text()}")
