"""The tool that shows which kernels there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from mcp.server.mcpserver import Context
from pydantic import Field

from bridge.kernels.listing import Listing
from bridge.tools import App, kernels_of


@dataclass(frozen=True)
class KernelList:
    """Every kernel that the bridge can see."""

    kernels: list[Listing]
    trouble: Annotated[str | None, Field(description="Why sandboxes are missing here, if they are.")] = None


async def list_kernels(ctx: Context[App]) -> KernelList:
    """List the kernels that could be connected to: those on the host, with their notebook, and the sandboxes.

    Use it to find the user's session, or after an error that says a name is ambiguous. Pass `connection_file` or `name`
    on to connect_to_kernel.
    """
    listed, trouble = await kernels_of(ctx).listing()
    return KernelList(listed, trouble)
