"""The launchers under test, each with an observer that looks at its engine from outside; and a kernel's real client."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import docker
import pytest
from jupyter_client import AsyncKernelClient  # type: ignore[attr-defined]

from bridge.launchers import Launcher, Sandbox
from bridge.launchers.docker import DockerLauncher
from bridge.policy import SandboxRequest, SandboxSpec, decide, parse
from tests.images import python_image

# The bound of every wait; a machine under load takes a tenth of it.
SOON = 30.0


class SweepingLauncher(Launcher, Protocol):
    """What the bridge uses beyond the protocol: every launcher has these too."""

    async def sweep(self, *, leftovers: bool = True) -> list[Sandbox]: ...
    async def restore_connection_file(self, name: str) -> None: ...
    def close(self) -> None: ...


class Observer(Protocol):
    """One launcher, and what a test must see or do behind its back. A new launcher brings another one."""

    @property
    def launcher(self) -> SweepingLauncher: ...
    def left(self) -> list[str]: ...
    def everything_said(self, name: str) -> str: ...
    def kill(self, name: str) -> None: ...
    def kill_gateway(self, name: str) -> None: ...
    def remove_behind_its_back(self, name: str) -> None: ...
    def close(self) -> None: ...


class DockerObserver:
    """The Docker Engine as its own client sees it; only what carries the tests' owner is ever touched."""

    def __init__(self) -> None:
        self.launcher = DockerLauncher()
        self.engine = docker.from_env(timeout=60)
        self._ours = f"io.kernel-bridge.owner={self.launcher.owner}"

    def containers(self, **labels: str) -> list[Any]:
        wanted = [self._ours, *(f"io.kernel-bridge.{key}={value}" for key, value in labels.items())]
        return self.engine.containers.list(all=True, ignore_removed=True, filters={"label": wanted})

    def one(self, name: str, role: str) -> Any:
        (found,) = self.containers(name=name, role=role)
        return found

    def left(self) -> list[str]:
        ours = {"label": self._ours}
        others = (*self.engine.volumes.list(filters=ours), *self.engine.networks.list(filters=ours))
        return sorted(str(each.name) for each in (*self.containers(), *others))

    def everything_said(self, name: str) -> str:
        """All that the engine tells about a sandbox to whoever may ask it."""
        said = []
        for container in self.containers(name=name):
            said += [json.dumps(container.attrs), container.logs().decode(), json.dumps(container.diff())]
            said += [
                json.dumps(container.top()),
                json.dumps(container.image.history()),
                json.dumps(container.image.attrs),
            ]
            for command in (["env"], ["cat", "/proc/1/cmdline"], ["cat", "/proc/1/environ"]):
                said.append(container.exec_run(command).output.decode())
        ours = {"label": self._ours}
        for each in (*self.engine.volumes.list(filters=ours), *self.engine.networks.list(filters=ours)):
            said.append(json.dumps(each.attrs))
        return "\n".join(said)

    def kill(self, name: str) -> None:
        _end(self.one(name, "kernel"))

    def kill_gateway(self, name: str) -> None:
        _end(self.one(name, "gateway"))

    def remove_behind_its_back(self, name: str) -> None:
        for container in self.containers(name=name):
            container.remove(force=True)

    def close(self) -> None:
        self.launcher.close()
        self.engine.close()


def _end(container: Any) -> None:
    container.kill()
    container.wait(timeout=SOON)


OBSERVERS: dict[str, Callable[[], Observer]] = {"docker": DockerObserver}


@pytest.fixture(scope="session")
def image() -> str:
    return python_image()


@pytest.fixture(scope="session", params=OBSERVERS)
async def observer(request: pytest.FixtureRequest, image: str, anyio_backend: str) -> AsyncIterator[Observer]:
    observer = OBSERVERS[request.param]()
    yield observer
    for each in await observer.launcher.sandboxes():
        await observer.launcher.stop(each.name)
    await observer.launcher.sweep()
    left = observer.left()
    observer.close()
    assert not left


@pytest.fixture
async def tidy(observer: Observer) -> AsyncIterator[None]:
    """End a test with none of its own sandboxes, whatever became of it."""
    before = {each.name for each in await observer.launcher.sandboxes()}
    yield
    for each in await observer.launcher.sandboxes():
        if each.name not in before:
            await observer.launcher.stop(each.name)


def make_spec(name: str, *, policy: dict[str, Any] | None = None, **request: Any) -> SandboxSpec:
    """Decide a request under a policy that allows what the test needs; small, so that several fit at once."""
    content = {
        "images": [{"repository": "kernel-bridge/python", "tags": ["*"]}],
        "default_image": "kernel-bridge/python:3.13",
        "network": "open" if request.get("network") == "open" else "isolated",
        "limits": {"memory": "512MiB", "cpus": 2, "pids": 128, "home": "64MiB", "tmp": "32MiB", "shm": "32MiB"},
        **(policy or {}),
    }
    return decide(
        parse(json.dumps({"version": 1, "sandbox": content}), origin="the test's policy"),
        SandboxRequest(name=name, **request),
    )


@pytest.fixture(scope="session")
def spec() -> Callable[..., SandboxSpec]:
    return make_spec


class Client:
    """A person's Jupyter client: it knows the connection file and nothing else."""

    def __init__(self, connection_file: Path) -> None:
        self._client = AsyncKernelClient(connection_file=str(connection_file))
        self._client.load_connection_file()
        self._client.start_channels(hb=False)

    def close(self) -> None:
        self._client.stop_channels()

    async def ready(self) -> None:
        await self._client.wait_for_ready(timeout=SOON)

    async def run(self, code: str) -> str:
        """Run a cell and return what it printed, an exception's name and text included."""
        printed: list[str] = []

        def collect(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                printed.append(content["text"])
            elif message["msg_type"] == "error":
                printed.append(f"{content['ename']}: {content['evalue']}")

        await self._client.execute_interactive(code, timeout=SOON, output_hook=collect, stop_on_error=False)
        return "".join(printed).strip()

    async def begin(self, code: str) -> None:
        """Send a cell and return once it runs."""
        sent = self._client.execute(code, stop_on_error=False)
        while True:
            message = await self._client.get_iopub_msg(timeout=SOON)
            if message["parent_header"].get("msg_id") == sent and message["msg_type"] == "execute_input":
                return

    async def reply(self) -> dict[str, Any]:
        """Wait for the reply to what was begun."""
        message = await self._client.get_shell_msg(timeout=SOON)
        return dict(message["content"])


@pytest.fixture
def connect() -> Iterator[Callable[[Sandbox], Any]]:
    """Connect a client to a sandbox and wait until its kernel answers."""
    with contextlib.ExitStack() as held:

        async def connect_to(sandbox: Sandbox) -> Client:
            client = Client(sandbox.connection_file)
            held.callback(client.close)
            await client.ready()
            return client

        yield connect_to


@pytest.fixture(scope="module", params=["isolated", "none", "open"])
async def shared(request: pytest.FixtureRequest, observer: Observer) -> AsyncIterator[tuple[Sandbox, Client]]:
    """One sandbox of each network, for the tests that only look."""
    spec = make_spec(
        f"shared-{request.param}",
        network=request.param,
        policy={"environment": ["GIVEN"], "network": "open"},
        environment={"GIVEN": "yes"},
    )
    sandbox = await observer.launcher.start(spec)
    client = Client(sandbox.connection_file)
    try:
        await client.ready()
        yield sandbox, client
    finally:
        client.close()
        await observer.launcher.stop(sandbox.name)
