"""Engines of the tests' own, for what the machine's own must not be asked: other options, and every kind of end.

Each has a network, mounts and processes of its own, so that neither its firewall rules nor its files nor a container of
it are ever the machine's, and all of it ends with its first process. Commands are run in its network.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import docker

from bridge.launchers.docker.places import listens

SOON = 30.0

# PID 1 of the engine's own name spaces, which outlives the engine: Python, because a bare machine has no `ip` command.
FIRST_PROCESS = """
import fcntl, os, signal, socket, struct, subprocess, sys
data, size = sys.argv[1:]
def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)
mount("-t", "tmpfs", "tmpfs", "/run")  # sockets and state of the machine's own engine are not seen
for name in ("data", "etc", "work"):
    os.mkdir("/run/" + name)
if size:
    mount("-t", "tmpfs", "-o", "size=" + size, "tmpfs", "/run/data")
else:
    mount("--bind", data, "/run/data")
mount("-t", "overlay", "overlay", "-o", "lowerdir=/etc,upperdir=/run/etc,workdir=/run/work", "/etc")  # it adds a user
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 0x41))  # SIOCSIFFLAGS: up and running
print("ready", flush=True)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the operating system reaps what containers leave behind
while True:
    signal.pause()
"""


class OtherEngine:
    """An engine in name spaces of its own; `address` is its socket, as in DOCKER_HOST."""

    def __init__(self, directory: Path, pid: int, options: tuple[str, ...]) -> None:
        self.pid = pid
        """Of the first process in its name spaces."""
        self.socket = directory / "engine.sock"
        self.address = f"unix://{self.socket}"
        self._log = directory / "log"
        self._options = options
        self._engine: subprocess.Popen[bytes] | None = None

    @property
    def runs(self) -> bool:
        """Whether its process was started and not ended."""
        return self._engine is not None

    def entering(self, *spaces: str) -> list[str]:
        """Return how a command begins that is to run in some of its name spaces."""
        return ["nsenter", f"--target={self.pid}", *(f"--{each}" for each in spaces)]

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of ours that uses this engine, in its network."""
        bridge = [sys.executable, "-m", "bridge", *arguments, "--engine", self.address]
        return subprocess.run(
            [*self.entering("net"), *bridge], capture_output=True, text=True, timeout=2 * SOON, check=False
        )

    @contextlib.contextmanager
    def asked(self) -> Iterator[docker.DockerClient]:
        """Ask it by its own client."""
        with contextlib.closing(docker.DockerClient(self.address, timeout=60)) as client:
            yield client

    def start(self, *more: str, **environment: str) -> None:
        """Start the engine's process and wait until it listens; `more` are options for this time.

        Of our environment it has the way to its programs alone, as from a service manager: it outlives the test that
        starts it, and its shim would go on to put each exec's files into that test's XDG_RUNTIME_DIR.
        """
        data = ["--data-root=/run/data", f"--host={self.address}"]
        # a killed one leaves its own, and the number in it may be another process's by now
        Path(f"/proc/{self.pid}/root/run/docker.pid").unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self._engine = subprocess.Popen(
                [*self.entering("mount", "net", "pid"), "dockerd", *data, *self._options, *more],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={"PATH": os.environ["PATH"], **environment},
            )
        end = time.monotonic() + SOON
        while not listens(self.socket):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._engine.wait(0.1)
            if self._engine.returncode is not None or time.monotonic() > end:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._engine.pid, signal.SIGKILL)
                self._engine.wait(SOON)
                self._engine = None  # whoever is next may start it
                raise AssertionError(f"the engine has ended or does not listen: {self._log.read_text()[-2000:]}")

    def send(self, number: int) -> None:
        """Send the engine's own process a signal."""
        os.kill(self._process(), number)
        if number == signal.SIGCONT:
            assert self._engine is not None
            self._engine.send_signal(number)  # nsenter has stopped itself with what it started

    def end(self, number: int = signal.SIGTERM) -> None:
        """End the engine's process by a signal and wait until it is gone; containers may live on."""
        assert self._engine is not None
        self.send(number)
        self._engine.wait(SOON)
        self._engine = None
        # its containerd goes with it, where it is killed a moment later: the next engine would take that for its own
        root, end = Path(f"/proc/{self.pid}/root"), time.monotonic() + SOON
        with contextlib.suppress(FileNotFoundError):
            containerd = (root / "run/docker/containerd/containerd.pid").read_text().strip()
            while (root / "proc" / containerd / "exe").is_symlink():
                assert time.monotonic() < end, "the engine's containerd does not end"
                time.sleep(0.05)

    def _process(self) -> int:
        assert self._engine is not None
        children = Path(f"/proc/{self._engine.pid}/task/{self._engine.pid}/children").read_text()
        return int(children)


@contextlib.contextmanager
def other_engine(directory: Path, *options: str, size: str = "") -> Iterator[OtherEngine]:
    """Start an engine and end it, with all that it started; with a `size` its disk is a tmpfs of that."""
    (directory / "data").mkdir()
    name_spaces = ["--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]
    first = [sys.executable, "-I", "-c", FIRST_PROCESS, str(directory / "data"), size]
    outer = subprocess.Popen(
        ["unshare", *name_spaces, *first],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert outer.stdout is not None
        assert outer.stdout.readline() == b"ready\n"
        pid = int(Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text())
        engine = OtherEngine(directory, pid, options)
        engine.start()
        yield engine
        if engine.runs:
            engine.end()
    finally:
        outer.kill()  # takes everything in its process name space with it
        outer.communicate()
        shutil.rmtree(directory / "data")


def load_image(engine: OtherEngine, tag: str) -> None:
    """Give an engine an image that the machine's own has."""
    with contextlib.closing(docker.from_env(timeout=60)) as here, engine.asked() as there:
        there.images.load(b"".join(here.images.get(tag).save(named=True)))
