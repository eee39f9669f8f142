"""An engine that is stopped, killed, frozen and started again: before, during and after a start, and under a kernel.

And one whose disk is full: it has a small one, on which our image and little else has room.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path

import anyio
import pytest

from bridge.connection import load
from bridge.errors import BridgeError, EngineUnavailable, LaunchError, NameTaken
from bridge.kernels.registry import Kernels
from bridge.kernels.sandboxes import Sandboxes
from bridge.launchers.docker import DockerLauncher, border, engine
from bridge.policy import SandboxRequest, built_in
from tests.engines import OtherEngine, load_image, other_engine
from tests.faults.engines import REAL, SOON, AtRequest, Looker
from tests.launchers.conftest import Client, make_spec

SHUT_DOWN = "or when the engine was shut down"


@pytest.fixture(scope="module")
def loaded(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OtherEngine]:
    with other_engine(tmp_path_factory.mktemp("engine"), size="600m") as engine:
        load_image(engine, image)
        yield engine


@pytest.fixture
def other(loaded: OtherEngine, looker: Looker, monkeypatch: pytest.MonkeyPatch) -> Iterator[OtherEngine]:
    """The second engine, which runs at the beginning and the end of each test and has nothing left of it then."""
    monkeypatch.setenv("KERNEL_BRIDGE_DOCKER_HOST", loaded.address)
    if not loaded.runs:
        loaded.start()
    yield loaded
    if not loaded.runs:
        loaded.start()
    assert loaded.command("gc", "--all").returncode == 0


def told(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_start_on_an_engine_that_was_ended_says_that_it_does_not_run(
    how: signal.Signals, other: OtherEngine, runtime: Path
) -> None:
    other.end(how)
    done = other.command("up", "lab")
    assert done.returncode == 3
    assert "does not run" in told(done)
    assert "Start it and try again" in told(done)
    assert list(runtime.iterdir()) == []
    other.start()
    assert other.command("up", "lab").returncode == 0
    assert other.command("stop", "lab").returncode == 0


def test_an_engine_that_is_frozen_is_told_in_time_and_goes_on_where_it_was(
    other: OtherEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def freeze() -> None:
        launcher = DockerLauncher()
        await launcher.start(make_spec("lab"))
        launcher.close()  # its next connection is one of less patience
        other.send(signal.SIGSTOP)
        began = time.monotonic()
        try:
            with monkeypatch.context() as impatient:
                impatient.setattr(border, "REQUEST_TIMEOUT", 1.0)
                impatient.setattr(engine, "REQUEST_TIMEOUT", 1.0)
                for act in (launcher.sandboxes(), launcher.stop("lab"), launcher.start(make_spec("more"))):
                    with pytest.raises(EngineUnavailable, match="within 1 s"):
                        await act
        finally:
            other.send(signal.SIGCONT)
        assert time.monotonic() - began < SOON
        launcher.close()
        assert await launcher.stop("lab") is True
        await launcher.sweep()
        assert await launcher.sandboxes() == []
        launcher.close()

    anyio.run(freeze)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_kernel_that_ended_with_its_engine_is_told_once_as_that_and_its_file_and_name_are_free(
    how: signal.Signals, other: OtherEngine, runtime: Path
) -> None:
    assert other.command("up", "lab").returncode == 0
    other.end(how)
    without = told(other.command("ls"))
    assert "Sandboxes are not shown" in without
    other.start()
    listed = told(other.command("ls"))
    assert "lab  sandbox  ended: " in listed
    assert SHUT_DOWN in listed
    assert list(runtime.iterdir()) == []
    assert "lab" not in told(other.command("ls"))
    assert other.command("up", "lab").returncode == 0
    assert other.command("stop", "lab").returncode == 0


def test_a_bridge_that_is_connected_when_the_engine_is_restarted_says_what_became_of_the_variables(
    other: OtherEngine,
) -> None:
    async def connected() -> None:
        kernels = Kernels(built_in(), DockerLauncher)
        # its sockets are seen from here, whatever network the engine has
        await kernels.start_sandbox(SandboxRequest(name="lab", network="none"))
        await kernels.execute("x = 1", timeout=SOON)
        other.end()
        with pytest.raises(BridgeError, match="Nothing was executed"):
            await kernels.execute("print(x)", timeout=SOON)
        other.start()
        with pytest.raises(BridgeError, match="All its variables are lost") as over:
            await kernels.execute("print(x)", timeout=SOON)
        assert SHUT_DOWN in str(over.value)
        assert "`kernel-bridge up lab` starts another" in str(over.value)
        await kernels.start_sandbox(SandboxRequest(name="lab", network="none"))
        outcome = await kernels.execute("print(6 * 7)", timeout=SOON)
        assert outcome.result is not None
        assert "42" in str(outcome.result.outputs)
        await kernels.stop_sandbox("lab")
        await kernels.close()

    anyio.run(connected)


def test_where_the_engine_lets_containers_live_the_kernel_is_there_again_with_its_variables_and_its_ports(
    other: OtherEngine, runtime: Path
) -> None:
    other.end()
    other.start("--live-restore")
    try:
        assert other.command("up", "lab").returncode == 0
        assert other.command("run", "lab", "-c", "x = 41").returncode == 0
        before = load(runtime / "kernel-bridge-lab.json")
        for how in (signal.SIGTERM, signal.SIGKILL):
            other.end(how)
            failed = other.command("run", "lab", "-c", "print(x + 1)")
            assert failed.returncode == 3
            assert "does not run" in told(failed)
            # its ports are closed meanwhile
            assert "not answering: whether it has ended is known to its engine alone" in told(other.command("ls"))
            other.start("--live-restore")
            assert "lab  sandbox  alive  " in told(other.command("ls"))
            done = other.command("run", "lab", "-c", "print(x + 1)")
            assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
            assert load(runtime / "kernel-bridge-lab.json") == before
        # such an engine counts who uses a volume wrongly, until it is started once more: that is no failure
        for act in ("stop", "up", "stop"):
            done = other.command(act, "lab")
            assert done.returncode == 0, done.stderr
    finally:
        other.end()
        other.start()
    assert other.command("gc").returncode == 0
    with other.asked() as there:
        assert there.volumes.list() == []


def test_where_the_engine_has_changed_the_ports_the_file_is_written_again_and_ls_says_so(
    other: OtherEngine, runtime: Path
) -> None:
    assert other.command("up", "lab").returncode == 0
    assert other.command("run", "lab", "-c", "x = 41").returncode == 0
    for command in (["ls"], ["run", "lab", "-c", "print(x + 1)"]):
        before = load(runtime / "kernel-bridge-lab.json")
        with other.asked() as there:
            (gateway,) = there.containers.list(filters={"label": "io.kernel-bridge.role=gateway"})
            gateway.restart(timeout=0)
        said = told(other.command(*command))
        if command[0] == "ls":
            assert "alive, the engine had changed its ports, so its connection file was written again" in said
        else:
            assert "42\n" in said
        after = load(runtime / "kernel-bridge-lab.json")
        assert after.key == before.key
        assert after.shell_port != before.shell_port
    assert "lab  sandbox  alive  " in told(other.command("ls"))
    assert other.command("stop", "lab").returncode == 0


def test_of_two_engines_sandboxes_of_one_name_neither_takes_the_others_connection_file(
    other: OtherEngine, runtime: Path
) -> None:
    file = runtime / "kernel-bridge-lab.json"

    async def start(there: DockerLauncher) -> bytes:
        # its sockets are seen from here, whatever network the engine has
        client = Client((await there.start(make_spec("lab", network="none"))).connection_file)
        await client.ready()
        client.close()
        return file.read_bytes()

    async def both(here: DockerLauncher, there: DockerLauncher) -> None:
        theirs = await start(there)
        with pytest.raises(NameTaken, match="is of a kernel that this engine does not have, and something listens"):
            await here.start(make_spec("lab"))
        assert file.read_bytes() == theirs
        await there.stop("lab")

        await here.start(make_spec("lab"))
        ours = load(file)
        file.unlink()  # so that the other engine finds the place free
        theirs = await start(there)
        (found,) = await here.sandboxes()
        assert (found.state, found.moved) == ("running", True)
        for act in (here.restore_connection_file("lab"), Sandboxes(lambda: here).ready("lab")):
            with pytest.raises(LaunchError, match="is of another kernel, and something listens"):
                await act
        assert file.read_bytes() == theirs
        await there.stop("lab")
        assert not file.exists()
        await here.restore_connection_file("lab")
        assert load(file) == ours

        await there.sweep()
        assert load(file) == ours
        file.unlink()
        theirs = await start(there)
        await here.stop("lab")
        assert file.read_bytes() == theirs
        await there.stop("lab")
        assert list(runtime.iterdir()) == []

    async def ended(both: Coroutine[None, None, None], *launchers: DockerLauncher) -> None:
        try:
            await both
        finally:
            for each in launchers:  # the one here is nobody else's to clean up
                await each.stop("lab")
                each.close()

    here, there = DockerLauncher(f"unix://{REAL}"), DockerLauncher(other.address)
    anyio.run(ended, both(here, there), here, there)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_an_engine_that_ends_within_a_start_is_told_and_what_is_left_goes_with_the_next(
    how: signal.Signals, other: OtherEngine, looker: Looker, at_request: AtRequest
) -> None:
    async def steps() -> None:
        # as it is looked at, as the name is claimed, as the containers are made, and as they are looked into
        for number in (4, 9) if how == signal.SIGTERM else (2, 6):
            launcher = DockerLauncher()
            ended = threading.Event()

            def end(ended: threading.Event = ended) -> None:
                other.end(how)
                ended.set()

            at_request.set(launcher, number, end)
            with pytest.raises(LaunchError, match=r"[Tt]he (container )?engine|The container of sandbox lab"):
                await launcher.start(make_spec("lab"))
            launcher.close()
            assert ended.wait(SOON)  # nobody waits for the request any more in which that is done
            other.start()
            launcher = DockerLauncher()
            await launcher.start(make_spec("lab"))
            await launcher.stop("lab")
            await launcher.sweep()
            assert await launcher.sandboxes() == []
            launcher.close()
            assert Looker(launcher.owner, looker.runtime, other.address).left() == []

    anyio.run(steps)


def test_an_engine_that_can_run_nothing_in_a_container_fails_a_start_with_its_words_and_nothing_is_left(
    other: OtherEngine, looker: Looker
) -> None:
    other.end()
    other.start(XDG_RUNTIME_DIR="/nowhere")  # where its shim puts what it tells runc of each exec
    try:
        done = other.command("up", "lab")
        assert done.returncode == 3
        assert "the engine could run nothing in it (OCI runtime exec failed: open /nowhere/runc-process" in told(done)
        assert "See the engine's log" in told(done)
        assert Looker(looker.whose, looker.runtime, other.address).left() == []
    finally:
        other.end()
        other.start()


def test_an_engine_whose_disk_is_full_fails_a_start_with_its_words_and_nothing_is_left(
    other: OtherEngine, looker: Looker
) -> None:
    filler = Path(f"/proc/{other.pid}/root/run/data/filler")

    async def start() -> None:
        launcher = DockerLauncher()
        with pytest.raises(LaunchError, match="no space left on device"):
            await launcher.start(make_spec("lab"))
        await launcher.sweep()
        assert Looker(launcher.owner, looker.runtime, other.address).left() == []
        filler.unlink()
        await launcher.start(make_spec("lab"))
        await launcher.stop("lab")
        launcher.close()

    try:
        with filler.open("wb", buffering=0) as full, contextlib.suppress(OSError):
            while full.write(bytes(1 << 16)):
                pass
        anyio.run(start)
    finally:
        filler.unlink(missing_ok=True)
    assert Looker(looker.whose, looker.runtime, other.address).left() == []
