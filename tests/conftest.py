"""What every test stands on: directories of its own, an owner of its own, and real kernels on request."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bridge.connection import ConnectionInfo, load
from bridge.errors import BadConnectionFile

# A kernel on a busy machine imports IPython for a while.
KERNEL_START = 60.0


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def _own_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests away from the person's kernels, sandboxes, policies and files; subprocesses inherit it."""
    world = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_RUNTIME_DIR", str(world / "runtime"))
        patch.setenv("IPYTHONDIR", str(world / "ipython"))
        patch.setenv("XDG_CONFIG_HOME", str(world / "config"))
        patch.setenv("KERNEL_BRIDGE_OWNER", f"test-{uuid.uuid4().hex[:8]}")
        patch.delenv("KERNEL_BRIDGE_POLICY", raising=False)
        # the debugger of a kernel on a Python with frozen modules writes a warning otherwise
        patch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
        (world / "runtime").mkdir(mode=0o700)
        yield


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Jupyter's runtime directory of this test alone, so that its kernels are the only ones there are."""
    directory = tmp_path / "runtime"
    directory.mkdir(mode=0o700)
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(directory))
    return directory


@dataclass(frozen=True)
class HostKernel:
    """A real ipykernel that the tests started, as a person would with `ipython kernel`."""

    file: Path
    process: subprocess.Popen[bytes]

    @property
    def info(self) -> ConnectionInfo:
        return load(self.file)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


@pytest.fixture
def start_host_kernel(runtime: Path) -> Iterator[Callable[..., HostKernel]]:
    """Start host kernels that end with the test."""
    started: list[HostKernel] = []

    def start(name: str = "kernel-test", *arguments: str) -> HostKernel:
        file = runtime / f"{name}.json"
        started.append(_spawned(file, "-m", "ipykernel_launcher", "-f", str(file), *arguments))
        _wait_for_file(started[-1])
        return started[-1]

    yield start
    for each in started:
        each.kill()


@pytest.fixture
def host_kernel(start_host_kernel: Callable[..., HostKernel]) -> HostKernel:
    return start_host_kernel()


@pytest.fixture
def start_rogue_kernel(runtime: Path) -> Iterator[Callable[..., HostKernel]]:
    """Start what only pretends to be a kernel, see `rogue_kernel.py`; it ends with the test."""
    started: list[HostKernel] = []

    def start(*arguments: str) -> HostKernel:
        file = runtime / "kernel-rogue.json"
        started.append(_spawned(file, str(Path(__file__).with_name("rogue_kernel.py")), str(file), *arguments))
        _wait_for_file(started[-1])
        return started[-1]

    yield start
    for each in started:
        each.kill()


def _spawned(file: Path, *arguments: str) -> HostKernel:
    with file.with_suffix(".log").open("wb") as log:
        command = [sys.executable, *arguments]
        return HostKernel(file, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))


def _wait_for_file(kernel: HostKernel) -> None:
    """Wait, bounded, until the kernel has written its file; it makes no other sign before it listens."""
    pause = os.times().elapsed + KERNEL_START
    while os.times().elapsed < pause:
        try:
            load(kernel.file)
        except BadConnectionFile:
            try:
                kernel.process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError(
                f"the kernel ended at its start: {kernel.file.with_suffix('.log').read_text()}"
            ) from None
        else:
            return
    raise AssertionError("the kernel wrote no connection file in time")
