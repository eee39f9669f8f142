"""The repository's compose.yaml as a project of its own: a directory, ports that are free, and what is run in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from bridge.launchers.docker.bases import DEBIAN_BASE
from bridge.launchers.docker.build import named_bundle

ROOT = Path(__file__).parents[1]
# Images are built from what the layers' cache has, or from nothing on a new machine.
BUILD = 600.0
# Containers and their health checks on a busy machine.
SOON = 120.0
PORTS = ("SHELL", "IOPUB", "STDIN", "CONTROL", "HEARTBEAT")


class Project:
    """One compose project."""

    def __init__(self, directory: Path, name: str, *, file: str | None = None) -> None:
        """Make one of the repository's own file, or of another one."""
        self.directory, self.name = directory, name
        directory.mkdir()
        if file is None:
            shutil.copy(ROOT / "compose.yaml", directory)
        else:
            (directory / "compose.yaml").write_text(file)
        self.settings = {"KERNEL_NAME": name, "KERNEL_BRIDGE": str(ROOT)} | _free_ports()
        self.write_settings()

    def write_settings(self, **changed: str) -> None:
        """Write `.env` as a person would who changes some lines of the repository's."""
        self.settings |= changed
        text = (ROOT / ".env").read_text()
        for key, value in self.settings.items():
            text, found = re.subn(rf"^{key}=.*$", f"{key}={value}", text, flags=re.MULTILINE)
            assert found == 1, key
        (self.directory / ".env").write_text(text)

    @property
    def connection_file(self) -> Path:
        return self.directory / ".kernel-bridge" / f"kernel-bridge-{self.name}.json"

    @property
    def token(self) -> str:
        return (self.directory / ".kernel-bridge" / "token").read_text()

    @property
    def mcp(self) -> str:
        return f"http://127.0.0.1:{self.settings['MCP_PORT']}/mcp"

    def compose(self, *arguments: str, check: bool = True, timeout: float = SOON) -> subprocess.CompletedProcess[str]:
        """Run `docker compose` in the project's directory."""
        done = subprocess.run(
            ["docker", "compose", "--ansi=never", "--progress=plain", *arguments],
            cwd=self.directory,
            env=_environment() | how_to_build(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def up(self, *services: str) -> None:
        self.compose("up", "--detach", "--wait", *services)

    def down(self) -> None:
        self.compose("--profile=lab", "down", "--volumes")

    def inspect(self, service: str) -> dict[str, Any]:
        """Return what the engine tells of a service's container."""
        (container,) = self.compose("ps", "--all", "--quiet", service).stdout.split()
        done = subprocess.run(["docker", "inspect", container], capture_output=True, check=True, timeout=SOON)
        return dict(json.loads(done.stdout)[0])

    def execute(self, service: str, *command: str) -> int:
        """Run a command in a service's container; returns its exit status."""
        return self.compose("exec", "--no-TTY", service, *command, check=False).returncode

    def containers(self) -> list[str]:
        return self.compose("ps", "--all", "--quiet").stdout.split()


@contextmanager
def project(directory: Path, name: str, **more: Any) -> Iterator[Project]:
    """Make a project; nothing of it is left after the block."""
    made = Project(directory, name, **more)
    try:
        yield made
    finally:
        made.down()


@cache
def build_images() -> None:
    """Build the images from the sources as they are now: `up` alone takes what is there."""
    done = subprocess.run(
        ["docker", "compose", "build"],
        cwd=ROOT,
        env=_environment() | how_to_build(),
        capture_output=True,
        text=True,
        timeout=BUILD,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def how_to_build() -> dict[str, str]:
    """Return what this machine needs for a build, as its user would write it into `.env` or the shell."""
    bundle = named_bundle(os.environ)
    images = subprocess.run(
        ["docker", "image", "ls", "--format={{.Repository}}:{{.Tag}}"], capture_output=True, text=True, check=True
    ).stdout.split()
    return {
        **({"KERNEL_BRIDGE_CA_BUNDLE": str(bundle)} if bundle else {}),
        **({"KERNEL_BRIDGE_BASE": DEBIAN_BASE} if DEBIAN_BASE in images else {}),
    }


def _environment() -> dict[str, str]:
    """Return this process's environment without what would take the place of a line in `.env`."""
    names = {line.partition("=")[0] for line in (ROOT / ".env").read_text().splitlines() if "=" in line}
    return {name: value for name, value in os.environ.items() if name not in names}


def _free_ports() -> dict[str, str]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(7)]
        free = [str(each.getsockname()[1]) for each in sockets]
    names = [*(f"KERNEL_{each}_PORT" for each in PORTS), "MCP_PORT", "LAB_PORT"]
    return dict(zip(names, free, strict=True))
