"""The tool that tells how the connected kernels are."""

from __future__ import annotations

from typing import Annotated

from mcp.server.mcpserver import Context
from pydantic import Field

from bridge.errors import NoSuchKernel
from bridge.kernels.listing import Status
from bridge.tools import App, connected_kernels


async def kernel_status(
    ctx: Context[App],
    kernel: Annotated[str | None, Field(description="One kernel's name; all connected ones if left out.")] = None,
) -> list[Status]:
    """Tell how the connected kernels are: idle or busy, with whose code and since when; nothing is executed.

    `epoch` rises when a kernel was replaced and its variables were lost. An empty list: connect_to_kernel or
    start_sandbox first.
    """
    kernels = await connected_kernels(ctx, kernel)
    if kernel is None and (why := kernels.why_not_at_home()):
        raise NoSuchKernel(f"No kernel is connected. {why}")
    return kernels.statuses(kernel)
