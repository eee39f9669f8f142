"""What the tests of deaths have in common: how a call that is under way is told of one, and what must work after it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
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
