"""A sandbox that ends by itself: seen by whoever looks then, told by whoever looks before."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bridge.errors import KernelDied
from bridge.kernels.registry import Kernels
from bridge.kernels.sandboxes import Sandboxes
from bridge.policy import SandboxSpec, built_in

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("tidy")]

Spec = Callable[..., SandboxSpec]
SOON = 60.0


async def one(observer: Any, name: str) -> Any:
    (found,) = [each for each in await observer.launcher.sandboxes() if each.name == name]
    return found


async def ended(observer: Any, name: str) -> Any:
    async with asyncio.timeout(SOON):
        await observer.launcher.until_ended(name)
        while (found := await one(observer, name)).state != "ended":  # the log ends some milliseconds before
            await asyncio.sleep(0.05)
    return found


@pytest.mark.parametrize("network", ["isolated", "none"])
async def test_one_that_nobody_uses_is_found_ended_with_the_reason_and_nothing_of_it_stays(
    observer: Any, spec: Spec, network: str
) -> None:
    name = f"unused-{network}"
    asked = dataclasses.replace(spec(name, network=network), idle_timeout=5.0)
    sandbox = await observer.launcher.start(asked)
    assert sandbox.lasts == ("after 5s with nobody connected and nothing running (idle_timeout)",)
    observer.launcher.close()  # nobody of us is connected to anything
    found = await ended(observer, name)
    assert (found.over, found.end) == ("idle_timeout", None)
    assert found.ending == "nobody was connected and nothing ran for 5s (idle_timeout)"
    with pytest.raises(KernelDied, match=r"nothing ran for 5s \(idle_timeout\)\. All its variables are lost\. "):
        await Sandboxes(lambda: observer.launcher).ready(name)
    assert found.name in [each.name for each in await observer.launcher.sweep()]
    assert not sandbox.connection_file.exists()
    assert not observer.containers(name=name)


async def test_a_person_who_is_connected_keeps_it_and_a_cell_does_after_that(
    observer: Any, spec: Spec, connect: Any
) -> None:
    asked = dataclasses.replace(spec("visited"), idle_timeout=1000.0, idle_timeout_of_agents=8.0, max_lifetime=30.0)
    sandbox = await observer.launcher.start(asked)
    assert sandbox.end is not None
    assert sandbox.end.at == datetime.fromisoformat(sandbox.started_at) + timedelta(seconds=30)
    client = await connect(sandbox)
    await client.begin("import time; time.sleep(1000)")
    client.close()
    found = await ended(observer, "visited")
    assert (found.over, found.ending) == ("max_lifetime", "it had run for 30s (max_lifetime)")


async def test_that_one_will_end_is_told_by_every_listing_and_those_who_ask_do_not_put_it_off(
    observer: Any, spec: Spec
) -> None:
    asked = dataclasses.replace(spec("told"), idle_timeout=30.0)
    await observer.launcher.start(asked)
    began, told = time.monotonic(), None
    kernels = Kernels(built_in(), lambda: observer.launcher)
    async with asyncio.timeout(SOON):
        while told is None:
            listed, _ = await kernels.listing()
            (row,) = [each for each in listed if each.name == "told"]
            assert row.state == "alive" or "not answering" in row.state
            told = row.ends
    assert "nobody is connected and nothing runs (idle_timeout 30s)" in told
    sandbox = await one(observer, "told")
    assert sandbox.end is not None
    assert sandbox.end.at - datetime.now(UTC) < timedelta(seconds=4)
    assert (await ended(observer, "told")).over == "idle_timeout"
    assert time.monotonic() - began < 36
    await kernels.close()
