"""The tool that reads on where `execute_code` stopped waiting."""

from __future__ import annotations

from typing import Annotated

from mcp.server.mcpserver import Context
from mcp.types import CallToolResult
from pydantic import Field

from bridge.tools import App, kernels_of, shown


async def get_execution(
    ctx: Context[App],
    execution: Annotated[int, Field(description="The number that execute_code returned.", ge=1)],
    kernel: Annotated[
        str | None, Field(description="The kernel's name; needed only where several are connected.")
    ] = None,
    wait: Annotated[float, Field(description="Seconds to wait for its end.")] = 0.0,
) -> CallToolResult:
    """Read the output of a cell that went on after execute_code returned, and learn whether it has ended.

    Returns all that is kept of it: the last ten executions of each connection, a few megabytes each.
    """
    app = ctx.request_context.lifespan_context
    seconds = app.timeout(wait)
    return await shown(app, await kernels_of(ctx).read(execution, name=kernel, wait=seconds))
