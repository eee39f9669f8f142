"""What can be read by its address: what the others do in a kernel, and single outputs in full; and who is told of news.

The one rule: a subscriber is told that something has changed, at a bounded rate, and reads what. Nothing is polled: a
session tells of each cell of someone else that begins or ends.

Each agent is told of its own kernels. The SDK offers subscriptions in the modern era only; in the legacy one the two
requests are handled here.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import weakref
from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING, Any

import anyio
import mcp.types as T  # noqa: N812 - the SDK's own examples name it so
import pydantic_core
from mcp import MCPError
from mcp.server import MCPServer
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    ResourcesListChanged,
    ResourceUpdated,
    SubscriptionBus,
)

from bridge import addresses
from bridge.addresses import ActivityAddress, OutputAddress
from bridge.agents import Agent
from bridge.errors import BridgeError, NoSuchKernel
from bridge.render import whole
from bridge.tools import App

if TYPE_CHECKING:
    from typing import TypeAlias

    from mcp.server.context import ServerRequestContext
    from mcp.server.session import ServerSession
    from pydantic import AnyUrl

    Request: TypeAlias = ServerRequestContext[Any, Any]

# Seconds between two notices of one kernel: a notebook runs a hundred cells in that time, and nobody reads so fast.
PAUSE = 1.0
# Bytes of one output with all its forms; an image of a whole screen is a tenth of it.
LARGEST = 16 * 1024 * 1024

JSON = "application/json"
ABOUT_ACTIVITY = "What the user and other clients run and ran in the kernel, as get_activity tells it."
ABOUT_OUTPUT = "One output in full: an image, a chart's JSON, or text."

log = logging.getLogger(__name__)


class ServerWithResources(MCPServer[App]):
    """The SDK's server with resources that come and go with the kernels and have MIME types of their own."""

    def serve(self, app: App) -> None:
        """Serve the resources of these agents' kernels, and tell those that listen of changes."""
        self._app = app
        self._news: weakref.WeakKeyDictionary[Agent, _News] = weakref.WeakKeyDictionary()
        # the SDK's own way has one bus for all, no context in a list, and nothing for the legacy era's subscriptions
        handle = self._lowlevel_server.add_request_handler
        handle("resources/list", T.PaginatedRequestParams, self._list)
        handle("subscriptions/listen", T.SubscriptionsListenRequestParams, self._listen)
        handle("resources/subscribe", T.SubscribeRequestParams, self._subscribe)
        handle("resources/unsubscribe", T.UnsubscribeRequestParams, self._unsubscribe)

    async def serve_on(self, comes: Any, goes: Any) -> None:
        """Serve one client, in the era that it begins with, on streams of the SDK's `SessionMessage`."""
        await self._lowlevel_server.run(comes, goes, self._lowlevel_server.create_initialization_options())

    async def _list(self, ctx: Request, _: T.PaginatedRequestParams | None) -> T.ListResourcesResult:
        """Return the activity of each connected kernel."""
        resources = [
            T.Resource(
                uri=str(ActivityAddress(name)),
                name=f"activity of {name}",
                description=ABOUT_ACTIVITY,
                mime_type=JSON,
            )
            for name in self._app.agents.of(ctx).connected()
        ]
        return T.ListResourcesResult(resources=resources)

    async def _listen(self, ctx: Request, params: T.SubscriptionsListenRequestParams) -> T.SubscriptionsListenResult:
        with self._app.agents.call(ctx) as agent:
            return await self._news_of(agent).listen(ctx, params)

    async def _subscribe(self, ctx: Request, params: T.SubscribeRequestParams) -> T.EmptyResult:
        return await self._news_of(self._app.agents.of(ctx)).subscribe(ctx, params)

    async def _unsubscribe(self, ctx: Request, params: T.UnsubscribeRequestParams) -> T.EmptyResult:
        return await self._news_of(self._app.agents.of(ctx)).unsubscribe(ctx, params)

    def _news_of(self, agent: Agent) -> _News:
        if agent not in self._news:
            news = self._news[agent] = _News(InMemorySubscriptionBus())
            agent.hear(news.of_activity, news.of_kernels)
        return self._news[agent]

    async def list_resource_templates(self) -> list[T.ResourceTemplate]:
        """Return the forms of all addresses."""
        return [
            T.ResourceTemplate(
                uri_template=addresses.ACTIVITY, name="activity", description=ABOUT_ACTIVITY, mime_type=JSON
            ),
            T.ResourceTemplate(
                uri_template=addresses.EXECUTION_OUTPUT, name="output of an execution", description=ABOUT_OUTPUT
            ),
            T.ResourceTemplate(
                uri_template=addresses.CELL_OUTPUT, name="output of someone else's cell", description=ABOUT_OUTPUT
            ),
        ]

    async def read_resource(self, uri: AnyUrl | str, context: Any = None) -> Iterable[ReadResourceContents]:
        """Read what an address leads to, for the agent that the context tells; raises `ResourceError`."""
        address = addresses.read(str(uri))
        try:
            with self._app.agents.call(context.request_context) as agent:
                match address:
                    case ActivityAddress(kernel=kernel):
                        # the agent's last look at the names is that of its tool
                        await agent.kernels.be_at_home(kernel)
                        activity = await agent.kernels.activity(kernel, look=False)
                        return [ReadResourceContents(pydantic_core.to_json(activity).decode(), JSON)]
                    case OutputAddress():
                        output = agent.kernels.output(address, most=LARGEST)
                        content, mime_type = await anyio.to_thread.run_sync(functools.partial(whole, output))
                        return [ReadResourceContents(content, mime_type)]
        except NoSuchKernel as error:
            raise ResourceNotFoundError(str(error)) from None
        except BridgeError as error:
            raise ResourceError(str(error)) from None
        raise ResourceNotFoundError(
            f"{str(uri)[:200]} leads to nothing here. There are {addresses.ACTIVITY}, {addresses.EXECUTION_OUTPUT} and "
            f"{addresses.CELL_OUTPUT}."
        )


class _News:
    """Tells one agent of changes: at once, and of those that follow within a pause once at its end."""

    def __init__(self, bus: SubscriptionBus) -> None:
        self._bus = bus
        self.listen = ListenHandler(bus)
        """Serves one stream of the modern era."""
        self._changed: dict[str, bool] = {}
        # of the legacy era, by connection: each request has a session object of its own
        self._subscribers: dict[str, dict[int, ServerSession]] = {}
        self._telling: set[asyncio.Task[None]] = set()

    def of_activity(self, kernel: str) -> None:
        """A cell of someone else began or ended in a kernel."""
        if kernel in self._changed:
            self._changed[kernel] = True
            return
        self._changed[kernel] = False
        uri = str(ActivityAddress(kernel))
        self._in_background(self._bus.publish(ResourceUpdated(uri)))
        for connection, session in list(self._subscribers.get(uri, {}).items()):
            self._in_background(self._tell(uri, connection, session))
        asyncio.get_running_loop().call_later(PAUSE, self._rested, kernel)

    def of_kernels(self) -> None:
        """A kernel was connected, or is so no longer."""
        self._in_background(self._bus.publish(ResourcesListChanged()))

    async def subscribe(self, ctx: Request, params: T.SubscribeRequestParams) -> T.EmptyResult:
        """Tell this connection from now on when the resource has changed."""
        address = addresses.read(str(params.uri))
        if not isinstance(address, ActivityAddress):
            raise MCPError(T.INVALID_PARAMS, f"Only {addresses.ACTIVITY} changes, so nothing else is subscribed to.")
        self._subscribers.setdefault(str(address), {})[_connection(ctx.session)] = ctx.session
        return T.EmptyResult()

    async def unsubscribe(self, ctx: Request, params: T.UnsubscribeRequestParams) -> T.EmptyResult:
        """Tell this connection no longer."""
        self._forget(str(addresses.read(str(params.uri))), _connection(ctx.session))
        return T.EmptyResult()

    def _rested(self, kernel: str) -> None:
        if self._changed.pop(kernel):
            self.of_activity(kernel)

    async def _tell(self, uri: str, connection: int, session: ServerSession) -> None:
        try:
            await session.send_resource_updated(uri)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError, MCPError):
            self._forget(uri, connection)

    def _forget(self, uri: str, connection: int) -> None:
        subscribers = self._subscribers.get(uri, {})
        subscribers.pop(connection, None)
        if not subscribers:
            self._subscribers.pop(uri, None)

    def _in_background(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._telling.add(task)
        task.add_done_callback(self._told)

    def _told(self, task: asyncio.Task[None]) -> None:
        self._telling.discard(task)
        if not task.cancelled() and task.exception():
            log.warning("a subscriber was not told: %s", task.exception())


def _connection(session: ServerSession) -> int:
    """What tells connections apart: the parameters with which a legacy one began are one object for its life."""
    return id(session.client_params)
