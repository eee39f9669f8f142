"""The tool that reads on where `execute_code` stopped waiting."""

from __future__ import annotations

from typing import Annotated

from mcp.server.mcpserver import Context
from mcp.types import CallToolResult, InputRequiredResult
from pydantic import Field

from bridge.elicitation import ask_user, resumed
from bridge.tools import App, kernels_of, shown_or_asked


async def get_execution(
    ctx: Context[App],
    execution: Annotated[int, Field(description="The number that execute_code returned.", ge=1)],
    kernel: Annotated[
        str | None, Field(description="The kernel's name; needed only where several are connected.")
    ] = None,
    wait: Annotated[float, Field(description="Seconds to wait for its end.")] = 0.0,
) -> CallToolResult | InputRequiredResult:
    """Read the output of a cell that went on after execute_code returned, and learn whether it has ended.

    Returns all that is kept of it: the last ten executions of each connection, a few megabytes each.
    """
    kernels, seconds = kernels_of(ctx), ctx.request_context.lifespan_context.timeout(wait)
    outcome = await resumed(ctx, kernels, wait=seconds) or await kernels.read(
        execution, name=kernel, wait=seconds, ask=ask_user(ctx)
    )
    return await shown_or_asked(ctx, outcome)
