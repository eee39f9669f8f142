"""The tool that writes a file in a sandbox."""

from __future__ import annotations

import binascii
from collections.abc import AsyncIterator
from typing import Annotated

from mcp.server.mcpserver import Context
from pydantic import Field

from bridge.errors import UsageError
from bridge.tools import App, connected_kernels

# In base64 and JSON that stays below the 4 MiB that a request over HTTP may have.
MOST = 2 << 20
NOTHING = "Nothing was written."


async def put_file(
    ctx: Context[App],
    path: Annotated[
        str, Field(description="Relative to the workspace, else the home directory; `~/x` or absolute: below either.")
    ],
    text: Annotated[str | None, Field(description="The content, at most 2 MiB.")] = None,
    base64: Annotated[str | None, Field(description="The content instead of `text`, where it is none.")] = None,
    overwrite: Annotated[bool, Field(description="Replace a file that exists.")] = False,  # noqa: FBT002 - by name only
    kernel: Annotated[
        str | None, Field(description="The kernel's name; needed only where several are connected.")
    ] = None,
) -> str:
    """Write a file in a sandbox, whole or not at all; missing directories are made.

    Use it for data, modules and configuration instead of code with long literals. Where the workspace is read-only,
    write below `~/`. It works while a cell runs and leaves no trace in history. What is larger, the user brings in by
    `kernel-bridge put`. Host kernels: use their files.
    """
    content = _content(text, base64)

    async def source() -> AsyncIterator[bytes]:
        yield content

    kernels = await connected_kernels(ctx, kernel)
    put = await kernels.put_file(path, source(), kernel, replace=overwrite, to_replace="overwrite=true replaces it")
    return "\n".join((*put.notices, f"Wrote {put.size} bytes to {put.path}."))


def _content(text: str | None, base64: str | None) -> bytes:
    if (text is None) == (base64 is None):
        raise UsageError(f"Give either `text` or `base64`. {NOTHING}")
    try:
        content = text.encode() if text is not None else binascii.a2b_base64(base64 or "", strict_mode=True)
    except UnicodeEncodeError:
        raise UsageError(f"`text` holds half a surrogate pair, which is no text; give `base64`. {NOTHING}") from None
    except ValueError as error:
        raise UsageError(f"`base64` cannot be read: {error}. {NOTHING}") from None
    if len(content) > MOST:
        raise UsageError(
            f"The content has {len(content)} bytes, and {MOST} are the most in one call. {NOTHING} The user can bring "
            "it in by `kernel-bridge put`, or let the kernel put parts of it together."
        )
    return content
