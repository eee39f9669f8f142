"""The tool that runs a cell."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated

import mcp.types as T  # noqa: N812 - the SDK's own examples name it so
from mcp.server.mcpserver import Context
from pydantic import Field

from bridge.tools import App, kernels_of, shown

# Hosts give up on a call that is silent; the usual limit is a minute.
HEARTBEAT = 5.0


async def execute_code(
    ctx: Context[App],
    code: Annotated[
        str, Field(description="Python (IPython) code: a cell, with magics, `!shell` and top-level await.")
    ],
    kernel: Annotated[
        str | None, Field(description="The kernel's name; needed only where several are connected.")
    ] = None,
    timeout: Annotated[
        float | None, Field(description="Seconds to wait for the end; the cell itself goes on after them.")
    ] = None,
) -> T.CallToolResult:
    """Run code in the connected kernel, which the user shares: variables stay, and both of you see them.

    Returns what the cell printed, its value, plots as images, or its traceback. Code is never run in front of the
    user's: while their cell runs yours waits, and if it does not get its turn within `timeout` nothing is executed.
    After `timeout` the cell goes on and you get its output so far and an execution number for get_execution.
    """
    app = ctx.request_context.lifespan_context
    seconds = app.timeout(timeout)
    async with _heartbeat(ctx):
        outcome = await kernels_of(ctx).execute(code, name=kernel, timeout=seconds)
    return await shown(app, outcome)


@contextlib.asynccontextmanager
async def _heartbeat(ctx: Context[App]) -> AsyncIterator[None]:
    async def beat() -> None:
        seconds = 0.0
        while True:
            await asyncio.sleep(HEARTBEAT)
            seconds += HEARTBEAT
            await ctx.report_progress(seconds, None, f"running for {seconds:g} s")

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
