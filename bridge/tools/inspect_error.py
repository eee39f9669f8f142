"""The tool that looks at the last exception."""

from __future__ import annotations

from typing import Annotated

from mcp.server.mcpserver import Context
from pydantic import Field

from bridge.looking import Raised
from bridge.tools import App, connected_kernels


async def inspect_error(
    ctx: Context[App],
    kernel: Annotated[
        str | None, Field(description="The kernel's name; needed only where several are connected.")
    ] = None,
    frame: Annotated[
        int | None,
        Field(description="Whose variables: a frame's number, -1 the innermost. Left out: the innermost user code."),
    ] = None,
) -> Raised:
    """Look at the last exception that anyone's cell raised: message, causes, frames with source, one frame's variables.

    Use it after a traceback, the user's too, instead of running the cell again. It works while another cell runs and
    runs no code of the user's. `cells_since` says how old it is.
    """
    kernels = await connected_kernels(ctx, kernel)
    return await kernels.last_error(kernel, frame=frame)
