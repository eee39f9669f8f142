"""The tool that starts a kernel in a container."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from mcp.server.mcpserver import Context
from pydantic import Field

from bridge.policy import OPEN_NETWORK, SandboxRequest, asked_memory
from bridge.tools import App, kernels_of


async def start_sandbox(
    ctx: Context[App],
    name: Annotated[
        str | None, Field(description="Lower-case letters, digits and hyphens; chosen if left out.")
    ] = None,
    image: Annotated[str | None, Field(description="An image that the policy allows; its default if left out.")] = None,
    network: Annotated[
        Literal["isolated", "none", "open"] | None,
        Field(
            description="`none` reaches nothing, `isolated` what the policy lists, `open` what the machine reaches. "
            "Left out: the policy's."
        ),
    ] = None,
    workspace: Annotated[
        str | None,
        Field(description="Absolute path of a host directory that the policy allows, at the same path inside."),
    ] = None,
    workspace_mode: Annotated[Literal["ro", "rw"], Field(description="Whether the workspace may be written.")] = "ro",
    memory: Annotated[str | None, Field(description="E.g. `1GiB`; up to the policy's limit.")] = None,
    cpus: Annotated[float | None, Field(description="Up to the policy's limit.")] = None,
) -> str:
    """Start a Python kernel in a sealed container and connect to it: for code that must not run on the user's machine.

    It has no network but what the policy lists or opens, no host files but the workspace, and limits on memory and
    processes. Returns its name, what it reaches and the connection file, by which the user's IDE joins the same kernel.
    It outlives this server: stop_sandbox ends it, or the policy's limits, which are told.
    What the policy refuses is listed in full; ask the user, who owns the policy, rather than trying variants.
    """
    kernels = kernels_of(ctx)
    request = SandboxRequest(
        name=name or "",
        image=image,
        network=network,
        workspace=Path(workspace) if workspace else None,
        workspace_mode=workspace_mode,
        memory=asked_memory(memory),
        cpus=cpus,
        by_agent=True,
    )
    sandbox, status = await kernels.start_sandbox(request)
    reaches = f"It reaches {', '.join(sandbox.reaches)} and nothing else.\n" if sandbox.reaches else ""
    opened = f"Network open: {OPEN_NETWORK}.\n" if sandbox.network == "open" else ""
    ends = "".join(f"It ends {each}.\n" for each in sandbox.lasts)
    return (
        f"Sandbox {sandbox.name} runs ({status.language}, image {sandbox.image}, network {sandbox.network}) and is "
        f"connected; execute_code runs code in it.\n{reaches}{opened}{ends}"
        f"Connection file for the user's IDE: {sandbox.connection_file}"
    )
