"""Relays where either side uses Unix sockets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import pytest

# the types of this folder's fixtures
Ide: TypeAlias = Any
Kernel: TypeAlias = Any


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose name leaves room for a socket's."""
    with TemporaryDirectory(prefix="kb-") as directory:
        yield Path(directory)


@pytest.fixture
def unix_kernel(start_kernel: Callable[..., Kernel], short: Path) -> Kernel:
    return start_kernel("--transport=ipc", f"--ip={short}/kernel")


def test_a_kernel_on_unix_sockets_keeps_them_whatever_the_ide_cleans_up(
    unix_kernel: Kernel, short: Path, start_ide: Callable[..., Ide]
) -> None:
    sockets = sorted(short.iterdir())
    assert len(sockets) == 5
    ide = start_ide(unix_kernel)
    client = ide.client()
    client.run("x = 5")
    ide.manager.restart_kernel()
    client = ide.client()
    assert client.value("x") == "5"
    ide.manager.shutdown_kernel()
    ide.manager.cleanup_resources()
    assert sorted(short.iterdir()) == sockets
    assert start_ide(unix_kernel).client().value("x") == "5"


def test_an_ide_that_chooses_unix_sockets_gets_them_and_none_is_left(
    unix_kernel: Kernel, short: Path, start_ide: Callable[..., Ide]
) -> None:
    kernels = set(short.iterdir())
    ide = start_ide(unix_kernel, transport="ipc", ip=str(short / "ide"))
    client = ide.client()
    own = set(short.iterdir()) - kernels
    assert len(own) == 5
    assert all(each.stat().st_mode & 0o077 == 0 for each in own)
    reply, output = client.run("print('by path')")
    assert (reply["status"], client.printed(output)) == ("ok", "by path\n")
    os.kill(ide.pid, signal.SIGTERM)
    assert ide.ended() == 0
    assert set(short.iterdir()) == kernels


def test_sockets_that_a_kernel_listens_on_are_not_taken_from_it(unix_kernel: Kernel, short: Path) -> None:
    sockets = sorted(short.iterdir())
    command = [sys.executable, "-m", "bridge", "relay", "--kernel", str(unix_kernel.file), str(unix_kernel.file)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 2
    assert "Another kernel listens on the sockets" in told.stderr
    assert sorted(short.iterdir()) == sockets
