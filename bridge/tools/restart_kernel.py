"""The tool that starts a sandbox's kernel anew."""

from __future__ import annotations

from typing import Annotated

from mcp.server.mcpserver import Context
from pydantic import Field

from bridge.tools import App, connected_kernels


async def restart_kernel(
    ctx: Context[App],
    kernel: Annotated[
        str | None, Field(description="The kernel's name; needed only where several are connected.")
    ] = None,
) -> str:
    """Restart the kernel of a sandbox: ALL variables are lost, the user's too, so ask them first.

    The name, the connection file and attached IDEs stay. A host kernel is refused: it is restarted where it began.
    """
    kernels = await connected_kernels(ctx, kernel)
    outcome = await kernels.restart(kernel)
    return "\n".join(outcome.notices)
