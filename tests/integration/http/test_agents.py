"""When an agent that has no session is taken for one that has left; the server is real, its times are shortened."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.types import CallToolResult, Implementation, TextContent

from bridge.http import serving, sessions
from bridge.policy import built_in
from bridge.server import build_server, make_app
from bridge.tools import App
from tests.integration.conftest import SOON

pytestmark = pytest.mark.anyio

IDLE = 1.0
KERNEL = "kernel-test"
TOKEN = "t" * 40
Connect = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture
async def app() -> AsyncIterator[App]:
    made = make_app(built_in(), shared=True)
    made.agents._idle = SOON  # the first calls import a lot; a test shortens it once it has none of them before it
    yield made
    await made.agents.close()


@dataclass
class Place:
    url: str
    manager: StreamableHTTPSessionManager


@pytest.fixture
async def place(app: App) -> AsyncIterator[Place]:
    """Serve."""
    listener, ready, mcp = serving.listen(serving.Place(port=0)), asyncio.Event(), build_server(app)
    behind = serving.http_app(mcp, app.agents, token=TOKEN, site=listener.site)
    server = serving._Server(behind, listener, ready.set)
    task = asyncio.create_task(server.serve(sockets=[listener.bound]))
    await ready.wait()
    yield Place(listener.url, mcp.session_manager)
    server.should_exit = True
    async with asyncio.timeout(SOON):
        await task


@pytest.fixture
async def connect(place: Place) -> Connect:
    """Connect clients by their names to one server."""

    @asynccontextmanager
    async def connected(name: str, mode: str = "auto") -> AsyncIterator[Client]:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx2.AsyncClient(headers=headers, timeout=SOON) as http:
            transport = streamable_http_client(place.url, http_client=http)
            async with Client(transport, client_info=Implementation(name=name, version="1"), mode=mode) as client:
                yield client

    return connected


async def call(client: Client, tool: str, **arguments: Any) -> str:
    result: CallToolResult = await client.call_tool(tool, arguments)
    return "\n".join(each.text for each in result.content if isinstance(each, TextContent))


async def join(client: Client, kernel: Any) -> None:
    async with asyncio.timeout(SOON):
        while "Connected" not in await call(client, "connect_to_kernel", connection_file=str(kernel.file)):
            pass


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.02)


async def test_one_that_does_not_call_for_long_has_left_and_comes_back_as_a_new_one(
    app: App, connect: Connect, host_kernel: Any
) -> None:
    async with connect("quiet") as client:
        await join(client, host_kernel)
        app.agents._idle = IDLE
        await call(client, "kernel_status")
        [agent] = app.agents._agents.values()
        [session] = [each.session for each in agent.kernels._connected.values()]
        await until(lambda: not app.agents._agents)
        await until(lambda: session.lost)
        assert not app.agents._timers
        app.agents._idle = SOON
        assert "connected are: none" in await call(client, "execute_code", code="1", kernel=KERNEL)
        await join(client, host_kernel)
        assert await call(client, "execute_code", code="1 + 1", kernel=KERNEL) == "2"


async def test_one_whose_cell_runs_is_there_until_it_has_ended(app: App, connect: Connect, host_kernel: Any) -> None:
    async with connect("works") as client:
        await join(client, host_kernel)
        app.agents._idle = IDLE
        code = f"import time; time.sleep({3 * IDLE}); print('after')"
        assert "Still running" in await call(client, "execute_code", code=code, kernel=KERNEL, timeout=0.1)
        [agent] = app.agents._agents.values()
        await until(lambda: not agent.is_there)
        assert list(app.agents._agents.values()) == [agent]
        assert await call(client, "get_execution", execution=1, kernel=KERNEL) == "after"
        await until(lambda: not app.agents._agents)


async def test_one_that_listens_is_there_as_long(app: App, connect: Connect) -> None:
    app.agents._idle = IDLE
    async with connect("listens") as client:
        async with client.listen(resource_subscriptions=[f"kernel-bridge://kernels/{KERNEL}/activity"]):
            [agent] = app.agents._agents.values()
            left = asyncio.create_task(until(lambda: not app.agents._agents))
            done, _ = await asyncio.wait({left}, timeout=3 * IDLE)
            assert not done
            assert agent.is_there
        await left


async def test_of_too_many_the_one_that_has_not_called_for_longest_makes_room(
    app: App, connect: Connect, host_kernel: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app.agents.most = 3
    async with connect("working") as working, connect("a") as first, connect("b") as second, connect("c") as third:
        await join(working, host_kernel)
        await call(working, "execute_code", code=f"import time; time.sleep({SOON})", kernel=KERNEL, timeout=0.1)
        await call(first, "kernel_status")
        await call(second, "kernel_status")
        await call(first, "kernel_status")
        await call(third, "kernel_status")
        assert [name for name, _ in app.agents._agents] == ["working", "a", "c"]
        assert "makes room" in caplog.text
        assert "KeyboardInterrupt" in await call(working, "interrupt_kernel", kernel=KERNEL)


async def test_where_all_have_a_call_under_way_another_one_is_refused_and_none_leaves(
    app: App, connect: Connect, host_kernel: Any
) -> None:
    app.agents.most = 1
    async with connect("calls") as calling, connect("comes") as coming:
        await join(calling, host_kernel)
        [agent] = app.agents._agents.values()
        host_kernel.process.send_signal(signal.SIGSTOP)
        # no cell is sent before the kernel has said that it runs nobody else's
        under_way = asyncio.create_task(call(calling, "list_variables", kernel=KERNEL))
        await until(lambda: agent.is_there)
        told = await call(coming, "kernel_status")
        assert told.startswith("This server has no room for another agent")
        with pytest.raises(MCPError, match="no room for another agent"):
            await coming.list_resources()
        assert list(app.agents._agents.values()) == [agent]
        host_kernel.process.send_signal(signal.SIGCONT)
        await under_way
        assert not agent.is_there
        await call(coming, "kernel_status")
        assert [name for name, _ in app.agents._agents] == ["comes"]


async def test_a_server_that_is_being_stopped_does_nothing_more(app: App, connect: Connect, host_kernel: Any) -> None:
    async with connect("agent") as client:
        await join(client, host_kernel)
        await app.agents.close()
        told = await call(client, "connect_to_kernel", connection_file=str(host_kernel.file))
        assert told == "This server is being stopped. Nothing was done; kernels live on."


async def begun(http: httpx2.AsyncClient, url: str) -> httpx2.Response:
    """Begin a session as a client before 2026 does, and leave it without a word."""
    client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "gone", "version": "1"}}
    asked = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": client}
    accepted = {"Accept": "application/json, text/event-stream"}
    return await http.post(url, json=asked, headers=accepted)


async def test_sessions_that_were_left_keep_nobody_out_and_end_none_that_is_used(
    app: App, place: Place, connect: Connect, host_kernel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MOST", 3)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with connect("works", "legacy") as client, httpx2.AsyncClient(headers=headers, timeout=SOON) as http:
        await join(client, host_kernel)
        left = [await begun(http, place.url) for _ in range(6)]
        assert [each.status_code for each in left] == [200] * 6
        assert await call(client, "execute_code", code="1 + 1", kernel=KERNEL) == "2"
        async with connect("new", "legacy") as another:
            await call(another, "kernel_status")
            assert [name for name, _ in app.agents._agents] == ["works", "new"]
        ids = [each.headers["mcp-session-id"] for each in left]
        asked = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
        accepted = {"Accept": "application/json, text/event-stream", "Mcp-Session-Id": ids[0]}
        assert (await http.post(place.url, json=asked, headers=accepted)).status_code == HTTPStatus.NOT_FOUND


async def test_where_all_sessions_are_used_another_one_is_told_what_to_do(
    place: Place, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MOST", 1)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with connect("works", "legacy") as client, httpx2.AsyncClient(headers=headers, timeout=SOON) as http:
        # its stream for what the server tells is a request that stays open
        await client.list_tools()
        manager = place.manager
        await until(lambda: all(each._requests_in_flight for each in manager._server_instances.values()))
        refused = await begun(http, place.url)
        assert refused.status_code == HTTPStatus.SERVICE_UNAVAILABLE
        assert "restart the server" in refused.text
