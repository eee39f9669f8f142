"""The tool that interrupts our own cell."""

from __future__ import annotations

from typing import Annotated

from mcp.server.mcpserver import Context
from mcp.types import CallToolResult
from pydantic import Field

from bridge.tools import App, connected_kernels, shown


async def interrupt_kernel(
    ctx: Context[App],
    kernel: Annotated[
        str | None, Field(description="The kernel's name; needed only where several are connected.")
    ] = None,
) -> CallToolResult:
    """Interrupt the cell that you started and that still runs (KeyboardInterrupt); variables stay.

    Refused while the user's own cell runs: they decide about that. Returns the interrupted cell's output.
    """
    kernels = await connected_kernels(ctx, kernel)
    return await shown(ctx.request_context.lifespan_context, await kernels.interrupt(kernel))
