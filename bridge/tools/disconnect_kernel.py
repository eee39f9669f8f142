"""The tool that forgets a kernel."""

from __future__ import annotations

from typing import Annotated

from mcp.server.mcpserver import Context
from pydantic import Field

from bridge.tools import App, kernels_of


async def disconnect_kernel(
    ctx: Context[App],
    kernel: Annotated[
        str | None, Field(description="The kernel's name; needed only where several are connected.")
    ] = None,
) -> str:
    """Disconnect from a kernel. It lives on with its variables, and what runs in it goes on.

    To end a sandbox use stop_sandbox instead.
    """
    name, trouble = await kernels_of(ctx).disconnect(kernel)
    return f"Disconnected from {name}; the kernel lives on. {trouble}".rstrip()
