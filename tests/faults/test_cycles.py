"""Start and stop, again and again: afterwards there is no more of anything than before.

KERNEL_BRIDGE_TEST_CYCLES says how many times; `make soak` asks for more than `make test`.
"""

from __future__ import annotations

import os
import time

import anyio

from bridge.kernels.registry import Kernels
from bridge.launchers.docker import DockerLauncher
from bridge.policy import SandboxRequest, built_in
from tests.faults.engines import SOON, Looker

CYCLES = int(os.environ.get("KERNEL_BRIDGE_TEST_CYCLES", "20"))


def test_starts_and_stops_leave_no_container_volume_network_file_thread_or_descriptor(looker: Looker) -> None:
    """One bridge for all of them, so that what it would keep of each adds up before it ends."""
    taken: list[float] = []

    async def cycles(many: int) -> None:
        kernels = Kernels(built_in(), DockerLauncher)
        for number in range(many):
            began = time.monotonic()
            _, status = await kernels.start_sandbox(
                SandboxRequest(name="", network="none" if number % 2 else "isolated")
            )
            outcome = await kernels.execute(f"print({number} + 1)", name=status.name, timeout=SOON)
            assert outcome.result is not None
            assert f"{number + 1}" in str(outcome.result.outputs)
            await kernels.stop_sandbox(status.name)
            taken.append(time.monotonic() - began)
            assert looker.left() == []
        held.append(looker.held())
        await kernels.close()

    held: list[int] = []
    anyio.run(cycles, 2)
    before = looker.traces()
    anyio.run(cycles, CYCLES)
    assert looker.traces() == before
    # nor while the bridge lives: a connection to the engine, or a worker thread that idles, is chance
    assert held[1] <= held[0] + 8
    print(f"{CYCLES} cycles, seconds each: median {sorted(taken[2:])[CYCLES // 2]:.2f}, longest {max(taken[2:]):.2f}")  # noqa: T201
