"""A sandbox that ends by itself, as an agent and a person see it: before, when it is near, and after."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.anyio

SOON = 60.0


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """A policy with the shortest lifetime that there is."""
    file = tmp_path / "policy.yaml"
    file.write_text("version: 1\nsandbox: {max_lifetime: 1m}\n")
    return file


async def test_an_agent_is_told_at_the_start_once_when_it_is_near_and_why_when_it_is_over(
    connect: Any, policy: Path, runtime: Path
) -> None:
    async with connect(policy) as agent:
        started = await agent.call("start_sandbox", name="short")
        assert "It ends after 1d with nobody connected and nothing running; after 2h while only agents" in started
        assert "It ends after 1m, whatever runs (max_lifetime)." in started
        assert "ends in" not in await agent.run("import time; began = time.monotonic()")
        near = await agent.run("time.sleep(max(0, 52 - (time.monotonic() - began)))", timeout=SOON)
        async with asyncio.timeout(SOON):
            while not (told := re.search(r"short ends in about \d s: it will have run for 1m \(max_lifetime\)", near)):
                near = await agent.run("time.sleep(0.5)")
        assert told
        listed = json.loads(await agent.call("list_kernels"))
        assert "max_lifetime" in listed["kernels"][0]["ends"]
        assert "ends in about" not in await agent.run("1"), "once"
        over = await agent.refused("execute_code", code="time.sleep(100)", timeout=SOON)
        assert "it had run for 1m (max_lifetime). All its variables are lost." in over
        refused = await agent.refused("execute_code", code="1")
        assert refused.count("starts another") == 1
    assert not list(runtime.glob("kernel-bridge-short*"))


def test_a_person_is_told_at_the_start_and_whenever_they_ask(command: Any, policy: Path, runtime: Path) -> None:
    up = command("up", "mine", "--policy", str(policy))
    try:
        assert up.returncode == 0, up.stderr
        assert "It ends after 1d with nobody connected and nothing running (idle_timeout)." in up.stderr
        assert "It ends after 1m, whatever runs (max_lifetime)." in up.stderr
        told = command("status", "mine").stdout
        assert re.search(r"lasts +ends after 1m, whatever runs \(max_lifetime\)\n", told)
        assert re.search(r"lasts +ends in about \d+ s: it will have run for 1m \(max_lifetime\), at 20\S+Z\n", told)
        explained = command("policy", "explain", str(policy)).stdout
        assert re.search(r"idle_timeout +1d +the policy's \(sandbox.idle_timeout, built in\)", explained)
        assert re.search(r"max_lifetime +1m +the policy's \(sandbox.max_lifetime, line 2\)", explained)
    finally:
        command("stop", "mine")
    assert not list(runtime.glob("kernel-bridge-mine*"))
