"""Sandboxes to be probed: as users get them, and with one setting relaxed."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import docker
import pytest
from jupyter_client import BlockingKernelClient  # type: ignore[attr-defined]

from bridge.launchers import Sandbox
from bridge.launchers.docker import DockerLauncher, owner, starting, verification
from bridge.launchers.docker import build as building
from bridge.policy import SandboxRequest, decide, parse
from tests.security import relaxed
from tests.security.probes import LIMITS, Probe, prelude
from tests.security.relaxed import Outside, Setting

SOON = 60.0
"""The bound of every wait; a machine under load takes a tenth of it."""
KEPT = 3
"""So many controls run at the same time; the next one ends the oldest."""


class Probed:
    """A running sandbox, and a client of its kernel."""

    def __init__(self, lab: Lab, sandbox: Sandbox) -> None:
        self.name = sandbox.name
        self._lab = lab
        self.client = BlockingKernelClient(connection_file=str(sandbox.connection_file))
        self.client.load_connection_file()
        self.client.start_channels(hb=False)
        self.client.wait_for_ready(timeout=SOON)
        self._container = lab.container(sandbox.name, "kernel")

    def run(self, code: str) -> str:
        """Run a cell in the kernel; returns what it printed, and an exception."""
        said: list[str] = []

        def collect(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                said.append(content["text"])
            elif message["msg_type"] == "error":
                said.append(f"{content['ename']}: {content['evalue']}")

        self.client.execute_interactive(code, timeout=SOON, output_hook=collect, stop_on_error=False)
        return "".join(said).strip()

    def try_it(self, probe: Probe, outside: Outside) -> str:
        """Run a probe; returns the verdict."""
        code = prelude(outside) + probe.code
        if probe.verdict == "of the next kernel":
            return self._next_kernel(code, prelude(outside) + probe.after)
        if probe.in_the_kernel:
            said = self.run(code)
            if probe.verdict == "of the supervisor's log":
                return self._forged()
            return self._log_kept() if probe.verdict == "of the log" else said
        # a process that the kernel starts: what kills it, or what it holds, ends there
        said = self.run(
            "import subprocess, sys\n"
            f"_done = subprocess.run([sys.executable, '-c', {code!r}], stdout=-1, stderr=-2, text=True, timeout=50)\n"
            "print('killed' if _done.returncode == -9 else _done.stdout, end='\\0')"
        )
        # behind it the kernel itself may tell that a process of it ran out of memory
        return said.partition("\0")[0].strip()

    def _next_kernel(self, ends_it: str, after: str) -> str:
        """End the kernel; returns what its successor says, or that it ends by itself."""
        began = datetime.now(UTC)
        self.client.execute(ends_it)
        deadline = time.monotonic() + SOON
        while time.monotonic() < deadline:
            told = self._events(began)
            if told.count("ended") > 1:
                return "no kernel starts any more"
            with suppress(RuntimeError):  # it does not answer yet
                self.client.wait_for_ready(timeout=1)
                if "started" in told:
                    return self.run(after)
        raise AssertionError("there is neither another kernel nor its end")

    def _events(self, began: datetime) -> list[str]:
        """What the supervisor has told since then, this machine's clock being its own."""
        lines = map(json.loads, self._container.logs(stdout=True, stderr=False).splitlines())
        return [each["event"] for each in lines if datetime.fromisoformat(each["time"]) > began]

    def _log_kept(self) -> str:
        kept = len(self._log_with(b"that is all", stdout=False))
        return (
            "all is kept" if kept >= 2 << 20 else "at most 128 KiB are kept" if kept <= 128 << 10 else f"{kept} bytes"
        )

    def _forged(self) -> str:
        self._log_with(b'"forged"')
        return "among its lines" if b'"forged"' in self._log(stderr=False) else "not among its lines"

    def _log(self, **streams: bool) -> bytes:
        return bytes(self._container.logs(**streams))

    def _log_with(self, written: bytes, **streams: bool) -> bytes:
        """The log, once the engine has got to what was written last."""
        deadline = time.monotonic() + SOON
        while time.monotonic() < deadline:
            if written in (log := self._log(**streams)):
                return log
        raise AssertionError(f"the engine has not got {written!r}")

    def end(self) -> None:
        self.client.stop_channels()
        launch(DockerLauncher.stop, self.name)


def launch(what: Callable[..., Any], *arguments: Any) -> Any:
    """Have the launcher do something."""
    launcher = DockerLauncher()
    try:
        return anyio.run(what, launcher, *arguments)
    finally:
        launcher.close()


class Lab:
    """Starts the sandboxes, and knows what is outside of them."""

    def __init__(self, image: str, work: Path, held: ExitStack) -> None:
        self._image = image
        self._work = work
        self.engine = docker.from_env(timeout=60)
        held.callback(self.engine.close)
        self._controls: dict[tuple[Setting, ...], Probed] = {}
        held.callback(self._end_controls, 0)
        workspace = _workspace(work, held)
        self.outside = _outside(self.engine, work, workspace, held)
        other = self.started("other")
        held.callback(other.end)
        container, gateway = self.container("other", "kernel"), self.container("other", "gateway")
        self.outside = dataclasses.replace(
            self.outside,
            other=gateway.attrs["NetworkSettings"]["Networks"]["bridge"]["IPAddress"],
            other_uid=int(container.attrs["Config"]["User"].partition(":")[0]),
            other_volume=container.attrs["Mounts"][0]["Name"],
            other_file=str(container.labels[owner.CONNECTION_FILE]),
        )
        self.guarded = self.started("guarded", with_workspace=True)
        held.callback(self.guarded.end)

    def control(self, settings: tuple[Setting, ...]) -> Probed:
        """Return our sandbox with these settings relaxed."""
        if settings not in self._controls:
            self._end_controls(KEPT - 1)
            name = f"control-{uuid.uuid4().hex[:8]}"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(starting, "documents", relaxed.documents(settings, self.outside, self._work))
                # which would see that it is not as sealed as it has to be
                patch.setattr(verification, "refuse", lambda *_: None)
                self._controls[settings] = self.started(name, with_workspace=True)
        return self._controls[settings]

    def container(self, name: str, role: str) -> Any:
        """Return a sandbox's container as the engine's own client sees it."""
        labels = [f"{owner.OWNER}={owner.current_owner()}", f"{owner.NAME}={name}", f"{owner.ROLE}={role}"]
        (found,) = self.engine.containers.list(all=True, filters={"label": labels})
        return found

    def started(
        self, name: str, *, image: str | None = None, limits: Mapping[str, Any] = LIMITS, with_workspace: bool = False
    ) -> Probed:
        """Start a sandbox through the launcher, as users get it."""
        repository, _, tag = (image or self._image).rpartition(":")
        content = {
            "images": [{"repository": repository, "tags": [tag]}],
            "default_image": f"{repository}:{tag}",
            "mounts": [{"source": self.outside.workspace, "mode": "ro"}],
            "max_running": KEPT + 3,
            "limits": limits,
        }
        policy = parse(json.dumps({"version": 1, "sandbox": content}), origin="the probes' policy")
        asked = SandboxRequest(name=name, workspace=Path(self.outside.workspace) if with_workspace else None)
        return Probed(self, launch(DockerLauncher.start, decide(policy, asked)))

    def _end_controls(self, kept: int) -> None:
        while len(self._controls) > kept:
            self._controls.pop(next(iter(self._controls))).end()


def _workspace(work: Path, held: ExitStack) -> Path:
    """Make a directory with a mount in it, and with a link to another directory."""
    workspace, secret = work / "workspace", work / "secret"
    for directory in (workspace, workspace / "below", secret):
        directory.mkdir()
        directory.chmod(0o777)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(workspace / "below")], check=True)
    held.callback(subprocess.run, ["umount", str(workspace / "below")], check=True)
    for directory in (workspace / "below", secret):
        (directory / "word").write_text("secret")
    (workspace / "link").symlink_to(secret)
    return workspace


def _outside(engine: docker.DockerClient, work: Path, workspace: Path, held: ExitStack) -> Outside:
    """Listen where code in a sandbox must not come to; what is not there yet is empty."""
    # an engine tells the address itself only once it was started again
    subnet = ipaddress.ip_network(engine.networks.get("bridge").attrs["IPAM"]["Config"][0]["Subnet"])
    host = str(next(subnet.hosts()))
    ports = []
    for address, kind in ((host, socket.SOCK_STREAM), (host, socket.SOCK_DGRAM), ("127.0.0.1", socket.SOCK_STREAM)):
        listener = held.enter_context(socket.socket(type=kind))
        listener.bind((address, 0))
        if kind == socket.SOCK_STREAM:
            listener.listen()
        ports.append(listener.getsockname()[1])
    tcp, udp, loopback = ports
    return Outside(
        host=host,
        tcp=tcp,
        udp=udp,
        loopback=loopback,
        other="",
        other_uid=0,
        other_volume="",
        other_file="",
        workspace=str(workspace),
        secret=str(work / "secret"),
    )


@pytest.fixture(scope="session")
def image() -> Iterator[str]:
    """Build what stands in images/, under a name of the tests' own."""
    tag = f"kernel-bridge/python:probed-{uuid.uuid4().hex[:8]}"
    yield anyio.run(partial(building.build, "python", building.How(print), tag=tag))
    with closing(docker.from_env(timeout=60)) as engine:
        engine.images.remove(tag, noprune=True)


@pytest.fixture(scope="module")
def lab(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with ExitStack() as held:
        yield Lab(image, tmp_path_factory.mktemp("probes"), held)
