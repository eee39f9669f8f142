"""A Jupyter client that costs next to nothing: the kernel itself, as the floor beneath every server."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import zmq
from jupyter_client.session import Session

from bridge.connection import ConnectionInfo, load

SOON_MS = 120_000


class Client:
    """Raw sockets on one kernel."""

    def __init__(self, info: ConnectionInfo) -> None:
        self._session = Session(key=info.key.encode(), check_pid=False)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._shell = self._dealer(info.url(info.shell_port))
        self._control = self._dealer(info.url(info.control_port))
        self._heart = self._dealer(info.url(info.hb_port))
        self.iopub = self._context.socket(zmq.SUB)
        self.iopub.subscribe(b"")
        self.iopub.rcvhwm = 0
        self.iopub.connect(info.url(info.iopub_port))
        self.asks("kernel_info_request", {})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.destroy(linger=0)

    def _dealer(self, url: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.identity = uuid.uuid4().hex.encode()
        socket.connect(url)
        return socket

    def asks(self, msg_type: str, content: dict[str, object]) -> float:
        """Ask and wait for the reply; returns how long it took, in seconds."""
        frames = self._session.serialize(self._session.msg(msg_type, content))
        begin = time.perf_counter()
        self._shell.send_multipart(frames)
        assert self._shell.poll(SOON_MS), f"no reply to {msg_type}"
        took = time.perf_counter() - begin
        self._shell.recv_multipart()
        while self.iopub.poll(0):
            self.iopub.recv_multipart()
        return took

    def beats(self) -> float:
        """Send a heartbeat and wait for it; returns how long it took, in seconds."""
        begin = time.perf_counter()
        self._heart.send_multipart([b"", b"ping"])
        assert self._heart.poll(SOON_MS), "no heartbeat"
        took = time.perf_counter() - begin
        self._heart.recv_multipart()
        return took

    def begin(self, code: str) -> str:
        """Send a cell and return its message's id."""
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        message = self._session.msg("execute_request", content)
        self._shell.send_multipart(self._session.serialize(message))
        return str(message["header"]["msg_id"])

    def interrupt(self) -> None:
        """Ask the kernel to interrupt itself."""
        self._control.send_multipart(self._session.serialize(self._session.msg("interrupt_request", {})))

    def outputs(self, cell: str) -> Iterator[dict[str, Any]]:
        """Yield a cell's messages until it is idle and has replied."""
        while True:
            assert self.iopub.poll(SOON_MS), "no output"
            _, frames = self._session.feed_identities(self.iopub.recv_multipart())
            message = self._session.deserialize(frames)
            if message["parent_header"].get("msg_id") != cell:
                continue
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                break
            yield message
        assert self._shell.poll(SOON_MS), "no reply"
        self._shell.recv_multipart()

    def cell(self, code: str) -> str:
        """Run a cell and return what it printed and its value."""
        found = []
        for message in self.outputs(self.begin(code)):
            content = message["content"]
            found.append(content.get("text") or content.get("data", {}).get("text/plain", ""))
        return "".join(found)


@contextmanager
def client(file: Path) -> Iterator[Client]:
    """Connect to the kernel of a connection file."""
    with Client(load(file)) as found:
        yield found
