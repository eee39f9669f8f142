"""Resources as a client in either era sees them before any kernel is connected; and how often subscribers are told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from mcp import Client, MCPError
from mcp.server.subscriptions import InMemorySubscriptionBus, ResourceUpdated

from bridge import resources
from bridge.policy import built_in
from bridge.server import build_server, make_app

pytestmark = pytest.mark.anyio

EITHER_ERA = pytest.mark.parametrize("mode", ["auto", "legacy"])


@EITHER_ERA
async def test_addresses_are_announced_and_subscriptions_offered(mode: Any) -> None:
    async with Client(build_server(make_app(built_in())), mode=mode) as client:
        assert (await client.list_resources()).resources == []
        announced = [each.uri_template for each in (await client.list_resource_templates()).resource_templates]
        assert announced == [
            "kernel-bridge://kernels/{kernel}/activity",
            "kernel-bridge://kernels/{kernel}/executions/{execution}/outputs/{place}",
            "kernel-bridge://kernels/{kernel}/cells/{cell}/outputs/{place}",
        ]
        assert client.server_capabilities.resources
        assert client.server_capabilities.resources.subscribe


@EITHER_ERA
@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("kernel-bridge://kernels/none/activity", "'none' is not connected"),
        ("kernel-bridge://kernels/none/executions/1/outputs/0", "'none' is not connected"),
        ("kernel-bridge://kernels/none", "leads to nothing here"),
        ("file:///etc/passwd", "leads to nothing here"),
    ],
)
async def test_what_is_not_there_is_told_in_a_sentence(mode: Any, uri: str, sentence: str) -> None:
    async with Client(build_server(make_app(built_in())), mode=mode) as client:
        with pytest.raises(MCPError, match=sentence) as caught:
            await client.read_resource(uri)
    assert caught.value.error.code == -32602


@pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")  # the era is the subject
async def test_in_the_legacy_era_only_what_changes_can_be_subscribed_to() -> None:
    async with Client(build_server(make_app(built_in())), mode="legacy") as client:
        with pytest.raises(MCPError, match="nothing else is subscribed to"):
            await client.subscribe_resource("kernel-bridge://kernels/lab/executions/1/outputs/0")
        await client.unsubscribe_resource("kernel-bridge://kernels/lab/activity")  # though it never subscribed


async def test_a_flood_of_changes_is_told_at_once_and_once_more_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "PAUSE", 0.1)
    bus, told, twice = InMemorySubscriptionBus(), [], asyncio.Event()

    def tell(event: Any) -> None:
        told.append(event)
        if len(told) == 2:
            twice.set()

    bus.subscribe(tell)
    news = resources._News(bus)
    for _ in range(1000):
        news.of_activity("lab")
    async with asyncio.timeout(10):
        await twice.wait()
    assert told == [ResourceUpdated("kernel-bridge://kernels/lab/activity")] * 2
    async with asyncio.timeout(10):
        while news._changed:
            await asyncio.sleep(0.01)
    assert len(told) == 2


async def test_each_kernel_has_a_pause_of_its_own() -> None:
    bus = InMemorySubscriptionBus()
    told: list[Any] = []
    bus.subscribe(told.append)
    news = resources._News(bus)
    for name in ("lab", "other", "lab"):
        news.of_activity(name)
    await asyncio.gather(*news._telling)
    assert [event.uri for event in told if isinstance(event, ResourceUpdated)] == [
        "kernel-bridge://kernels/lab/activity",
        "kernel-bridge://kernels/other/activity",
    ]
