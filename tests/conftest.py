"""What every test stands on: directories of its own, an owner of its own, and real kernels on request."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bridge.connection import ConnectionInfo, load
from bridge.errors import BadConnectionFile

# A kernel on a busy machine imports IPython for a while.
KERNEL_START = 60.0


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def _no_signal_is_ignored() -> None:
    """Have programs that are started here heed the signals that end them, also where `nohup` started the tests."""
    for each in (signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(each) is signal.SIG_IGN:
            signal.signal(each, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def _own_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests away from the person's kernels, sandboxes, policies and files; subprocesses inherit it."""
    world = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_RUNTIME_DIR", str(world / "runtime"))
        patch.setenv("IPYTHONDIR", str(world / "ipython"))
        patch.setenv("XDG_CONFIG_HOME", str(world / "config"))
        patch.setenv("XDG_STATE_HOME", str(world / "state"))
        patch.setenv("KERNEL_BRIDGE_OWNER", f"test-{uuid.uuid4().hex[:8]}")
        patch.delenv("KERNEL_BRIDGE_POLICY", raising=False)
        # the debugger of a kernel on a Python with frozen modules writes a warning otherwise
        patch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
        (world / "runtime").mkdir(mode=0o700)
        # short, for sockets' paths are; workers beside this one must not see theirs here
        with tempfile.TemporaryDirectory(prefix="kb-", dir="/tmp") as short:
            patch.setenv("XDG_RUNTIME_DIR", short)
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


@pytest.fixture(scope="session")
def notebook_of() -> Callable[[str], dict[str, Any]]:
    """Read a notebook and hold it against the rules of Jupyter's schema for format 4.5, which are written down here."""
    return _read_notebook


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(each, str) for each in value))


def _is_count(value: Any) -> bool:
    return value is None or (type(value) is int and value >= 0)


def _check_forms(data: dict[str, Any]) -> None:
    for form, content in data.items():
        assert re.fullmatch(r"application/(.*\+)?json", form) or _is_text(content), (form, content)


def _check_output(output: dict[str, Any]) -> None:
    kind = output.pop("output_type")
    if kind == "stream":
        assert set(output) == {"name", "text"}
        assert _is_text(output["text"])
    elif kind == "error":
        assert set(output) == {"ename", "evalue", "traceback"}
        assert isinstance(output["ename"] + output["evalue"], str)
        assert isinstance(output["traceback"], list)
        assert _is_text(output["traceback"])
    else:
        assert kind in ("display_data", "execute_result")
        count = {"execution_count"} if kind == "execute_result" else set()
        assert set(output) == {"data", "metadata"} | count
        assert _is_count(output.get("execution_count"))
        assert isinstance(output["metadata"], dict)
        _check_forms(output["data"])
    output["output_type"] = kind


def _check_cell(cell: dict[str, Any]) -> None:
    code = {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
    assert cell["cell_type"] in ("code", "markdown")
    assert set(cell) == {"cell_type", "id", "metadata", "source"} | code
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", cell["id"])
    assert _is_text(cell["source"])
    assert _is_count(cell.get("execution_count"))
    tags = cell["metadata"].get("tags", [])
    assert len(set(tags)) == len(tags)
    assert all(re.fullmatch("[^,]+", each) for each in tags)
    for output in cell.get("outputs", ()):
        _check_output(output)


def _no_number(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def _read_notebook(text: str) -> dict[str, Any]:
    text.encode()  # no lone surrogate
    found = json.loads(text, parse_constant=_no_number)
    assert "\\ud8" not in text.lower()
    assert set(found) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert (found["nbformat"], found["nbformat_minor"]) == (4, 5)
    for name, required in (("kernelspec", ("name", "display_name")), ("language_info", ("name",))):
        about = found["metadata"].get(name)
        assert about is None or all(isinstance(about[each], str) for each in required)
    for cell in found["cells"]:
        _check_cell(cell)
    ids = [cell["id"] for cell in found["cells"]]
    assert len(set(ids)) == len(ids)
    return dict(found)
