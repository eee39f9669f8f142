"""Relays as an IDE has them: a kernelspec, jupyter_client's KernelManager, and clients down to the frames."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import zmq
from jupyter_client.manager import KernelManager
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from jupyter_client.session import Session

from bridge.connection import ConnectionInfo, load
from bridge.errors import BadConnectionFile

# Whatever should come comes within a second or two; a machine that is busy with other tests may take longer.
SOON = 15.0
Message = dict[str, Any]
CHANNELS = ("shell", "control", "stdin", "iopub")
_numbers = itertools.count()


class Client:
    """One client of a kernel, or of a relay: raw sockets, nothing dropped, every wait bounded."""

    def __init__(
        self, info: ConnectionInfo, *, key: str | None = None, listens: bool = True, late: Sequence[str] = ()
    ) -> None:
        self.info = info
        self.session = Session(key=(key or info.key).encode(), check_pid=False)
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.sockets = {name: self._socket(zmq.SUB if name == "iopub" else zmq.DEALER) for name in CHANNELS}
        self.kept: dict[str, list[Message]] = {name: [] for name in self.sockets}
        """What came while something else was waited for."""
        for name in set(CHANNELS) - set(late):
            self.connect(name)
        if listens:
            nonce = uuid.uuid4().hex.encode()
            for topic in (b"", nonce):
                self.sockets["iopub"].setsockopt(zmq.SUBSCRIBE, topic)
            self.find("iopub", lambda each: each["content"].get("subscription") == nonce.decode())

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self.context.socket(kind)
        socket.linger = 0
        socket.rcvhwm = 0
        if kind == zmq.DEALER:
            socket.identity = self.session.bsession
        return socket

    def connect(self, channel: str) -> None:
        self.sockets[channel].connect(self.info.url(getattr(self.info, f"{channel}_port")))

    def close(self) -> None:
        self.context.destroy(linger=0)

    def send(
        self,
        channel: str,
        msg_type: str,
        content: Any,
        *,
        parent: Message | None = None,
        buffers: Sequence[bytes] = (),
        header: dict[str, Any] | None = None,
    ) -> str:
        message = self.session.msg(msg_type, content, parent=parent)
        message["header"] |= header or {}
        self.session.send(self.sockets[channel], message, buffers=list(buffers))
        return str(message["header"]["msg_id"])

    def get(self, channel: str, timeout: float = SOON) -> Message:
        """The next message that nobody has taken."""
        if self.kept[channel]:
            return self.kept[channel].pop(0)
        return self._read(channel, timeout)

    def _read(self, channel: str, timeout: float) -> Message:
        if not self.sockets[channel].poll(int(timeout * 1000)):
            raise TimeoutError(f"nothing on {channel}; {self.kept}")
        frames = self.sockets[channel].recv_multipart(copy=False)
        _, parts = self.session.feed_identities(frames, copy=False)
        return dict(self.session.deserialize(parts, copy=False))

    def find(self, channel: str, wanted: Callable[[Message], bool], timeout: float = SOON) -> Message:
        """The first message that is wanted; the others are kept in their order."""
        for number, each in enumerate(self.kept[channel]):
            if wanted(each):
                return self.kept[channel].pop(number)
        deadline = time.monotonic() + timeout
        while True:
            message = self._read(channel, max(0.0, deadline - time.monotonic()))
            if wanted(message):
                return message
            self.kept[channel].append(message)

    def reply(self, msg_id: str, channel: str = "shell", timeout: float = SOON) -> Message:
        return self.find(channel, lambda each: each["parent_header"].get("msg_id") == msg_id, timeout)

    def ask(self, channel: str, msg_type: str, content: Any = None, timeout: float = SOON, **more: Any) -> Message:
        return self.reply(self.send(channel, msg_type, content or {}, **more), channel, timeout)

    def start(self, code: str, **content: Any) -> str:
        asked = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": True}
        return self.send("shell", "execute_request", asked | {"stop_on_error": False} | content)

    def began(self, msg_id: str) -> Message:
        """Wait until the kernel says that this cell runs."""
        return self.of("execute_input", msg_id)

    def of(self, msg_type: str, msg_id: str) -> Message:
        """A message of a type about a request of anybody's."""
        return self.find(
            "iopub", lambda each: each["msg_type"] == msg_type and each["parent_header"].get("msg_id") == msg_id
        )

    def output(self, msg_id: str) -> list[Message]:
        """All that is published about a request, up to its idle, which is the last."""
        found: list[Message] = []
        while not found or found[-1]["content"].get("execution_state") != "idle":
            found.append(self.find("iopub", lambda each: each["parent_header"].get("msg_id") == msg_id))
        return found

    def run(self, code: str, **content: Any) -> tuple[Message, list[Message]]:
        """Run a cell: its reply, and all that was published about it."""
        msg_id = self.start(code, **content)
        return self.reply(msg_id)["content"], self.output(msg_id)

    @staticmethod
    def printed(output: Sequence[Message], name: str = "stdout") -> str:
        """What was printed in a cell's output."""
        streams = [each["content"] for each in output if each["msg_type"] == "stream"]
        return "".join(each["text"] for each in streams if each["name"] == name)

    def value(self, expression: str) -> str:
        """The text of an expression's value in the kernel."""
        reply, _ = self.run("pass", silent=True, store_history=False, user_expressions={"value": expression})
        found = reply["user_expressions"]["value"]
        assert found["status"] == "ok", found
        return str(found["data"]["text/plain"])


class Kernel:
    """A real ipykernel on ports that it keeps when it is started again."""

    def __init__(self, directory: Path, name: str, *arguments: str) -> None:
        self.name, self.file, self.arguments = name, directory / f"{name}.json", arguments
        self.start()

    def start(self) -> None:
        with self.file.with_suffix(".log").open("ab") as log:
            command = [sys.executable, "-m", "ipykernel_launcher", "-f", str(self.file), *self.arguments]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(self._is_written, "the kernel wrote no connection file")
        client = Client(self.info)
        client.ask("shell", "kernel_info_request")
        client.close()

    @property
    def info(self) -> ConnectionInfo:
        return load(self.file)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def _is_written(self) -> bool:
        with contextlib.suppress(BadConnectionFile):
            load(self.file)
            return True
        assert self.process.poll() is None, self.file.with_suffix(".log").read_text()
        return False


def until(reached: Callable[[], bool], otherwise: str, timeout: float = SOON) -> None:
    """Ask again until something is so that tells no event; bounded."""
    deadline = time.monotonic() + timeout
    while not reached():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)


def write_kernelspec(directory: Path, kernel: Path, name: str) -> Path:
    """Write what `ide install` writes, as far as an IDE starts a relay by it."""
    spec = directory / "kernels" / name
    spec.mkdir(parents=True)
    argv = [sys.executable, "-m", "bridge", "relay", "--kernel", str(kernel), "{connection_file}"]
    about = {"argv": argv, "display_name": "Shared", "language": "python", "interrupt_mode": "message"}
    (spec / "kernel.json").write_text(json.dumps(about))
    return spec


class Ide:
    """A program that can only start kernels: jupyter_client's manager, with the relay as its kernel."""

    def __init__(self, directory: Path, kernel: Path, **settings: Any) -> None:
        name = f"shared-{next(_numbers)}"
        self.errors = write_kernelspec(directory, kernel, name) / "stderr"
        self.manager = KernelManager(kernel_name=name, **settings)
        self.clients: list[Client] = []
        # open for as long as the relay may be started again
        self._stderr = self.errors.open("wb")
        self.manager.start_kernel(stderr=self._stderr)

    @property
    def info(self) -> ConnectionInfo:
        return load(Path(self.manager.connection_file))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def _process(self) -> subprocess.Popen[bytes]:
        return cast("subprocess.Popen[bytes]", cast("LocalProvisioner", self.manager.provisioner).process)

    def client(self, *, asks: bool = True, **more: Any) -> Client:
        """A client; unless it does not ask, it has seen the relay answer."""
        client = Client(self.info, **more)
        self.clients.append(client)
        if asks:
            client.ask("shell", "kernel_info_request")
        return client

    def ended(self) -> int:
        """Wait until the relay has ended; its exit code."""
        return self._process.wait(SOON)

    def stderr(self) -> str:
        return self.errors.read_text()

    def close(self) -> None:
        for each in self.clients:
            each.close()
        if self.manager.has_kernel:
            self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()
        self._stderr.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the kernels and kernelspecs of one module of tests are."""
    directory = tmp_path_factory.mktemp("ide")
    (directory / "runtime").mkdir(mode=0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_RUNTIME_DIR", str(directory / "runtime"))
        patch.setenv("JUPYTER_PATH", str(directory))
        yield directory


@pytest.fixture(scope="module")
def kernel(world: Path) -> Iterator[Kernel]:
    """One kernel for all tests of a module that leave it alive."""
    # jedi reads the whole environment before its first answer; a banner has another tip each time
    kernel = Kernel(
        world / "runtime",
        f"kernel-{next(_numbers)}",
        "--IPCompleter.use_jedi=False",
        "--InteractiveShell.enable_tip=False",
    )
    yield kernel
    kernel.kill()


@pytest.fixture
def start_kernel(world: Path) -> Iterator[Callable[..., Kernel]]:
    """Start kernels that end with the test."""
    started: list[Kernel] = []

    def start(*arguments: str) -> Kernel:
        started.append(Kernel(world / "runtime", f"kernel-{next(_numbers)}", *arguments))
        return started[-1]

    yield start
    for each in started:
        each.kill()


@pytest.fixture
def agent(kernel: Kernel) -> Iterator[Client]:
    """Another client, directly at the shared kernel."""
    client = Client(kernel.info)
    yield client
    client.close()


@pytest.fixture(scope="module")
def write_spec(world: Path) -> Callable[..., Path]:
    """Write a kernelspec of a relay to a kernel."""
    return lambda kernel, name: write_kernelspec(world, kernel.file, name)


@pytest.fixture(scope="module")
def make_ide(world: Path) -> Callable[..., Ide]:
    """Start an IDE that its user closes."""
    return lambda kernel, **settings: Ide(world, kernel.file, **settings)


@pytest.fixture
def start_ide(world: Path) -> Iterator[Callable[..., Ide]]:
    """Start IDEs that end with the test."""
    started: list[Ide] = []

    def start(kernel: Kernel, **settings: Any) -> Ide:
        started.append(Ide(world, kernel.file, **settings))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture(scope="module")
def ide(kernel: Kernel, make_ide: Callable[..., Ide]) -> Iterator[Ide]:
    """One relay for the tests that leave it as it was."""
    ide = make_ide(kernel)
    yield ide
    ide.close()


@pytest.fixture
def client(ide: Ide) -> Iterator[Client]:
    client = ide.client()
    yield client
    client.close()
