"""The tool that tells what the others did."""

from __future__ import annotations

from typing import Annotated

from mcp.server.mcpserver import Context
from pydantic import Field

from bridge.kernels.activity import Activity
from bridge.tools import App, connected_kernels


async def get_activity(
    ctx: Context[App],
    kernel: Annotated[
        str | None, Field(description="The kernel's name; needed only where several are connected.")
    ] = None,
    since: Annotated[
        str | None, Field(description="The `cursor` of an earlier answer, or an ISO time; left out: the newest cells.")
    ] = None,
) -> Activity:
    """Tell what the user and other clients run and ran in the kernel: who, when, code, outcome, output in short.

    Use it before you rely on variables, or when the user says that they did something. Without `since` the newest cells
    come and `left_out` counts older ones: pass an earlier time for them. With it the oldest come first; where
    `left_out` is not 0, read on with `cursor`. `names`: bound, rebound (to another object; changed in place is not
    seen) or deleted since your last call, by anyone, your own cells included.
    """
    kernels = await connected_kernels(ctx, kernel)
    return await kernels.activity(kernel, since=since)
