"""What the engine's faults are made and judged with: a socket before the real one, and all that a start may leave."""

from __future__ import annotations

import contextlib
import gc
import io
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Self

import docker
import pytest

from bridge.launchers.docker import DockerLauncher, owner, places
from bridge.launchers.docker.engine import Engine

SOON = 60.0
REAL = Path("/var/run/docker.sock")

Fault = Literal[
    "silent", "silent once done", "breaks off", "refuses", "says no HTTP", "says no JSON", "says null", "says {}"
]
"""What becomes of a request; "once done" and "breaks off": after the engine has done what it was asked for."""


def _json(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d \r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body


_ANSWERS = {
    "refuses": _json(500, b'{"message":"out of order"}'),
    "says no HTTP": b"\x00\xff\xfe this is no HTTP\r\n\r\n",
    "says no JSON": _json(200, b'{"Id": '),
    "says null": _json(200, b"null"),
    "says {}": _json(200, b"{}"),
}


# what a request's path has of the one container, image or volume that is meant
_OF_ONE = "[0-9a-f]{64}|(?<=/images/).+(?=/json)|(?<=/volumes/).+"


class Front:
    """A socket that passes all requests on to an engine, but one or more: what becomes of those is the fault."""

    def __init__(self, path: Path, behind: Path = REAL) -> None:
        self.address = f"unix://{path}"
        self.asked: list[str] = []
        """Each kind of request that has come, once, e.g. `POST /containers/ID/start`."""
        self._behind = behind
        self._kind, self._fault, self._for_good, self._failed = "", "", False, False
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = self._held(socket.socket(socket.AF_UNIX))
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._begin(self._accept)

    def fail(self, kind: str, fault: Fault, *, for_good: bool = False) -> None:
        """Have something become of the first request of a kind, or of that and of all that come after it."""
        self._kind, self._fault, self._for_good = kind, fault, for_good

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End all of it, and wait until it has."""
        for each in self._sockets:
            _shut(each)
        for thread in self._threads:
            thread.join(SOON)
        for each in self._sockets:
            each.close()

    def _held(self, one: socket.socket) -> socket.socket:
        with self._lock:
            self._sockets.append(one)
        return one

    def _begin(self, work: Callable[..., None], *arguments: Any) -> None:
        with self._lock:
            self._threads.append(threading.Thread(target=work, args=arguments))
            self._threads[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._begin(self._serve, self._held(self._listener.accept()[0]))

    def _serve(self, client: socket.socket) -> None:
        engine = self._held(socket.socket(socket.AF_UNIX))
        fault = [""]
        with contextlib.suppress(OSError), client.makefile("rb") as reader:
            engine.connect(str(self._behind))
            self._begin(_answer, engine, client, fault)
            while head := _head(reader):
                body = reader.read(_length(head))
                fault[0] = self._fault_of(head)
                if fault[0] in _ANSWERS:
                    client.sendall(_ANSWERS[fault[0]])
                    if fault[0] == "says no HTTP":
                        break
                elif fault[0] != "silent":
                    engine.sendall(head + body)
                    if b"upgrade: tcp" in head.lower():  # what follows is a container's input
                        while piece := reader.read1():
                            engine.sendall(piece)
        with contextlib.suppress(OSError):
            engine.shutdown(socket.SHUT_WR)
        if fault[0] == "says no HTTP":
            _shut(client)

    def _fault_of(self, head: bytes) -> str:
        method, path = head.decode().split(" ")[:2]
        kind = f"{method} {re.sub(_OF_ONE, 'ID', re.sub('^/v[0-9.]+|[?].*', '', path))}"
        with self._lock:
            first = kind not in self.asked
            if first:
                self.asked.append(kind)
            if (first and kind == self._kind) or (self._failed and self._for_good):
                self._failed = True
                return self._fault
            return ""


def _answer(engine: socket.socket, client: socket.socket, fault: list[str]) -> None:
    with contextlib.suppress(OSError):
        while piece := engine.recv(65536):
            if fault[0] == "breaks off":
                client.sendall(piece[: len(piece) // 2])
                break
            if fault[0] != "silent once done":
                client.sendall(piece)
    if not fault[0].startswith("silent"):
        _shut(client)


def _head(reader: io.BufferedReader) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = reader.readline()
        if not line:
            return b""
        head += line
    return head


def _length(head: bytes) -> int:
    found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return int(found[1]) if found else 0


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)


class AtRequest:
    """Has something happen when a launcher's engine is asked for the nth time: before the request, or once it is done.

    It happens in the request's thread, which goes on when it is over.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._engine: Engine | None = None
        self._number, self._done = 0, False
        self.asked = 0
        """How often it was asked since that was chosen."""
        self._act: Callable[[], object] = lambda: None
        self._counting = threading.Lock()
        request = Engine._request

        def watched(engine: Engine, what: str, call: Any) -> Any:
            mine = engine is self._engine and self._count() == self._number
            if mine and not self._done:
                self._act()
            try:
                return request(engine, what, call)
            finally:
                if mine and self._done:
                    self._act()

        monkeypatch.setattr(Engine, "_request", watched)

    def set(self, launcher: DockerLauncher, number: int, act: Callable[[], object], *, done: bool = False) -> None:
        """Choose the launcher and the request, counted from now on, and what is to happen."""
        self._engine, self.asked = launcher._engine, 0
        self._number, self._act, self._done = number, act, done

    def _count(self) -> int:
        with self._counting:
            self.asked += 1
            return self.asked


class Looker:
    """Looks from outside, through the engine's own client."""

    def __init__(self, owner_label: str, runtime: Path, address: str = f"unix://{REAL}") -> None:
        self.whose = owner_label
        self._ours: dict[str, Any] = {"label": f"{owner.OWNER}={owner_label}"}
        self.runtime = runtime
        self._address = address
        # of earlier tests: one that waits on in a loop of theirs may never end
        self._others = set(threading.enumerate())

    def left(self) -> list[str]:
        """Return what there is in the engine and on the host."""
        with self.client() as engine:
            found: list[Any] = [
                *engine.containers.list(all=True, ignore_removed=True, filters=self._ours),
                *engine.volumes.list(filters=self._ours),
                *engine.networks.list(filters=self._ours),
            ]
            names = [str(each.name) for each in found]
        return sorted([*names, *(each.name for each in self.runtime.iterdir()), *_directories()])

    def traces(self) -> tuple[list[str], list[str], list[str]]:
        """Return what is left, this process's new threads, and what its descriptors are."""
        gc.collect()
        for thread in self._threads():
            if "AnyIO" in thread.name:
                thread.join(SOON)  # its loop is over
        return self.left(), sorted(each.name for each in self._threads()), _descriptors()

    def _threads(self) -> set[threading.Thread]:
        return set(threading.enumerate()) - self._others

    def held(self) -> int:
        """Return how many threads and descriptors this process has."""
        return len(threading.enumerate()) + len(_descriptors())

    def end(self, role: str) -> None:
        """Kill the one container of that role, as somebody else might."""
        with self._one(role) as found:
            found.kill()
            found.wait(timeout=SOON)

    def restart(self, role: str) -> None:
        """Have the engine start that container anew; what it publishes may change its port."""
        with self._one(role) as found:
            found.restart(timeout=0)

    @contextlib.contextmanager
    def _one(self, role: str) -> Iterator[Any]:
        with self.client() as engine:
            (found,) = engine.containers.list(filters={"label": [*self._ours.values(), f"{owner.ROLE}={role}"]})
            yield found

    @contextlib.contextmanager
    def client(self) -> Iterator[docker.DockerClient]:
        """Give the engine's own client."""
        with contextlib.closing(docker.DockerClient(self._address, timeout=60)) as client:
            yield client


def _directories() -> list[str]:
    parent = places.socket_parent()
    return [str(each) for each in parent.iterdir()] if parent.exists() else []


def _descriptors() -> list[str]:
    """Name what each is; which number it has and which socket it is is chance."""
    found = []
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(re.sub(r"\[\d+\]", "", str(each.readlink())))
    return sorted(found)
