"""The server over stdio as a process of its own, and a client that does only what the test says, wrong or right."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import docker
import pytest

from bridge.launchers.docker import DockerLauncher
from bridge.launchers.docker.owner import current_owner
from tests.faults.engines import AtRequest, Looker
from tests.images import python_image

# Far more than it takes on a busy machine: only a hang fails it.
SOON = 60.0
# The server ends itself within two seconds; the rest is what a busy machine takes to start a thread and to tell us.
ENDS_WITHIN = 3.5
BRIDGE = ("-m", "bridge")


class Bridge:
    """A server process and its client."""

    def __init__(self, *arguments: str, log: Path, program: Sequence[str] = BRIDGE, **environment: str) -> None:
        self.log = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, *program, "serve", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=os.environ | environment,
            )
        assert self.process.stdin
        assert self.process.stdout
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self._numbers = itertools.count(1)
        self.unasked: list[dict[str, Any]] = []
        """What has come without an id of ours."""
        self._answers: dict[Any, dict[str, Any]] = {}
        self._come = threading.Condition()
        self._reads = threading.Event()
        self._reads.set()
        self._closes = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        rest = b""
        while self._reads.wait(SOON) and not self._closes.is_set():
            # whoever waits in a read keeps the pipe open
            if not select.select([self.stdout], [], [], 0.05)[0]:
                continue
            *lines, rest = (rest + (more := os.read(self.stdout.fileno(), 65536))).split(b"\n")
            if not more:
                break
            for message in map(json.loads, lines):
                with self._come:
                    if message.get("id") is None or "method" in message:
                        self.unasked.append(message)
                    else:
                        assert message["id"] not in self._answers, "one answer each"
                        self._answers[message["id"]] = message
                    self._come.notify_all()
        self.stdout.close()

    def stop_reading(self) -> None:
        """Read no more, so that the pipe fills."""
        self._reads.clear()

    def read_again(self) -> None:
        self._reads.set()

    def close_stdout(self) -> None:
        self._closes.set()
        self._reads.set()
        self._reader.join(SOON)

    def send(self, line: bytes) -> None:
        self.stdin.write(line + b"\n")
        self.stdin.flush()

    def begin(self, method: str, **parameters: Any) -> int:
        """Send a request and return its id."""
        number = next(self._numbers)
        self.send(json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": parameters}).encode())
        return number

    def answer(self, number: Any) -> dict[str, Any]:
        """Wait for the answer to a request."""
        with self._come:
            assert self._come.wait_for(lambda: number in self._answers, SOON), self.log.read_text()
            return self._answers.pop(number)

    def answered(self) -> int:
        """Return how many answers have come that nobody has waited for."""
        with self._come:
            return len(self._answers)

    def until_unasked(self, enough: int) -> list[dict[str, Any]]:
        """Wait for as many messages that answer no request."""
        with self._come:
            assert self._come.wait_for(lambda: len(self.unasked) >= enough, SOON), self.log.read_text()
            return self.unasked

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask and return the result."""
        answer = self.answer(self.begin(method, **parameters))
        assert "result" in answer, answer
        return dict(answer["result"])

    def greet(self) -> Bridge:
        """Begin as clients before 2026 do."""
        self.ask(
            "initialize",
            protocolVersion="2025-06-18",
            capabilities={},
            clientInfo={"name": "raw", "version": "1"},
        )
        self.send(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
        return self

    def start_call(self, tool: str, **arguments: Any) -> int:
        return self.begin("tools/call", name=tool, arguments=arguments)

    def call(self, tool: str, **arguments: Any) -> str:
        """Call a tool that must succeed and return its text."""
        return self.text(self.start_call(tool, **arguments))

    def refused(self, tool: str, **arguments: Any) -> str:
        """Call a tool that must fail and return why."""
        return self.text(self.start_call(tool, **arguments), failed=True)

    def text(self, number: Any, *, failed: bool = False) -> str:
        result = self.answer(number).get("result")
        assert result, self.log.read_text()
        assert bool(result.get("isError")) is failed, result
        return "\n".join(each["text"] for each in result["content"] if each["type"] == "text")

    def connect(self, kernel: Any) -> None:
        """Connect; the kernel was started a moment ago and may not listen yet."""
        end = time.monotonic() + SOON
        while self.answer(self.start_call("connect_to_kernel", connection_file=str(kernel.file)))["result"].get(
            "isError"
        ):
            assert time.monotonic() < end
            time.sleep(0.02)

    def until_ended(self) -> int:
        """Wait for its end, which must come in time, and return its exit status as a shell tells it."""
        try:
            code = self.process.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it has not ended: {self.log.read_text()}") from None
        return code if code >= 0 else 128 - code

    def end(self) -> None:
        """End it, however it is."""
        self.process.kill()
        self.process.wait(SOON)
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()
        self.close_stdout()


Serve = Callable[..., Bridge]


@pytest.fixture
def bridge(tmp_path: Path, runtime: Path) -> Iterator[Serve]:
    """Start servers that end with the test."""
    started: list[Bridge] = []

    def start(*arguments: str, **options: Any) -> Bridge:
        started.append(Bridge(*arguments, log=tmp_path / f"bridge-{len(started)}.log", **options))
        return started[-1]

    yield start
    for each in started:
        each.end()


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of ours as the person would."""
    return subprocess.run(
        [sys.executable, *BRIDGE, *arguments],
        capture_output=True,
        text=True,
        timeout=SOON,
        check=False,
        env=os.environ | environment,
    )


# -- how a server is ended


def _by(number: signal.Signals) -> Callable[[Bridge], int]:
    def end(bridge: Bridge) -> int:
        bridge.process.send_signal(number)
        return bridge.until_ended()

    return end


def client_closes_stdin(bridge: Bridge) -> int:
    bridge.stdin.close()
    return bridge.until_ended()


def client_closes_stdout(bridge: Bridge) -> int:
    """It is noticed with the first word that does not get through."""
    bridge.close_stdout()
    bridge.begin("ping")
    return bridge.until_ended()


ENDS: dict[str, tuple[Callable[[Bridge], int], int]] = {
    "stdin closed": (client_closes_stdin, 0),
    "stdout closed": (client_closes_stdout, 0),
    "SIGTERM": (_by(signal.SIGTERM), 143),
    "SIGINT": (_by(signal.SIGINT), 130),
    "SIGHUP": (_by(signal.SIGHUP), 129),
    "SIGKILL": (_by(signal.SIGKILL), 137),
}
"""Each way, and the exit status that a shell tells of it."""


@dataclass(frozen=True)
class End:
    """One way in which a server ends."""

    how: str

    def __call__(self, bridge: Bridge) -> None:
        """End it; it must have ended in time, with the status that belongs to it, and without a traceback."""
        way, status = ENDS[self.how]
        assert way(bridge) == status, bridge.log.read_text()
        assert "Traceback" not in bridge.log.read_text()

    @property
    def is_kill(self) -> bool:
        return self.how == "SIGKILL"


@pytest.fixture(params=ENDS)
def end(request: pytest.FixtureRequest) -> End:
    """Each way in which a server ends."""
    return End(request.param)


@pytest.fixture(params=["stdin closed", "SIGTERM", "SIGKILL"])
def hard_end(request: pytest.FixtureRequest) -> End:
    """The ways as far as they differ to what goes on: the other signals are taken as SIGTERM is."""
    return End(request.param)


def until(true: Callable[[], Any], what: str) -> None:
    """Wait, bounded, until something outside of us is so."""
    late = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < late, f"never came: {what}"
        time.sleep(0.02)


@dataclass(frozen=True)
class Cell:
    """A cell that has begun, and goes on when it is told to, whoever still listens."""

    directory: Path

    @property
    def code(self) -> str:
        return (
            f"import pathlib, time\nplace = pathlib.Path({str(self.directory)!r})\n"
            "print('begun', flush=True)\n(place / 'begun').touch()\n"
            "while not (place / 'go').exists(): time.sleep(0.02)\n"
            "print('went on')\n(place / 'went on').touch()"
        )

    def until_begun(self) -> None:
        until((self.directory / "begun").exists, "the cell's beginning")

    def go_on(self) -> None:
        """Let it go on, which it must."""
        assert not (self.directory / "went on").exists()
        (self.directory / "go").touch()
        until((self.directory / "went on").exists, "the cell's end")


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    directory = tmp_path / "cell"
    directory.mkdir()
    return Cell(directory)


@pytest.fixture
def hanging_engine(tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """A socket that takes connections and says nothing."""
    path = tmp_path / "engine.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        listening.settimeout(SOON)
        yield f"unix://{path}", listening


def asked(listening: socket.socket) -> socket.socket:
    """Wait until something is asked, and not only looked whether anybody listens."""
    while True:
        connection, _ = listening.accept()
        connection.settimeout(SOON)
        if connection.recv(1):
            return connection
        connection.close()


@pytest.fixture
def engine() -> Iterator[docker.DockerClient]:
    """The machine's own, in which nothing of ours is left."""
    client = docker.from_env(timeout=30)
    yield client
    run("gc", "--all")
    client.close()


def ours(engine: docker.DockerClient) -> list[str]:
    """Return the names of all that this run's owner has in the engine."""
    filters: dict[str, Any] = {"label": f"io.kernel-bridge.owner={current_owner(os.environ)}"}
    containers = engine.containers.list(all=True, ignore_removed=True, filters=filters)
    others: tuple[Any, ...] = (*engine.volumes.list(filters=filters), *engine.networks.list(filters=filters))
    return sorted(str(each.name) for each in (*containers, *others))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A state directory on a disk with room for a journal and not for much in it."""
    place = tmp_path / "state"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill(disk: Path) -> None:
    """Leave no byte and no further file on a small disk."""
    with contextlib.suppress(OSError), (disk / "filling").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    assert os.statvfs(disk).f_bavail == 0


@pytest.fixture(scope="session")
def image() -> str:
    return python_image()


@pytest.fixture
def looker(image: str, runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Looker]:
    """What a test of its own owner leaves behind; and in the end that is removed."""
    monkeypatch.setenv("KERNEL_BRIDGE_OWNER", f"test-{uuid.uuid4().hex}")
    with tempfile.TemporaryDirectory(prefix="kb-", dir="/tmp") as short:  # a socket's path is
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        launcher = DockerLauncher()
        yield Looker(launcher.owner, runtime)

        async def end() -> None:
            for each in await launcher.sandboxes():
                await launcher.stop(each.name)
            await launcher.sweep()
            launcher.close()

        anyio.run(end)


@pytest.fixture
def at_request(monkeypatch: pytest.MonkeyPatch) -> AtRequest:
    return AtRequest(monkeypatch)
