"""The tool that ends a sandbox."""

from __future__ import annotations

from typing import Annotated

from mcp.server.mcpserver import Context
from pydantic import Field

from bridge.tools import App, kernels_of


async def stop_sandbox(
    ctx: Context[App],
    kernel: Annotated[str, Field(description="The sandbox's name, as list_kernels shows it.")],
) -> str:
    """End a sandbox and remove it: its variables and files are lost, for the user too, so ask them first.

    Files in a mounted workspace stay. A kernel on the host is never ended: disconnect_kernel leaves it.
    """
    await kernels_of(ctx).stop_sandbox(kernel)
    return f"Sandbox {kernel} was stopped and removed."
