"""The sessions of clients before 2026: how many there may be, and which makes room for the newest.

The one rule: a session that was left without a word keeps nobody out. One in which a request is open, or whose agent is
there, is never ended for another one.
"""

from __future__ import annotations

import logging
import math
from functools import partial
from http import HTTPStatus

from mcp.server.streamable_http import MCP_SESSION_ID_HEADER, StreamableHTTPServerTransport
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge.agents import Agents

MOST = 1000
"""At once. Each has little; those that are left without a word end after two hours, or when there is no room."""
AT_ONCE = 200
"""That may begin at the same moment, before one of them counts: no more than there are connections."""
_FULL = (
    f"All of the {MOST} sessions that this server may have are in use, so none was begun. End clients that are not "
    "needed, or restart the server: kernels live on.\n"
)

log = logging.getLogger(__name__)


class Sessions:
    """An ASGI application in front of the SDK's, which makes room for a request that begins a session."""

    def __init__(self, app: ASGIApp, manager: StreamableHTTPSessionManager, agents: Agents) -> None:
        self._app = app
        self._manager = manager
        self._agents = agents

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it where it begins a session and there is no room."""
        if scope["type"] == "lifespan":
            await self._app(scope, partial(self._until_the_end, receive), send)
            return
        has_room = not _begins(scope) or await self._make_room()
        await (self._app if has_room else PlainTextResponse(_FULL, HTTPStatus.SERVICE_UNAVAILABLE))(
            scope, receive, send
        )

    async def _until_the_end(self, receive: Receive) -> Message:
        """Wait for the server's start, then for its end, and end all sessions in front of that one.

        The SDK cancels their calls then, and writes for a second to each that has one, where nobody reads any more.
        """
        message = await receive()
        if message["type"] == "lifespan.shutdown":
            for each, transport in list(self._manager._server_instances.items()):  # noqa: SLF001 - as below
                await self._manager._discard_session(each, transport)  # noqa: SLF001
        return message

    async def _make_room(self) -> bool:
        # the SDK has a time-out and a limit, and no public way to end one session
        open_ = self._manager._server_instances  # noqa: SLF001
        if len(open_) < MOST:
            return True
        agents = self._agents.by_session()
        idle = [
            (session in agents, since, session)
            for session, transport in open_.items()
            if (since := _idle_since(transport)) is not None and not (session in agents and agents[session].is_there)
        ]
        if not idle:
            return False
        # first one that never did anything
        *_, session = min(idle)
        log.info("there are %d sessions: one that is not used makes room", MOST)
        await self._manager._discard_session(session, open_[session])  # noqa: SLF001
        return True


def _begins(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] != "POST":
        return False
    headers = Headers(scope=scope)
    version = headers.get(MCP_PROTOCOL_VERSION_HEADER)
    return MCP_SESSION_ID_HEADER not in headers and (version is None or version in HANDSHAKE_PROTOCOL_VERSIONS)


def _idle_since(transport: StreamableHTTPServerTransport) -> float | None:
    """Return what orders sessions by how long no request was open; None where one is, or where none was yet."""
    ends = math.inf if transport.idle_scope is None else transport.idle_scope.deadline
    return None if ends == math.inf else ends
