"""Kernelspecs with our provisioner, and a KernelManager's kernel as its user sees it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from bridge.launchers.docker import DockerLauncher

# The bound of every wait; a machine under load takes a tenth of it.
SOON = 60.0
POLICY = """\
version: 1
sandbox:
  images: [{repository: kernel-bridge/python, tags: ["*"]}]
  default_image: kernel-bridge/python:3.13
  limits: {memory: 512MiB, cpus: 2, pids: 128, home: 64MiB, tmp: 32MiB, shm: 32MiB}
"""


def write_kernelspec(place: Path, name: str, **config: Any) -> str:
    """Write a kernelspec into a directory of JUPYTER_PATH; without our provisioner nothing could be started by it."""
    directory = place / "kernels" / name
    directory.mkdir(parents=True, exist_ok=True)
    content = {
        "argv": ["false", "{connection_file}"],
        "display_name": name,
        "language": "python",
        "interrupt_mode": "message",
        "metadata": {"kernel_provisioner": {"provisioner_name": "kernel-bridge", "config": config}},
    }
    (directory / "kernel.json").write_text(json.dumps(content))
    return name


def until(true: Callable[[], object], what: str, timeout: float = SOON) -> None:
    """Look again and again until something is true."""
    end = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < end, f"not within {timeout:g} s: {what}"
        time.sleep(0.02)


def containers() -> list[str]:
    """Return the names of the containers and volumes that this run's owner has in the engine."""
    ours: dict[str, str | list[str] | bool] = {"label": f"io.kernel-bridge.owner={DockerLauncher().owner}"}
    engine = docker.from_env(timeout=60)
    try:
        there: list[Any] = engine.containers.list(all=True, ignore_removed=True, filters=ours)
        return sorted(str(each.name) for each in (*there, *engine.volumes.list(filters=ours)))
    finally:
        engine.close()


class Started:
    """A kernel that a synchronous KernelManager has started, with a client."""

    def __init__(self, kernel_name: str, **launch: Any) -> None:
        self.manager = KernelManager(kernel_name=kernel_name)
        self.manager.start_kernel(**launch)
        self.client = self._connect()

    def _connect(self) -> BlockingKernelClient:
        client = self.manager.client()
        client.start_channels(hb=False)
        client.wait_for_ready(timeout=SOON)
        return client

    def run(self, code: str) -> str:
        """Run a cell and return what it printed, an exception's name and text included."""
        printed: list[str] = []

        def collect(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                printed.append(content["text"])
            elif message["msg_type"] == "error":
                printed.append(f"{content['ename']}: {content['evalue']}")

        self.client.execute_interactive(code, timeout=SOON, output_hook=collect, stop_on_error=False)
        return "".join(printed).strip()

    def begin(self, code: str) -> str:
        """Send a cell and return its id once its first line has run: before that IPython may drop an interrupt."""
        sent = self.client.execute(f"print('begun', flush=True)\n{code}", stop_on_error=False)
        end = time.monotonic() + SOON
        while time.monotonic() < end:
            message = self.client.get_iopub_msg(timeout=SOON)
            if message["parent_header"].get("msg_id") == sent and message["msg_type"] == "stream":
                return str(sent)
        raise TimeoutError(f"it did not begin: {code}")

    def reply(self, sent: str) -> dict[str, Any]:
        """Wait for the reply to what was begun."""
        end = time.monotonic() + SOON
        while time.monotonic() < end:
            message = self.client.get_shell_msg(timeout=SOON)
            if message["parent_header"].get("msg_id") == sent:
                return dict(message["content"])
        raise TimeoutError("no reply came")

    def restart(self, **how: Any) -> None:
        self.client.stop_channels()
        self.manager.restart_kernel(**how)
        self.client = self._connect()

    def shut_down(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel()
