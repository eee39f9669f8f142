"""A bridge's kernels with one real host kernel connected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bridge.errors import KernelError
from bridge.kernels.registry import Kernels
from bridge.launchers.docker import DockerLauncher
from bridge.policy import built_in

SOON = 30.0


async def connected(kernels: Kernels, kernel: Any) -> None:
    """Connect to a host kernel that may still be importing IPython."""
    async with asyncio.timeout(SOON):
        while True:
            try:
                await kernels.connect(str(kernel.file))
            except KernelError:
                await asyncio.sleep(0.05)
            else:
                return


@pytest.fixture
async def kernels(host_kernel: Any) -> AsyncIterator[Kernels]:
    found = Kernels(built_in(), DockerLauncher, username="agent")
    await connected(found, host_kernel)
    yield found
    await found.close()
