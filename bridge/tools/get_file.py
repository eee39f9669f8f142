"""The tool that reads a file in a sandbox."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import anyio
import mcp.types as T  # noqa: N812 - the SDK's own examples name it so
from mcp.server.mcpserver import Context
from pydantic import Field

from bridge.render import to_file_result
from bridge.tools import App, connected_kernels


async def get_file(
    ctx: Context[App],
    path: Annotated[
        str, Field(description="Relative to the workspace, else the home directory; `~/x` or absolute: below either.")
    ],
    offset: Annotated[int, Field(description="The byte to begin with: to read on.", ge=0, lt=1 << 62)] = 0,
    kernel: Annotated[
        str | None, Field(description="The kernel's name; needed only where several are connected.")
    ] = None,
) -> T.CallToolResult:
    """Read a file in a sandbox: text as it stands, pictures as images, else its bytes.

    Text with control characters comes as bytes. A long file comes in pages; each says how to read on. It works while a
    cell runs and leaves no trace in history. To look at a large table, load it by execute_code instead; the user
    fetches files of any size by `kernel-bridge get`.
    """
    calls = ctx.request_context.lifespan_context.policy.calls
    kernels = await connected_kernels(ctx, kernel)
    page = await kernels.page_of_file(path, kernel, start=offset, size=calls.max_result)
    show = partial(to_file_result, page, max_output=calls.max_output, max_result=calls.max_result)
    # a picture may have to be made smaller
    return await anyio.to_thread.run_sync(show)
