"""An engine that hangs, breaks off or talks nonsense, at each request of all that is asked of it.

A socket stands before the real engine and lets one request after the other go wrong: such engines cannot be made.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from bridge.errors import BridgeError, EngineUnavailable, LaunchError
from bridge.kernels import sandboxes
from bridge.kernels.registry import Kernels
from bridge.launchers import Sandbox
from bridge.launchers.docker import DockerLauncher, border, engine
from bridge.policy import built_in
from tests.faults.engines import SOON, Fault, Front, Looker
from tests.launchers.conftest import make_spec

PATIENCE = 5.0
"""In place of the 30 s that a request may take."""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(border, "REQUEST_TIMEOUT", PATIENCE)
    monkeypatch.setattr(engine, "REQUEST_TIMEOUT", PATIENCE)


async def start(launcher: DockerLauncher, name: str = "lab", network: str = "isolated") -> Sandbox:
    # those that are tried at the same time are many
    return await launcher.start(make_spec(name, network=network, policy={"network": network, "max_running": 60}))


async def counted(directory: Path, network: str) -> int:
    """Return of how many requests a start consists when nothing goes wrong."""
    with Front(directory / "front") as front:
        launcher = DockerLauncher(front.address)
        await start(launcher, network=network)
        launcher.close()
        steps = len(front.asked)
    well = DockerLauncher()
    await well.stop("lab")
    well.close()
    return steps


async def at_once(numbers: range, one: Callable[[int], Awaitable[None]]) -> None:
    """Do it for each number, a few at the same time: most of it is waiting."""
    free = asyncio.Semaphore(5)

    async def turn(number: int) -> None:
        async with free:
            await one(number)

    await asyncio.gather(*map(turn, numbers))


@pytest.mark.parametrize(
    ("fault", "network", "stride"),
    [
        ("silent", "isolated", 1),
        ("silent once done", "none", 1),
        ("breaks off", "open", 1),
        ("refuses", "isolated", 1),
        ("says no HTTP", "none", 3),
        ("says no JSON", "isolated", 3),
        ("says null", "none", 2),
    ],
)
def test_a_start_of_which_one_request_goes_wrong_says_so_in_time_and_leaves_nothing(
    fault: Fault, network: str, stride: int, looker: Looker, tmp_path: Path
) -> None:
    told: dict[int, str] = {}

    async def one(number: int) -> None:
        name, began = f"lab-{number}", time.monotonic()
        with Front(tmp_path / str(number)) as front:
            launcher = DockerLauncher(front.address)
            front.fail(number, fault)
            # what an engine says to some requests tells nothing, so nobody reads it
            with contextlib.suppress(LaunchError):
                try:
                    await start(launcher, name, network)
                    await launcher.stop(name)
                except LaunchError as error:
                    told[number] = str(error)
                    raise
            launcher.close()
        assert time.monotonic() - began < SOON, told[number]
        left = [each for each in looker.left() if f"-{name}." in each or f".{name}." in each]
        # the lock's file, where the engine may have done it later
        assert [each for each in left if not each.endswith(".starting")] == [], told[number]

    async def each_request() -> int:
        steps = await counted(tmp_path, network)
        await at_once(range(1, steps + 1, stride), one)
        well = DockerLauncher()
        await well.sweep()
        well.close()
        return steps

    before = looker.traces()
    steps = anyio.run(each_request)
    assert looker.traces() == before
    assert len(told) > steps / stride / 2
    assert all("engine" in each or "The container" in each for each in told.values()), told


def test_an_engine_that_hangs_for_good_from_any_request_of_a_start_on_is_told_in_time_and_swept_once_it_answers(
    looker: Looker, tmp_path: Path
) -> None:
    async def one(number: int) -> None:
        name, began = f"lab-{number}", time.monotonic()
        with Front(tmp_path / str(number)) as front:
            launcher = DockerLauncher(front.address)
            front.fail(number, "silent once done", for_good=True)
            with pytest.raises(LaunchError, match=rf"within {PATIENCE:g} s"):
                await start(launcher, name)
            # the request, why it failed, and what should have undone it: each has an end
            assert time.monotonic() - began < SOON
            launcher.close()

    async def each_request() -> None:
        steps = await counted(tmp_path, "isolated")
        await at_once(range(1, steps + 1), one)
        assert looker.left() != []
        well = DockerLauncher()
        # what could not be undone holds neither its name nor anything else
        await start(well, f"lab-{steps - 1}")
        assert [each.name for each in await well.sandboxes() if each.state != "ended"] == [f"lab-{steps - 1}"]
        await well.stop(f"lab-{steps - 1}")
        await well.sweep()
        well.close()

    before = looker.traces()
    anyio.run(each_request)
    assert looker.traces() == before


ACTS: dict[str, Callable[[DockerLauncher], Awaitable[object]]] = {
    "ls": lambda launcher: launcher.sandboxes(),
    "interrupt": lambda launcher: launcher.interrupt_kernel("lab"),
    "restart": lambda launcher: launcher.restart_kernel("lab"),
    "last ending": lambda launcher: launcher.last_ending("lab"),
    "log": lambda launcher: launcher.log("lab"),
    "sweep": lambda launcher: launcher.sweep(),
    "stop": lambda launcher: launcher.stop("lab"),
}


@pytest.mark.parametrize("act", ACTS)
def test_an_engine_that_hangs_at_any_request_of_an_act_is_told_in_time_and_the_act_can_be_done_again(
    act: str, looker: Looker, tmp_path: Path
) -> None:
    async def one(number: int) -> None:
        began = time.monotonic()
        with Front(tmp_path / str(number)) as front:
            launcher = DockerLauncher(front.address)
            front.fail(number, "silent")
            with pytest.raises(EngineUnavailable, match=rf"within {PATIENCE:g} s"):
                await ACTS[act](launcher)
            launcher.close()
        assert time.monotonic() - began < SOON

    async def each_request() -> None:
        well = DockerLauncher()
        await start(well)
        with Front(tmp_path / "front") as front:
            launcher = DockerLauncher(front.address)
            await ACTS[act](launcher)
            launcher.close()
            steps = len(front.asked)
        if act == "stop":  # what comes last is not there any more for those that come first
            await start(well)
            steps = 4
        await at_once(range(1, steps + 1), one)
        assert await well.stop("lab") is True
        assert await well.stop("lab") is False
        well.close()

    before = looker.traces()
    anyio.run(each_request)
    assert looker.traces() == before


def test_host_kernels_do_not_wait_for_an_engine_that_hangs(
    looker: Looker, tmp_path: Path, host_kernel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandboxes, "PATIENCE", 0.5)

    async def use(front: Front) -> None:
        kernels = Kernels(built_in(), lambda: DockerLauncher(front.address))
        front.fail(1, "silent", for_good=True)
        began = time.monotonic()
        (listed,), trouble = await kernels.listing()
        assert (listed.kind, listed.state) == ("host", "alive")
        assert trouble is not None
        assert "did not answer within 0.5 s" in trouble
        status, _ = await kernels.connect(listed.name)
        outcome = await kernels.execute("print(6 * 7)", timeout=SOON)
        assert outcome.result is not None
        assert "42" in str(outcome.result.outputs)
        assert time.monotonic() - began < SOON / 2
        for act in (kernels.stop_sandbox("lab"), kernels.connect("kernel-bridge-lab.json")):
            with pytest.raises(BridgeError):
                await act
        await kernels.disconnect(status.name)
        await kernels.close()

    with Front(tmp_path / "front.sock") as front:
        anyio.run(use, front)
