"""The tool that joins a kernel that already runs."""

from __future__ import annotations

from typing import Annotated

from mcp.server.mcpserver import Context
from pydantic import Field

from bridge.tools import App, kernels_of

WARNING = "It is a kernel on the host: its code is not isolated, and `exit` or `quit()` in a cell would end it."


async def connect_to_kernel(
    ctx: Context[App],
    connection_file: Annotated[
        str | None,
        Field(
            description="Which kernel: the path or name of its connection file, its kernel id, its notebook's path, or "
            " a sandbox's name. Leave it out where only one kernel runs."
        ),
    ] = None,
) -> str:
    """Connect to a running Jupyter kernel, so that you work in the user's own live session and see their variables.

    Use it when the user has a notebook, an IDE console or `ipython kernel` running, or to rejoin a sandbox. It takes
    milliseconds, also while a long cell runs. Returns the kernel's name; where several fit, the error lists them.
    """
    status, notices = await kernels_of(ctx).connect(connection_file)
    state = f"It is busy with {'; '.join(status.running)}." if status.running else "execute_code runs code in it."
    told = f"Connected to {status.kind} kernel {status.name} ({status.language}). {state}"
    return "\n".join([*notices, told, *([WARNING] if status.kind == "host" else [])])
