"""The MCP server: policy, kernels and tools put together, and served over stdio until the client leaves; see `http/`.

The one rule: the client always gets an answer. An engine or a kernel that is not there is the answer of one call, never
the end of the server; and nothing is imported, looked for or started before the first reply that it does not need.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

import anyio
from mcp import MCPError
from mcp.server import MCPServer
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.types import INTERNAL_ERROR
from pydantic import BaseModel

from bridge.ending import Ending
from bridge.errors import BridgeError
from bridge.policy import Policy
from bridge.resources import ServerWithResources
from bridge.stdio import Stdio
from bridge.tools import App, all_tools

if TYPE_CHECKING:
    from bridge.kernels.registry import Kernels

INSTRUCTIONS = """\
kernel-bridge runs Python in a live IPython kernel that the user and their IDE share with you: variables stay between
calls, and both sides see them. connect_to_kernel joins a kernel that runs on the user's machine (not isolated);
start_sandbox starts one in a sealed container. Then execute_code. list_kernels shows what there is. Do not restart or
stop a kernel without asking: the user's variables are in it. A refusal by the policy is final: tell the user.
"""
SHARED = (
    "Several clients share this server: pass `kernel` in each call. get_activity also tells what their agents ran.\n"
)
# Leaving the kernels is local work; a client that closed us ends the process after two seconds.
CLOSING = 1.5


def build_server(app: App) -> ServerWithResources:
    """Return the server for one policy, ready to be run on a transport."""

    @contextlib.asynccontextmanager
    async def lifespan(_: MCPServer[App]) -> AsyncIterator[App]:
        yield app

    server = ServerWithResources(
        "kernel-bridge",
        title="kernel-bridge",
        version=version("kernel-bridge"),
        instructions=INSTRUCTIONS + (SHARED if app.shared else ""),
        tools=all_tools(),
        lifespan=lifespan,
        middleware=[Guard()],
        log_level="WARNING",
    )
    server.serve(app)
    return server


def make_app(policy: Policy, *, engine: str | None = None, home: str | None = None, shared: bool = False) -> App:
    """Return what the tools act on; the kernels' libraries are imported when the first call needs them.

    `home`: the kernel that each agent has without asking for it. `shared`: several clients are served.
    """

    def make_kernels(policy: Policy) -> Kernels:
        from bridge.audit import Who  # noqa: PLC0415 - as below
        from bridge.kernels.registry import Kernels  # noqa: PLC0415 - 0.15 s that the first reply must not pay
        from bridge.launchers.docker import DockerLauncher  # noqa: PLC0415 - as above

        return Kernels(policy, lambda: DockerLauncher(engine), who=Who("mcp"), home=home, must_name=shared)

    return App(policy, make_kernels, shared=shared)


async def serve_stdio(policy: Policy, *, engine: str | None = None, home: str | None = None) -> None:
    """Serve one client on stdin and stdout until it closes one of them or a signal comes; then the process ends."""
    app = make_app(policy, engine=engine, home=home)
    server = build_server(app)
    served = asyncio.Event()

    async def end() -> None:
        # First, while nothing is cancelled yet, for that would interrupt cells: who waits for one is told that its
        # kernel was left, and it goes on.
        if await leave(app):
            await client.close()  # which cancels a start, so that what it has made is removed
            await served.wait()

    ending = Ending(end)
    client = Stdio(ending.client_left)
    await client.serve(server.serve_on)
    served.set()
    await anyio.sleep_forever()


async def leave(app: App) -> bool:
    """Leave all kernels, in bounded time; they live on, and so does what runs in them. True where all were left."""
    with anyio.move_on_after(CLOSING, shield=True) as scope:
        await app.agents.close()
    return not scope.cancelled_caught


class Guard:
    """The last net around every request: an internal slip fails one call, not the server."""

    def __init__(self) -> None:
        self._warmed = False

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Serve one request, as the SDK's middleware does."""
        try:
            result = await call_next(ctx)
        except BridgeError as error:
            # of a request that is no tool's, such as one for the list of resources
            raise MCPError(INTERNAL_ERROR, str(error)) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # a stray one, of an internal task, would end the whole stdio server
            logging.getLogger("bridge").exception("an internal operation was cancelled")
            raise MCPError(INTERNAL_ERROR, "An internal operation of kernel-bridge was cancelled; try again.") from None
        finally:
            self._warm()
        return cast("HandlerResult", _scrubbed(result))

    def _warm(self) -> None:
        """Import what the first tool call will need, once the first reply is on its way."""
        if not self._warmed:
            self._warmed = True
            threading.Thread(target=_import_kernels, name="warm", daemon=True).start()


def _import_kernels() -> None:
    import bridge.kernels.registry  # noqa: F401, PLC0415 - imported for the next import alone


def _scrubbed(value: Any) -> Any:
    """Replace lone surrogates, which no transport can encode (host file names hold them); the shape stays."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_scrubbed(key): _scrubbed(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_scrubbed(each) for each in value]
    if isinstance(value, BaseModel):
        return type(value).model_construct(**{name: _scrubbed(getattr(value, name)) for name in value.model_fields_set})
    return value
