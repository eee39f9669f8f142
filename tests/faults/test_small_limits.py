"""Sandboxes that get too little to start a kernel with: the start says what was too little, and leaves nothing.

A policy takes no limits with which the image's own kernel does not start; with an image that does more at its start,
any may be too small. So these are given past the policy.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from pathlib import Path

import docker
import pytest

from bridge.errors import LaunchError
from bridge.kernels.registry import Kernels
from bridge.launchers import Sandbox
from bridge.launchers.docker import DockerLauncher
from bridge.policy import SandboxRequest, SandboxSpec, built_in
from tests.faults.conftest import SOON, ours

pytestmark = pytest.mark.anyio

MIB = 1 << 20
# More than a start that goes well takes on a busy machine, with the supervisor's five tries in it.
START = 15.0
TMPFS = dict.fromkeys(("home", "tmp", "shm"), MIB)
TOO_SMALL = {
    "memory for its supervisor": ({"memory": 8 * MIB, **TMPFS}, "killed: out of memory (8 MiB)"),
    "memory for its kernel": (
        {"memory": 40 * MIB, **TMPFS},
        "killed because the container ran out of memory (the limit is 40 MiB)",
    ),
    "pids for its threads": ({"pids": 10}, "the container had no room for more processes and threads (pids: 10)"),
}


@pytest.mark.parametrize(("limits", "words"), TOO_SMALL.values(), ids=TOO_SMALL)
async def test_a_start_with_too_little_says_of_what_and_how_much_and_leaves_nothing(
    engine: docker.DockerClient, runtime: Path, limits: dict[str, int], words: str
) -> None:
    class Small(DockerLauncher):
        async def start(self, spec: SandboxSpec) -> Sandbox:
            return await super().start(dataclasses.replace(spec, limits=spec.limits.model_copy(update=limits)))

    kernels = Kernels(built_in(), Small, username="agent", start_timeout=START)
    try:
        async with asyncio.timeout(SOON):
            before = time.monotonic()
            with pytest.raises(LaunchError) as caught:
                await kernels.start_sandbox(SandboxRequest("small"))
            assert time.monotonic() - before < 2 * START
        assert words in str(caught.value)
        assert "removed" in str(caught.value)
        assert (ours(engine), list(runtime.iterdir()), kernels.statuses()) == ([], [], [])
    finally:
        await kernels.close()
