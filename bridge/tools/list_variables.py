"""The tool that looks at the variables."""

from __future__ import annotations

from typing import Annotated

from mcp.server.mcpserver import Context
from pydantic import Field

from bridge.looking import Variables
from bridge.tools import App, connected_kernels


async def list_variables(
    ctx: Context[App],
    kernel: Annotated[
        str | None, Field(description="The kernel's name; needed only where several are connected.")
    ] = None,
    limit: Annotated[int, Field(description="How many at the most.", ge=1, le=1000)] = 100,
    start: Annotated[int, Field(description="How many to leave out, by name: to read on.", ge=0)] = 0,
) -> Variables:
    """List the variables that the user's and your code has made: name, type, shape or length, size, short value.

    Use it to see what there is before you write code. It also works while a long cell runs, leaves no trace in history,
    and calls no code of the user's; so of objects other than Python's, numpy's and pandas' own only the type is told.
    """
    kernels = await connected_kernels(ctx, kernel)
    return await kernels.variables(kernel, limit=limit, start=start)
