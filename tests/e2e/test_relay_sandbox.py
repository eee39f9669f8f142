"""An IDE that starts its kernels from a kernelspec, on sandboxes: shared ones, and ones that it owns."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.connect import write_connection_file
from jupyter_client.manager import KernelManager
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from bridge.launchers.docker.owner import current_owner
from tests.programs import piped

SOON = 60.0
START_IDE = Callable[..., "Ide"]


class Ide:
    """What an IDE does with a kernel that it believes its own."""

    def __init__(self, manager: KernelManager) -> None:
        self.manager = manager
        self.client: BlockingKernelClient = manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=SOON)

    def run(self, code: str) -> str:
        """Run a cell; return what it printed, its result and its error."""
        told: list[str] = []

        def show(message: dict[str, Any]) -> None:
            content = message["content"]
            told.append(content.get("text") or content.get("data", {}).get("text/plain") or content.get("evalue") or "")

        self.client.execute_interactive(code, timeout=SOON, output_hook=show)
        return "".join(told)

    def until_told(self, what: str) -> None:
        """Wait for a message on iopub that holds these words."""
        deadline = time.monotonic() + SOON
        while what not in json.dumps(self.client.get_iopub_msg(timeout=SOON)["content"]):
            assert time.monotonic() < deadline, f"not told: {what}"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The relay, as the IDE knows it."""
        assert isinstance(self.manager.provisioner, LocalProvisioner)
        assert isinstance(self.manager.provisioner.process, subprocess.Popen)
        return self.manager.provisioner.process

    def until_dead(self) -> int:
        return self.process.wait(SOON)

    def leave(self) -> None:
        self.client.stop_channels()


@pytest.fixture
def start_ide(runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[START_IDE]:
    """Write a kernelspec for the relay with these arguments, and start a kernel from it."""
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    started: list[Ide] = []
    managers: list[KernelManager] = []

    def start(*arguments: str) -> Ide:
        spec = tmp_path / "kernels" / f"relay-{len(managers)}"
        spec.mkdir(parents=True)
        argv = [sys.executable, "-m", "bridge", "relay", *arguments, "{connection_file}"]
        about = {"argv": argv, "display_name": "Shared", "language": "python", "interrupt_mode": "message"}
        (spec / "kernel.json").write_text(json.dumps(about))
        managers.append(KernelManager(kernel_name=spec.name))
        managers[-1].start_kernel()
        started.append(Ide(managers[-1]))
        return started[-1]

    yield start
    for ide in started:
        ide.leave()
    for manager in managers:
        if manager.has_kernel:
            manager.shutdown_kernel()


def containers(name: str) -> list[Any]:
    client = docker.from_env(timeout=30)
    labels = [f"io.kernel-bridge.owner={current_owner(os.environ)}", f"io.kernel-bridge.name={name}"]
    found: list[Any] = client.containers.list(filters={"label": labels})
    client.close()
    return found


def test_an_ide_joins_a_sandbox_and_its_restart_and_shutdown_leave_it_to_the_others(
    command: Any, shell_sandbox: str, start_ide: START_IDE
) -> None:
    assert command("run", shell_sandbox, "-c", "x = 41").returncode == 0
    ide = start_ide("--kernel", shell_sandbox)
    assert ide.run("x + 1") == "42"
    assert ide.run("y = 'the person'") == ""
    assert command("run", shell_sandbox, "-c", "print(y)").stdout == "the person\n"
    ide.manager.restart_kernel()
    ide.client.wait_for_ready(timeout=SOON)
    told = ide.run("x")
    assert "a restart from here left it as it is, with all its variables" in told
    assert f"kernel-bridge restart {shell_sandbox}" in told
    assert told.endswith("41")
    ide.manager.shutdown_kernel()
    assert command("run", shell_sandbox, "-c", "print(x)").stdout == "41\n"


def test_a_restart_of_the_sandbox_is_told_in_the_ide_and_its_next_cell_says_so(
    command: Any, shell_sandbox: str, start_ide: START_IDE
) -> None:
    ide = start_ide("--kernel", shell_sandbox)
    assert ide.run("x = 41; x") == "41"
    ide.client.execute("import time; time.sleep(600)")
    ide.until_told("time.sleep(600)")
    assert command("restart", shell_sandbox).returncode == 0
    ide.until_told("KernelRestarted")
    ide.until_told("restarting")
    told = ide.run("'x' in globals()")
    assert "variables are lost" in told
    assert told.endswith("False")


def test_a_sandbox_that_is_stopped_ends_the_ides_kernel_with_the_reason(
    command: Any, shell_sandbox: str, start_ide: START_IDE
) -> None:
    ide = start_ide("--kernel", shell_sandbox)
    ide.client.execute("import time; time.sleep(600)")
    ide.until_told("time.sleep(600)")
    assert command("stop", shell_sandbox).returncode == 0
    ide.until_told(f"Sandbox {shell_sandbox} was stopped; all its variables are lost.")
    assert ide.until_dead() == 4


def test_a_gateway_that_is_killed_comes_back_under_the_ide(
    command: Any, shell_sandbox: str, start_ide: START_IDE
) -> None:
    ide = start_ide("--kernel", shell_sandbox)
    assert ide.run("x = 41") == ""
    gateway = next(each for each in containers(shell_sandbox) if each.labels["io.kernel-bridge.role"] == "gateway")
    gateway.kill()
    # the first one may have been on its way when the gateway ended; then it is answered with that
    told = ide.run("x") + ide.run("x")
    assert "The connection to shell was lost and is there again" in told
    assert told.endswith("41")


def test_an_owned_sandbox_is_started_restarted_and_ended_with_its_ide(command: Any, start_ide: START_IDE) -> None:
    ide = start_ide("--kernel", "mine", "--owner", "--memory", "512MiB")
    assert ide.run("x = 41; x") == "41"
    assert json.loads(command("status", "mine", "--json").stdout)["sandbox"]["name"] == "mine"
    ide.manager.restart_kernel()
    ide.client.wait_for_ready(timeout=SOON)
    assert ide.run("'x' in globals()") == "False"
    ide.manager.shutdown_kernel()
    assert not containers("mine")


def test_each_kernel_without_a_name_is_a_sandbox_of_its_own_that_ends_with_its_ide(
    command: Any, start_ide: START_IDE
) -> None:
    first, second = start_ide(), start_ide()
    assert first.run("x = 1") == ""
    assert second.run("'x' in globals()") == "False"
    names = [
        each["name"] for each in json.loads(command("ls", "--json").stdout)["kernels"] if each["kind"] == "sandbox"
    ]
    assert len(names) == 2
    first.process.send_signal(signal.SIGTERM)
    assert first.until_dead() == 0
    second.manager.shutdown_kernel()
    assert not any(containers(each) for each in names)


def test_a_restart_of_a_kernel_without_a_name_leaves_one_sandbox_and_a_shutdown_none(
    command: Any, start_ide: START_IDE
) -> None:
    ide = start_ide()
    assert ide.run("x = 41; x") == "41"
    ide.manager.restart_kernel()
    ide.client.wait_for_ready(timeout=SOON)
    assert ide.run("'x' in globals()") == "False"
    [name] = [
        each["name"] for each in json.loads(command("ls", "--json").stdout)["kernels"] if each["kind"] == "sandbox"
    ]
    ide.manager.shutdown_kernel()
    assert not containers(name)


def test_a_relay_that_is_killed_while_its_sandbox_starts_leaves_none(runtime: Path, tmp_path: Path) -> None:
    file = tmp_path / "ide.json"
    write_connection_file(str(file), key=b"k" * 32, kernel_name="x")
    command = [sys.executable, "-m", "bridge", "relay", "--kernel", "mine", "--owner", str(file)]
    with subprocess.Popen(command) as relay:
        deadline = time.monotonic() + SOON
        while not containers("mine"):
            assert time.monotonic() < deadline
        relay.kill()
    until_gone("mine")


@pytest.mark.parametrize("killed", ["the IDE", "the relay"])
def test_an_owned_sandbox_does_not_outlive_an_ide_or_a_relay_that_is_killed(
    runtime: Path, tmp_path: Path, killed: str
) -> None:
    file = tmp_path / "ide.json"
    write_connection_file(str(file), key=b"k" * 32, kernel_name="x")
    script = (
        "import subprocess, sys, time;"
        "owner = [sys.executable, '-m', 'bridge', 'relay', '--kernel', 'mine', '--owner', sys.argv[1]];"
        "relay = subprocess.Popen(owner);"
        "print(relay.pid, flush=True); relay.wait(); time.sleep(600)"
    )
    with piped([sys.executable, "-c", script, str(file)], stdout=subprocess.PIPE) as ide:
        try:
            assert ide.stdout
            relay = int(ide.stdout.readline())
            until_it_listens(file)
            client = BlockingKernelClient(connection_file=str(file))
            client.load_connection_file()
            client.start_channels()
            client.wait_for_ready(timeout=SOON)
            client.stop_channels()
            os.kill(ide.pid if killed == "the IDE" else relay, signal.SIGKILL)
            until_gone("mine")
        finally:
            ide.kill()


def test_the_next_owner_of_a_name_waits_until_the_sandbox_of_a_killed_one_is_gone(start_ide: START_IDE) -> None:
    ide = start_ide("--kernel", "mine", "--owner")
    assert ide.run("x = 41; x") == "41"
    ide.manager.restart_kernel(now=True)
    ide.client.wait_for_ready(timeout=SOON)
    assert ide.run("'x' in globals()") == "False"


def until_gone(name: str) -> None:
    """Wait, bounded, until no container of a sandbox is left."""
    deadline = time.monotonic() + SOON
    while found := containers(name):
        assert time.monotonic() < deadline
        for each in found:
            with contextlib.suppress(docker.errors.NotFound):
                each.wait(timeout=SOON)


def until_it_listens(file: Path) -> None:
    """Wait until a relay has bound the port that an IDE has chosen."""
    deadline = time.monotonic() + SOON
    while True:
        try:
            socket.create_connection(("127.0.0.1", json.loads(file.read_text())["shell_port"]), timeout=1).close()
        except (OSError, LookupError, ValueError):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--kernel", "nobody"), "No kernel is called 'nobody'"),
        (("--kernel", "mine", "--owner", "--image", "evil/image"), "evil/image"),
    ],
)
def test_a_relay_that_cannot_begin_says_why_and_ends(
    runtime: Path, tmp_path: Path, arguments: tuple[str, ...], told: str, command: Any
) -> None:
    manager = KernelManager(connection_file=str(tmp_path / "ide.json"))
    manager.write_connection_file()
    ended = command("relay", *arguments, str(tmp_path / "ide.json"))
    assert ended.returncode in (2, 3)
    assert told in ended.stderr
    assert not containers("mine")
