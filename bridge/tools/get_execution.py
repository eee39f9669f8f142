"""The tool that reads on where `execute_code` stopped waiting."""

from __future__ import annotations

from typing import Annotated

from mcp.server.mcpserver import Context
from mcp.types import CallToolResult, InputRequiredResult
from pydantic import Field

from bridge.elicitation import ask_user, resumed
from bridge.tools import App, connected_kernels, shown_or_asked, telling


async def get_execution(
    ctx: Context[App],
    execution: Annotated[int, Field(description="The number that execute_code returned.", ge=1)],
    kernel: Annotated[
        str | None, Field(description="The kernel's name; needed only where several are connected.")
    ] = None,
    wait: Annotated[float, Field(description="Seconds to wait for its end.")] = 0.0,
    cursor: Annotated[
        int | None, Field(description="Where to read on, as a result names it; 0 is the start.", ge=0)
    ] = None,
) -> CallToolResult | InputRequiredResult:
    """Read the output of a cell that went on after execute_code returned, or that was too long for one result.

    Without cursor you get the head and tail of its output and learn whether it has ended; with it one page of all its
    output from there on, and where the next one begins.
    """
    seconds, kernels = ctx.request_context.lifespan_context.wait(wait), await connected_kernels(ctx, kernel)
    async with telling(ctx) as progress:
        outcome = await resumed(ctx, kernels, wait=seconds, on_message=progress.see) or await kernels.read(
            execution, name=kernel, wait=seconds, cursor=cursor, on_message=progress.see, ask=ask_user(ctx)
        )
    return await shown_or_asked(ctx, outcome)
