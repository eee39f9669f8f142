"""Two who want the same at the same time: one sandbox, one gateway, one end, and a clear answer for each."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import Future

import anyio
import pytest

from bridge.errors import LaunchError, NameTaken, NoSuchKernel
from bridge.kernels.registry import Kernels
from bridge.launchers import Sandbox
from bridge.launchers.docker import DockerLauncher
from bridge.policy import SandboxRequest, SandboxSpec, built_in
from tests.faults.engines import SOON, AtRequest, Looker
from tests.launchers.conftest import Client, make_spec

BRIDGE = [sys.executable, "-m", "bridge"]
ROUNDS = 3


def both(*commands: list[str]) -> list[subprocess.CompletedProcess[str]]:
    """Run commands of ours at the same time."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen([*BRIDGE, *each], **pipes) for each in commands]  # type: ignore[call-overload]
    told = [each.communicate(timeout=SOON) for each in running]
    return [
        subprocess.CompletedProcess(each.args, each.returncode, *said) for each, said in zip(running, told, strict=True)
    ]


def test_of_two_processes_that_start_one_name_one_gets_it_and_the_other_is_told_who_has_it(looker: Looker) -> None:
    for _ in range(ROUNDS):
        done = both(["up", "lab"], ["up", "lab"])
        won, lost = sorted(done, key=lambda each: each.returncode)
        assert (won.returncode, lost.returncode) == (0, 3), (won.stderr, lost.stderr)
        assert "A sandbox named lab is" in lost.stderr
        assert "Nothing was started" in lost.stderr
        (told,) = subprocess.check_output([*BRIDGE, "run", "lab", "-c", "print(6 * 7)"], text=True).splitlines()
        assert told == "42"
        assert subprocess.run([*BRIDGE, "stop", "lab"], capture_output=True, check=False).returncode == 0
        assert looker.left() == []


async def lost_gateway(launcher: DockerLauncher, looker: Looker) -> Sandbox:
    sandbox = await launcher.start(make_spec("lab"))
    looker.end("gateway")
    (found,) = await launcher.sandboxes()
    assert found.state == "unreachable"
    return sandbox


def test_two_bridges_that_bring_back_one_gateway_end_with_one_and_both_reach_the_kernel(looker: Looker) -> None:
    async def revive() -> None:
        one, other = DockerLauncher(), DockerLauncher()
        for _ in range(ROUNDS):
            sandbox = await lost_gateway(one, looker)
            await asyncio.gather(one.revive("lab"), other.revive("lab"))
            for each in (one, other):
                (found,) = await each.sandboxes()
                assert found.state == "running"
            client = Client(sandbox.connection_file)
            await client.ready()
            assert await client.run("print(6 * 7)") == "42"
            client.close()
            await one.stop("lab")
            assert looker.left() == []
        one.close()
        other.close()

    anyio.run(revive)


def test_of_two_that_stop_one_sandbox_neither_fails(looker: Looker) -> None:
    async def stop() -> None:
        one, other = DockerLauncher(), DockerLauncher()
        for _ in range(ROUNDS):
            await one.start(make_spec("lab"))
            assert True in await asyncio.gather(one.stop("lab"), other.stop("lab"))
            assert looker.left() == []
        one.close()
        other.close()

    anyio.run(stop)


def test_a_start_that_fails_once_another_has_taken_its_name_leaves_the_others_sandbox_alone(looker: Looker) -> None:
    other, theirs = DockerLauncher(), list[Sandbox]()

    class Taken(DockerLauncher):
        """Its sandbox ends as soon as it is started, and somebody else sees that first."""

        async def start(self, spec: SandboxSpec) -> Sandbox:
            sandbox = await super().start(spec)
            looker.end("kernel")
            return sandbox

        async def until_ended(self, name: str) -> None:
            assert await other.stop(name) is True
            theirs.append(await other.start(make_spec(name)))

    async def start() -> None:
        launcher = Taken()
        kernels = Kernels(built_in(), lambda: launcher)
        with pytest.raises(LaunchError, match=r"lab ended while its kernel was starting \(it was removed\)"):
            await kernels.start_sandbox(SandboxRequest(name="lab"))
        (found,) = await other.sandboxes()
        assert (found.state, found.container) == ("running", theirs[0].container)
        assert found.connection_file.exists()
        assert await other.stop("lab", only=found.container) is True
        await kernels.close()
        other.close()

    anyio.run(start)
    assert looker.left() == []


@pytest.mark.parametrize(
    ("network", "stride"),
    [
        ("isolated", 2),  # of two requests of one kind, for the kernel's container and for the gateway's, one
        # the requests are the same but for the network
        ("none", 3),
        ("open", 3),
    ],
)
def test_what_is_stopped_by_another_while_it_is_being_started_ends_with_nothing_and_says_so(
    network: str, stride: int, looker: Looker, at_request: AtRequest
) -> None:
    """The other bridge stops it when the engine is asked for the nth time."""

    async def each_request() -> None:
        one, other = DockerLauncher(), DockerLauncher()
        told, number = [], 0
        loop = asyncio.get_running_loop()
        while True:
            number += stride
            stopped: list[Future[bool]] = []

            def stop(stopped: list[Future[bool]] = stopped) -> None:
                stopped.append(asyncio.run_coroutine_threadsafe(other.stop("lab"), loop))

            at_request.set(one, number, stop)
            try:
                await one.start(make_spec("lab", network=network))
            except LaunchError as error:
                told.append(str(error))
            if not stopped:
                break
            await asyncio.wrap_future(stopped[0])
            await other.stop("lab")
            await other.sweep()
            assert looker.left() == [], told
        await one.stop("lab")
        one.close()
        other.close()
        assert told
        if stride < 3:  # what fails in the moment in which the other begins is told as that
            assert any("was stopped while it was being started" in each for each in told), told

    anyio.run(each_request)


def test_a_sandbox_that_is_being_started_is_nobodys_to_revive_list_or_sweep(
    looker: Looker, at_request: AtRequest
) -> None:
    async def each_request() -> int:
        one, other = DockerLauncher(), DockerLauncher()
        loop, number = asyncio.get_running_loop(), 0

        async def meddle() -> None:
            assert await other.sandboxes() == []
            assert await other.sweep() == []
            with pytest.raises(NoSuchKernel, match="No sandbox of yours named lab is running"):
                await other.revive("lab")
            with pytest.raises(NameTaken, match="A sandbox named lab is"):
                await other.start(make_spec("lab"))

        while True:
            number += 2  # of two requests of one kind, for the kernel's container and for the gateway's, one
            meddled: list[bool] = []

            def meddling(meddled: list[bool] = meddled) -> None:
                meddled.append(True)
                asyncio.run_coroutine_threadsafe(meddle(), loop).result(SOON)

            at_request.set(one, number + 4, meddling)  # by the fifth request the name is claimed
            await one.start(make_spec("lab"))
            at_request.set(one, 0, meddling)
            await one.stop("lab")
            if not meddled:
                break
        one.close()
        other.close()
        return number

    assert anyio.run(each_request) > 5
    assert looker.left() == []
