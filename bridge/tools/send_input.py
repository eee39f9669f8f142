"""The tool that answers what a cell asks."""

from __future__ import annotations

from typing import Annotated

from mcp.server.mcpserver import Context
from mcp.types import CallToolResult
from pydantic import Field

from bridge.tools import App, connected_kernels, shown, telling


async def send_input(
    ctx: Context[App],
    text: Annotated[str, Field(description="The answer: one line, without its end.")],
    execution: Annotated[int | None, Field(description="Which one; the one that asks if left out.", ge=1)] = None,
    kernel: Annotated[
        str | None, Field(description="The kernel's name; needed only where several are connected.")
    ] = None,
    timeout: Annotated[float | None, Field(description="Seconds to wait for the end or the next question.")] = None,
) -> CallToolResult:
    """Answer what your cell asks with input() or a debugger's prompt, after a result said "Waiting for input".

    Returns all output of the cell, and its next question if there is one. Passwords are never asked this way. While it
    asks, the kernel stands still for the user too; if you have no answer, ask them, or interrupt_kernel.
    """
    app = ctx.request_context.lifespan_context
    seconds = app.timeout(timeout)
    async with telling(ctx) as progress:
        kernels = await connected_kernels(ctx, kernel)
        outcome = await kernels.answer(text, execution, name=kernel, wait=seconds, on_message=progress.see)
    return await shown(app, outcome)
