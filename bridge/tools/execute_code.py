"""The tool that runs a cell."""

from __future__ import annotations

from typing import Annotated

import mcp.types as T  # noqa: N812 - the SDK's own examples name it so
from mcp.server.mcpserver import Context
from pydantic import Field

from bridge.elicitation import ask_user, resumed
from bridge.tools import App, connected_kernels, shown_or_asked, telling


async def execute_code(
    ctx: Context[App],
    code: Annotated[
        str, Field(description="Python (IPython) code: a cell, with magics, `!shell` and top-level await.")
    ],
    kernel: Annotated[
        str | None, Field(description="The kernel's name; needed only where several are connected.")
    ] = None,
    timeout: Annotated[
        float | None, Field(description="Seconds to wait for the end; the cell itself goes on after them.")
    ] = None,
) -> T.CallToolResult | T.InputRequiredResult:
    """Run code in the connected kernel, which the user shares: variables stay, and both of you see them.

    Returns what the cell printed, its value, plots as images, or its traceback. Code is never run in front of the
    user's: while their cell runs yours waits, and if it does not get its turn within `timeout` nothing is executed.
    After `timeout` the cell goes on and you get its output so far and an execution number for get_execution.
    What it asks with input() the user is asked where your client can; else you get the question, for send_input.
    """
    seconds, kernels = ctx.request_context.lifespan_context.timeout(timeout), await connected_kernels(ctx, kernel)
    async with telling(ctx) as progress:
        outcome = await resumed(ctx, kernels, wait=seconds, on_message=progress.see) or await kernels.execute(
            code, name=kernel, timeout=seconds, on_message=progress.see, ask=ask_user(ctx)
        )
    return await shown_or_asked(ctx, outcome)
