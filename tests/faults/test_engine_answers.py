"""An engine that hangs, breaks off or talks nonsense, at each kind of request of all that is asked of it.

A socket stands before the real engine and lets one request after the other go wrong: such engines cannot be made.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import anyio
import pytest

from bridge.errors import BridgeError, EngineUnavailable, LaunchError, PolicyNotEnforceable
from bridge.kernels import sandboxes
from bridge.kernels.registry import Kernels
from bridge.launchers import Sandbox
from bridge.launchers.docker import DockerLauncher, border, engine
from bridge.policy import built_in
from tests.faults.engines import SOON, Fault, Front, Looker
from tests.launchers.conftest import make_spec

PATIENCE = 10.0
"""In place of the 30 s that a request may take; what goes well takes less, also where eight starts go on at once."""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(border, "REQUEST_TIMEOUT", PATIENCE)
    monkeypatch.setattr(engine, "REQUEST_TIMEOUT", PATIENCE)


async def start(launcher: DockerLauncher, name: str = "lab", network: str = "isolated") -> Sandbox:
    # those that are tried at the same time are many
    return await launcher.start(make_spec(name, network=network, policy={"network": network, "max_running": 60}))


async def steps(directory: Path, network: str) -> list[str]:
    """Return of which kinds of requests a start consists when nothing goes wrong."""
    with Front(directory / "front") as front:
        launcher = DockerLauncher(front.address)
        await start(launcher, network=network)
        launcher.close()
    well = DockerLauncher()
    await well.stop("lab")
    well.close()
    return front.asked


async def at_once(rows: Iterable[tuple[Any, ...]], one: Callable[..., Awaitable[None]]) -> None:
    """Do it for each row, some at the same time: most of it is waiting."""
    free = asyncio.Semaphore(8)

    async def turn(row: tuple[Any, ...]) -> None:
        async with free:
            await one(*row)

    await asyncio.gather(*map(turn, rows))


@pytest.mark.parametrize(
    ("fault", "network"),
    [
        ("silent", "isolated"),
        ("silent once done", "none"),
        ("breaks off", "open"),
        ("refuses", "isolated"),
        ("says no HTTP", "none"),
        ("says no JSON", "isolated"),
        ("says null", "none"),
        ("says {}", "open"),
    ],
)
def test_a_start_of_which_one_request_goes_wrong_says_so_in_time_and_leaves_nothing(
    fault: Fault, network: str, looker: Looker, tmp_path: Path
) -> None:
    """One of each kind: what two of a kind differ in is the container, and what is made of the answer is the same."""
    told: dict[str, str] = {}

    async def one(number: int, kind: str) -> None:
        name, began = f"lab-{number}", time.monotonic()
        with Front(tmp_path / str(number)) as front:
            launcher = DockerLauncher(front.address)
            front.fail(kind, fault)
            # what an engine says to some requests tells nothing, so nobody reads it
            with contextlib.suppress(LaunchError, PolicyNotEnforceable):
                try:
                    await start(launcher, name, network)
                    await launcher.stop(name)
                except (LaunchError, PolicyNotEnforceable) as error:
                    told[kind] = str(error)
                    raise
            launcher.close()
        assert time.monotonic() - began < SOON, told[kind]
        left = [each for each in looker.left() if f"-{name}." in each or f".{name}." in each]
        # the lock's file, where the engine may have done it later
        assert [each for each in left if not each.endswith(".starting")] == [], told[kind]

    async def each_kind() -> list[str]:
        kinds = await steps(tmp_path, network)
        await at_once(enumerate(kinds), one)
        well = DockerLauncher()
        await well.sweep()
        well.close()
        return kinds

    before = looker.traces()
    kinds = anyio.run(each_kind)
    assert looker.traces() == before
    assert len(kinds) >= 10
    assert len(told) > len(kinds) / 2
    assert all("engine" in each or "The container" in each for each in told.values()), told


def test_an_engine_that_hangs_for_good_from_any_request_of_a_start_on_is_told_in_time_and_swept_once_it_answers(
    looker: Looker, tmp_path: Path
) -> None:
    async def one(number: int, kind: str) -> None:
        name, began = f"lab-{number}", time.monotonic()
        with Front(tmp_path / str(number)) as front:
            launcher = DockerLauncher(front.address)
            front.fail(kind, "silent once done", for_good=True)
            with pytest.raises(LaunchError, match=rf"within {PATIENCE:g} s"):
                await start(launcher, name)
            # the request, why it failed, and what should have undone it: each has an end
            assert time.monotonic() - began < SOON
            launcher.close()

    async def each_kind() -> None:
        kinds = await steps(tmp_path, "isolated")
        await at_once(enumerate(kinds), one)
        assert looker.left() != []
        well = DockerLauncher()
        # what could not be undone holds neither its name nor anything else
        name = f"lab-{len(kinds) - 1}"
        await start(well, name)
        assert [each.name for each in await well.sandboxes() if each.state != "ended"] == [name]
        await well.stop(name)
        await well.sweep()
        well.close()

    before = looker.traces()
    anyio.run(each_kind)
    assert looker.traces() == before


# What only looks, and then what ends something, each with a sandbox of its own.
ACTS: dict[str, Callable[[DockerLauncher, str], Awaitable[object]]] = {
    "ls": lambda launcher, _: launcher.sandboxes(),
    "sweep": lambda launcher, _: launcher.sweep(),
    "log": lambda launcher, name: launcher.log(name),
    "interrupt": lambda launcher, name: launcher.interrupt_kernel(name),
    "restart": lambda launcher, name: launcher.restart_kernel(name),
    "stop": lambda launcher, name: launcher.stop(name),
}


def test_an_engine_that_hangs_at_any_request_of_an_act_is_told_in_time_and_the_act_can_be_done_again(
    looker: Looker, tmp_path: Path
) -> None:
    """Of each act the kinds of requests that none before it has."""

    async def one(number: int, act: str, kind: str) -> None:
        well, name = DockerLauncher(), f"lab-{number}" if act == "stop" else "lab"
        if act == "stop":
            await start(well, name)
        began = time.monotonic()
        with Front(tmp_path / str(number)) as front:
            launcher = DockerLauncher(front.address)
            front.fail(kind, "silent")
            with pytest.raises(EngineUnavailable, match=rf"within {PATIENCE:g} s"):
                await ACTS[act](launcher, name)
            launcher.close()
        assert time.monotonic() - began < SOON
        if act == "stop":
            await well.stop(name)
        else:
            await ACTS[act](well, name)
        well.close()

    async def each_kind() -> None:
        well, rows, seen = DockerLauncher(), [], set[str]()
        await start(well)
        for act, do in ACTS.items():
            with Front(tmp_path / act) as front:
                launcher = DockerLauncher(front.address)
                await do(launcher, "lab")
                launcher.close()
            rows += [(act, kind) for kind in front.asked if kind not in seen]
            seen.update(front.asked)
        assert {act for act, _ in rows} == {"ls", "sweep", "log", "interrupt", "stop"}
        await start(well)
        await at_once(((number, *row) for number, row in enumerate(rows)), one)
        assert await well.stop("lab") is True
        assert await well.stop("lab") is False
        well.close()

    before = looker.traces()
    anyio.run(each_kind)
    assert looker.traces() == before


def test_host_kernels_do_not_wait_for_an_engine_that_hangs(
    looker: Looker, tmp_path: Path, host_kernel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandboxes, "PATIENCE", 0.5)
    monkeypatch.setattr(engine, "REQUEST_TIMEOUT", 1.0)
    monkeypatch.setattr(border, "REQUEST_TIMEOUT", 1.0)

    async def use(front: Front) -> None:
        kernels = Kernels(built_in(), lambda: DockerLauncher(front.address))
        front.fail("GET /version", "silent", for_good=True)
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
