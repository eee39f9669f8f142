"""What all measurements stand on: directories and an owner of their own, and kernels, ended with them.

The one rule: nothing of the person's is seen or touched, and nothing is left.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SOON = 120.0
BRIDGE = [sys.executable, "-m", "bridge"]


class World:
    """A directory, and the environment of every process that is started."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = os.environ | {
            "HOME": str(directory),
            "JUPYTER_RUNTIME_DIR": str(directory / "runtime"),
            "IPYTHONDIR": str(directory / "ipython"),
            "XDG_CONFIG_HOME": str(directory / "config"),
            "XDG_STATE_HOME": str(directory / "state"),
            "XDG_RUNTIME_DIR": str(directory / "run"),
            "KERNEL_BRIDGE_OWNER": f"bench-{uuid.uuid4().hex}",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }
        for name in ("runtime", "run", "logs"):
            (directory / name).mkdir(mode=0o700)

    def log(self, name: str) -> Path:
        """Return where a process writes what nobody reads unless it ends."""
        return self.directory / "logs" / f"{name}.log"

    def bridge(self, *arguments: str) -> str:
        """Run a command of ours and return what it printed."""
        done = subprocess.run(
            [*BRIDGE, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SOON,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"kernel-bridge {' '.join(arguments)}: {done.stderr}")
        return done.stdout.strip()

    @contextmanager
    def host_kernel(self, python: Path | str = sys.executable) -> Iterator[Path]:
        """Start a kernel on the host and yield its connection file."""
        file = self.directory / "runtime" / f"kernel-{uuid.uuid4()}.json"
        with self.log(file.stem).open("wb") as log:
            kernel = subprocess.Popen(
                [python, "-m", "ipykernel_launcher", "-f", file], env=self.environment, stdout=log, stderr=log
            )
        try:
            self.wait_for(lambda: file.exists() and file.stat().st_size > 0, kernel)
            yield file
        finally:
            self.end(kernel)
            file.unlink(missing_ok=True)

    @contextmanager
    def sandbox(self, name: str = "lab", *options: str) -> Iterator[Path]:
        """Start a sandbox and yield its connection file."""
        try:
            yield Path(self.bridge("up", name, *options))
        finally:
            with contextlib.suppress(RuntimeError):
                self.bridge("stop", name)

    def wait_for(self, there: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
        """Wait, bounded, for what a process makes."""
        end = time.monotonic() + SOON
        while not there():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
                raise RuntimeError(f"{process.args!r} has ended with {process.returncode}")
            if time.monotonic() > end:
                raise RuntimeError(f"{process.args!r} was not ready within {SOON:g} s")

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """End a process."""
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


@contextmanager
def world() -> Iterator[World]:
    """Make one; its name is short, for sockets' paths are."""
    with tempfile.TemporaryDirectory(prefix="kb-", dir="/tmp") as directory:
        yield World(Path(directory))
