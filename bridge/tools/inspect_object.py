"""The tool that looks at one object."""

from __future__ import annotations

from typing import Annotated

from mcp.server.mcpserver import Context
from pydantic import Field

from bridge.looking import Inspection
from bridge.tools import App, connected_kernels


async def inspect_object(
    ctx: Context[App],
    name: Annotated[str, Field(description="A variable, or a way from one: `np.linalg.norm`, `obj.attr`, `d['key']`.")],
    kernel: Annotated[
        str | None, Field(description="The kernel's name; needed only where several are connected.")
    ] = None,
    start: Annotated[int, Field(description="Source lines, members or rows to leave out: to read on.", ge=0)] = 0,
) -> Inspection:
    """Look at one object: signature, documentation and source; members; rows and numbers of a dataframe or array.

    Use it before you call what you do not know. As list_variables, it works while a long cell runs and runs no code of
    the user's: properties are told, not read. `total` above what is shown: read on with `start`.
    """
    kernels = await connected_kernels(ctx, kernel)
    return await kernels.inspection(name, kernel, start=start)
