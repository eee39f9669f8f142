"""What the tests of deaths have in common: how a call that is under way is told of one, and what must work after it."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import docker

from bridge.launchers.docker.owner import current_owner

# Far more than it takes on a busy machine: only a hang fails it.
SOON = 40.0
# What is told at once is told within this, also on a busy machine.
AT_ONCE = 5.0


async def status(agent: Any) -> dict[str, Any]:
    """Return what kernel_status tells of the only kernel."""
    [only] = (await agent.client.call_tool("kernel_status", {})).structured_content["result"]
    return dict(only)


async def why_lost(agent: Any) -> str:
    """Return why the connection to the only kernel was lost, once that is known."""
    while not (reason := (await status(agent))["reason"]):
        await asyncio.sleep(0.02)
    return str(reason)


async def listed(agent: Any) -> list[dict[str, Any]]:
    """Return what list_kernels tells."""
    return list((await agent.client.call_tool("list_kernels", {})).structured_content["kernels"])


async def begun(agent: Any, code: str, **arguments: Any) -> asyncio.Task[Any]:
    """Run a cell and return the call once it has printed something, or has ended."""
    printed = asyncio.Event()

    async def tell(_: float, __: float | None, line: str | None) -> None:
        if line and "begun" in line:
            printed.set()

    asked = {"code": f"print('begun', flush=True)\n{code}", **arguments}
    call = asyncio.create_task(agent.client.call_tool("execute_code", asked, progress_callback=tell))
    seen = asyncio.create_task(printed.wait())
    await asyncio.wait({seen, call}, timeout=SOON, return_when=asyncio.FIRST_COMPLETED)
    assert seen.done() or call.done()
    seen.cancel()
    return call


async def told(agent: Any, call: asyncio.Task[Any]) -> str:
    """Return what a call says that must fail, and at once."""
    before = time.monotonic()
    result = await call
    assert time.monotonic() - before < AT_ONCE
    text = str(agent.text(result))
    assert result.is_error, text
    return text


def elsewhere(file: Path, code: str) -> str:
    """Run code through Jupyter's own client, which knows nothing of us but the connection file."""
    command = [sys.executable, "-m", "jupyter_client.runapp", "--existing", str(file)]
    return subprocess.run(command, input=code, capture_output=True, text=True, timeout=SOON, check=True).stdout


def peak_memory() -> int:
    """Bytes that the server which the test has started had at the most, as the operating system counted them."""
    children = (pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split())
    (server,) = [each for each in children if b"serve" in Path(f"/proc/{each}/cmdline").read_bytes()]
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{server}/status").read_text())[0]) * 1024


class WayToEngine:
    """A socket of the test's own that leads to the machine's engine as long as it is not cut off."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self._ends: set[asyncio.StreamWriter] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.socket)

    async def cut(self) -> None:
        self._server.close()
        self.socket.unlink(missing_ok=True)
        for each in self._ends:
            each.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection("/var/run/docker.sock")
        self._ends |= {writer, back}
        await asyncio.gather(self._pass_on(reader, back), self._pass_on(there, writer))

    @staticmethod
    async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()


@contextmanager
def container(name: str, role: str = "kernel") -> Iterator[Any]:
    """Find a container of a sandbox's."""
    labels = [
        f"io.kernel-bridge.owner={current_owner(os.environ)}",
        f"io.kernel-bridge.name={name}",
        f"io.kernel-bridge.role={role}",
    ]
    with closing(docker.from_env(timeout=30)) as client:
        [found] = client.containers.list(filters={"label": labels})
        yield found
