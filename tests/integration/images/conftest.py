"""Containers of the real image, started with nothing but docker-py, and removed by this session's own label."""

from __future__ import annotations

import json
import queue
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import docker
import pytest
from docker.models.containers import Container
from docker.types import Mount
from jupyter_client import BlockingKernelClient  # type: ignore[attr-defined]

from tests.images import program, python_image

LABEL = "io.kernel-bridge.test-images"
UID = 234_567  # nobody in the image's /etc/passwd
KEY = "0123456789abcdef-this-is-the-key"
PYTHON = "/opt/kernel/bin/python"
SUPERVISOR = [PYTHON, "-I", "-S", "/opt/kernel-bridge/supervisor.py"]
GATEWAY = [PYTHON, "-I", "-S", "/opt/kernel-bridge/gateway.py"]
CHANNELS = ["shell_port", "iopub_port", "stdin_port", "control_port", "hb_port"]
CONNECTION: dict[str, Any] = {
    "transport": "ipc",
    "ip": "/run/kernel-bridge/k",
    **{channel: number for number, channel in enumerate(CHANNELS, start=1)},
    "key": KEY,
    "signature_scheme": "hmac-sha256",
    "kernel_name": "test",
}
SECONDS = 30.0  # the bound of every wait; a machine under load takes a tenth of it


class Events:
    """The JSON lines that a container writes to its standard output, one by one as they come."""

    def __init__(self, container: Container) -> None:
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._stream = container.logs(stream=True, follow=True, stdout=True, stderr=False)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        buffered = b""
        for chunk in self._stream:
            *lines, buffered = (buffered + chunk).split(b"\n")
            for line in lines:
                self._queue.put(json.loads(line))
        self._queue.put(None)

    def next(self) -> dict[str, Any]:
        event = self._queue.get(timeout=SECONDS)
        assert event is not None, "the container ended without another event"
        return event

    def rest(self) -> list[dict[str, Any]]:
        """All that is left, once the container has ended."""
        return list(iter(lambda: self._queue.get(timeout=SECONDS), None))

    def close(self) -> None:
        self._stream.close()
        self._thread.join(SECONDS)


class Lab:
    """Makes containers and volumes; `close` removes them."""

    def __init__(self, engine: docker.DockerClient, image: str) -> None:
        self.engine = engine
        self.image = image
        self._name = f"kbtest-{uuid.uuid4().hex[:8]}"
        self._open: list[Callable[[], None]] = []

    def volume(self) -> str:
        name = f"{self._name}-{len(self._open)}"
        owner = f"uid={UID},gid={UID},mode=0700"
        options = {"type": "tmpfs", "device": "tmpfs", "o": f"size=64k,nr_inodes=32,{owner}"}
        volume = self.engine.volumes.create(name, driver="local", driver_opts=options, labels={LABEL: self._name})
        self._open.append(lambda: volume.remove(force=True))
        return name

    def container(self, command: list[str] | None, *, volume: str | None = None, **options: Any) -> Container:
        """A created container under the hardening that the launcher uses."""
        owner = f"uid={UID},gid={UID},mode=0700"
        arguments: dict[str, Any] = {
            "user": f"{UID}:{UID}",
            "labels": {LABEL: self._name},
            "read_only": True,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "pids_limit": 200,
            "mem_limit": "500m",
            "memswap_limit": "500m",
            "network_mode": "none",
            "tmpfs": {
                "/tmp": "rw,nosuid,nodev,noexec,size=16m,mode=1777",
                "/home/kernel": f"rw,nosuid,nodev,exec,size=32m,{owner}",
                "/run/kernel": f"rw,nosuid,nodev,noexec,size=64k,{owner}",
            },
            "mounts": [Mount("/run/kernel-bridge", volume, type="volume")] if volume else [],
        }
        container = self.engine.containers.create(self.image, command, **(arguments | options))
        self._open.append(lambda: container.remove(force=True))
        return container

    def events(self, container: Container) -> Events:
        events = Events(container)
        self._open.append(events.close)
        return events

    def gateway(self, volume: str) -> tuple[Container, Events]:
        """A running gateway, its ports published on addresses that the engine chooses."""
        ports = {f"{port}/tcp": ("127.0.0.1", None) for port in range(5001, 5006)}
        gateway = self.container(GATEWAY, volume=volume, network_mode="bridge", ports=ports, mem_limit="64m", tmpfs={})
        gateway.start()
        gateway.reload()
        return gateway, self.events(gateway)

    def supervisor(self, line: bytes, *, then_close: bool = False, **options: Any) -> Container:
        """A running supervisor that got `line` on its standard input."""
        container = self.container(SUPERVISOR, stdin_open=True, **({"volume": self.volume()} | options))
        _start_with_input(container, line, then_close=then_close)
        return container

    def supervisor_with_file(self, name: str) -> Container:
        """Create a supervisor that is to read its line from a file: `orders` is one, `link` leads there."""
        line = json.dumps({"connection": CONNECTION, "environment": {}})
        script = 'printf \'%s\\n\' "$0" >/tmp/orders; ln -s orders /tmp/link; exec "$@"'
        return self.container(["sh", "-c", script, line, *SUPERVISOR, f"/tmp/{name}"], volume=self.volume())

    def kernel(
        self, connection: Mapping[str, Any] | None = None, limits: Mapping[str, float] | None = None, **options: Any
    ) -> Kernel:
        """A running kernel under its supervisor, and a gateway to it."""
        volume = self.volume()
        orders = {"connection": CONNECTION | dict(connection or {}), "environment": {"GIVEN": "yes"}, **(limits or {})}
        line = json.dumps(orders).encode() + b"\n"
        container = self.supervisor(line, volume=volume, **options)
        kernel = Kernel(container, self.events(container), *self.gateway(volume))
        self._open.append(kernel.close)
        return kernel

    def close(self) -> None:
        while self._open:
            with suppress(docker.errors.NotFound):
                self._open.pop()()


def _start_with_input(container: Container, data: bytes, *, then_close: bool) -> None:
    attached: Any = container.attach_socket(params={"stdin": 1, "stream": 1})
    container.start()
    stream: socket.socket = attached._sock
    stream.sendall(data)
    if then_close:
        stream.shutdown(socket.SHUT_WR)
    attached._response.close()
    stream.close()


def host_port(gateway: Container, port: int) -> int:
    """Where the engine published a gateway's port."""
    return int(gateway.attrs["NetworkSettings"]["Ports"][f"{port}/tcp"][0]["HostPort"])


class Kernel:
    """A kernel in its container, driven by a real client through the gateway."""

    def __init__(self, container: Container, events: Events, gateway: Container, gateway_events: Events) -> None:
        self.container = container
        self.events = events
        self.gateway = gateway
        self.gateway_events = gateway_events
        self.session: str | None = None
        """The client's own, where it is to be another than jupyter_client draws."""
        self._client: BlockingKernelClient | None = None

    @property
    def client(self) -> BlockingKernelClient:
        if self._client is None:
            client = BlockingKernelClient()
            ports = {channel: host_port(self.gateway, 5001 + number) for number, channel in enumerate(CHANNELS)}
            info: Any = {**CONNECTION, "transport": "tcp", "ip": "127.0.0.1", **ports}
            client.load_connection_info(info)
            if self.session:
                client.session.session = self.session
            client.start_channels(hb=False)
            client.wait_for_ready(timeout=SECONDS)
            self._client = client
        return self._client

    def run(self, code: str) -> str:
        """Run a cell and return what it printed; an exception in it fails the test."""
        printed: list[str] = []

        def collect(message: dict[str, Any]) -> None:
            if message["msg_type"] == "stream":
                printed.append(message["content"]["text"])

        reply = self.client.execute_interactive(code, timeout=SECONDS, output_hook=collect, stop_on_error=False)
        assert reply["content"]["status"] == "ok", reply["content"]
        return "".join(printed)

    def begin(self, code: str) -> None:
        """Send a cell without waiting for it, such as one that ends the kernel."""
        self.client.execute(code, stop_on_error=False)

    def close(self) -> None:
        if self._client is not None:
            self._client.stop_channels()
            self._client = None


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env(timeout=60)
    yield client
    client.close()


@pytest.fixture(scope="session")
def image() -> str:
    return python_image()


@pytest.fixture
def lab(engine: docker.DockerClient, image: str) -> Iterator[Lab]:
    lab = Lab(engine, image)
    yield lab
    lab.close()


@pytest.fixture(scope="module")
def shared_kernel(engine: docker.DockerClient, image: str) -> Iterator[Kernel]:
    """One kernel for the tests that only look."""
    lab = Lab(engine, image)
    try:
        yield lab.kernel()
    finally:
        lab.close()


@pytest.fixture(scope="session")
def supervisor() -> ModuleType:
    return program("supervisor")


@pytest.fixture(scope="session")
def ends(supervisor: ModuleType) -> ModuleType:
    return sys.modules[supervisor.ends.__name__]  # the very one that the supervisor uses


@pytest.fixture(scope="session")
def seal() -> ModuleType:
    return program("seal")


@pytest.fixture(scope="session")
def gateway() -> ModuleType:
    return program("gateway")


@pytest.fixture(scope="session")
def proxy() -> ModuleType:
    return program("proxy")


@pytest.fixture(scope="session")
def egress(proxy: ModuleType) -> ModuleType:
    return sys.modules[proxy.Rules.__module__]  # the very one that the proxy uses


@pytest.fixture
def stubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Write a command that stands in for a real one, first on the PATH."""
    directory = tmp_path / "stubs"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")

    def write(name: str, script: str) -> Path:
        file = directory / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        return file

    return write
