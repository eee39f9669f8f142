"""A start that is cancelled or killed at each of its steps: nothing is left of it that is not found and removed."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import signal
import subprocess
import sys
from functools import partial

import anyio
import pytest

from bridge.errors import LaunchError
from bridge.kernels.registry import Kernels
from bridge.launchers.docker import DockerLauncher
from bridge.policy import SandboxRequest, built_in
from tests.faults.engines import SOON, AtRequest, Looker
from tests.launchers.conftest import make_spec


@pytest.mark.parametrize(
    ("network", "done", "stride"),
    [
        ("isolated", False, 1),
        ("open", True, 1),
        # the requests are the same but for the network, and so is what is undone but for the sockets' directory
        ("none", False, 3),
        ("none", True, 4),
    ],
)
def test_a_start_that_is_cancelled_at_any_of_its_requests_leaves_nothing(
    network: str, stride: int, *, done: bool, looker: Looker, at_request: AtRequest
) -> None:
    """In flight, or once it is done."""

    async def each_request() -> int:
        launcher, loop, number = DockerLauncher(), asyncio.get_running_loop(), 0
        while True:
            number += stride
            task = asyncio.create_task(launcher.start(make_spec("lab", network=network)))
            at_request.set(launcher, number, partial(loop.call_soon_threadsafe, task.cancel), done=done)
            with contextlib.suppress(asyncio.CancelledError):
                await task
                break
            assert looker.left() == [], number
        await launcher.stop("lab")
        launcher.close()
        return number

    before = looker.traces()
    assert anyio.run(each_request) > 12
    assert looker.traces() == before


@pytest.mark.parametrize("number", [1, 2])
def test_a_start_that_is_cancelled_while_its_failure_is_explained_leaves_nothing(
    number: int, looker: Looker, at_request: AtRequest
) -> None:
    async def start() -> None:
        launcher, loop = DockerLauncher(), asyncio.get_running_loop()
        at_request.set(launcher, 99, lambda: None)
        await launcher.start(make_spec("lab"))
        last = at_request.asked
        await launcher.stop("lab")
        task = asyncio.create_task(launcher.start(make_spec("lab")))

        def fail() -> None:
            looker.end("kernel")  # so that there is something to explain
            # the next requests are the explanation's
            at_request.set(launcher, number, partial(loop.call_soon_threadsafe, task.cancel))
            raise LaunchError("The request was lost.")

        at_request.set(launcher, last, fail)
        with pytest.raises(asyncio.CancelledError):
            await task
        launcher.close()

    anyio.run(start)
    assert looker.left() == []


def test_a_start_and_its_first_answer_that_are_cancelled_at_any_request_leave_nothing(
    looker: Looker, at_request: AtRequest
) -> None:
    async def each_request(number: int) -> int:
        """Begin with a request; those before are the sweep's and the launcher's, and cancelled above."""
        loop = asyncio.get_running_loop()
        launcher = DockerLauncher()
        kernels = Kernels(built_in(), lambda: launcher)
        while True:
            number += 1
            task = asyncio.create_task(kernels.start_sandbox(SandboxRequest(name="lab")))
            at_request.set(launcher, number, partial(loop.call_soon_threadsafe, task.cancel), done=False)
            with contextlib.suppress(asyncio.CancelledError):
                await task
                break
            assert looker.left() == [], number
            assert kernels.statuses() == []
        asked.append(at_request.asked)
        await kernels.stop_sandbox("lab")
        await kernels.close()
        return number

    asked: list[int] = []
    anyio.run(each_request, 99)  # ZMQ keeps what its first context has opened
    before = looker.traces()
    begin = asked[0] - 6
    assert anyio.run(each_request, begin) - begin > 3
    assert looker.traces() == before


# Is held up in the moment in which a file is written and has not got its name, and killed there.
HALF_WRITTEN = """
import os, signal, sys
from pathlib import Path
from bridge.replacing import replace
def held_up(*_):
    print("half written", flush=True)
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)
Path.replace = held_up
replace(Path(sys.argv[1]), b"a key")
"""


@pytest.mark.parametrize("name", ["kernel-bridge-lab.json", ".kernel-bridge-lab.0123456789abcdef.starting"])
def test_a_half_written_file_is_swept_once_whoever_wrote_it_has_ended(name: str, looker: Looker) -> None:
    def swept() -> list[str]:
        launcher = DockerLauncher()
        anyio.run(launcher.sweep)
        launcher.close()
        return looker.left()

    with subprocess.Popen(
        [sys.executable, "-c", HALF_WRITTEN, looker.runtime / name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writing:
        assert writing.stdin is not None
        assert writing.stdout is not None
        assert writing.stdout.readline() == b"half written\n"
        (draft,) = swept()
        assert draft.endswith(".part")
        assert (looker.runtime / draft).read_bytes() == b"a key"
        writing.stdin.close()
        assert writing.wait(SOON) == -signal.SIGKILL
    assert swept() == []


# Forks for each number that it reads, so that the interpreter's start is paid for once.
KILLED = """
import os, pickle, signal, sys
import anyio, docker
from bridge.launchers.docker import DockerLauncher
from bridge.launchers.docker.engine import Engine
spec = pickle.load(sys.stdin.buffer)
request, asked = Engine._request, []
def watched(self, what, call):
    asked.append(what)
    if len(asked) == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return request(self, what, call)
Engine._request = watched
for line in sys.stdin.buffer:
    number = int(line)
    child = os.fork()
    if not child:
        anyio.run(DockerLauncher().start, spec)
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.mark.parametrize(
    ("network", "stride"),
    [
        ("isolated", 1),
        # the requests are the same but for the network, and what is left but for that and the sockets' directory
        ("none", 4),
        ("open", 4),
    ],
)
def test_of_a_start_that_is_killed_at_any_of_its_requests_the_next_one_or_ls_or_gc_removes_all(
    network: str, stride: int, looker: Looker
) -> None:
    """At each step the next start of that name, a listing and a sweep take their turn."""
    spec = make_spec("lab", network=network)
    killed = subprocess.Popen([sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert killed.stdin is not None
    assert killed.stdout is not None
    killed.stdin.write(pickle.dumps(spec))

    async def start(launcher: DockerLauncher) -> None:
        assert (await launcher.start(spec)).name == "lab"
        assert [each.state for each in await launcher.sandboxes()] == ["running"]
        await launcher.stop("lab")

    async def listing(launcher: DockerLauncher) -> None:
        kernels = Kernels(built_in(), lambda: launcher)
        listed, trouble = await kernels.listing()
        assert trouble is None
        assert [each.state for each in listed] in ([], ["ended: its start was cut short"])
        await kernels.close()

    async def sweep(launcher: DockerLauncher) -> None:
        await launcher.sweep()

    async def clean_up(number: int) -> None:
        launcher = DockerLauncher()
        await (start, listing, sweep)[number % 3](launcher)
        await launcher.sweep()  # also what no container names
        assert await launcher.sandboxes() == []
        launcher.close()

    try:
        number, status = 0, signal.SIGKILL.value
        while status == signal.SIGKILL:
            number += stride
            killed.stdin.write(b"%d\n" % number)
            killed.stdin.flush()
            status = int(killed.stdout.readline())
            if status == signal.SIGKILL:
                anyio.run(clean_up, number)
                assert looker.left() == [], number
        assert (status, number > 12) == (0, True)
    finally:
        killed.kill()
        killed.communicate(timeout=SOON)
