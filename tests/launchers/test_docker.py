"""What only the Docker launcher can get wrong: its objects in the engine, and starts that are cut short."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pickle
import signal
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import docker
import pytest

from bridge.connection import ConnectionInfo, load, save
from bridge.errors import EngineUnavailable, LaunchError, NameTaken, PolicyNotEnforceable, PolicyRefused
from bridge.kernels.registry import Kernels
from bridge.kernels.sandboxes import Sandboxes
from bridge.launchers import Sandbox
from bridge.launchers.docker import DockerLauncher, document, owner, places, verification
from bridge.launchers.docker.engine import Engine
from bridge.policy import SandboxSpec, built_in

pytestmark = pytest.mark.anyio

Spec = Callable[..., SandboxSpec]
SOON = 30.0


@pytest.fixture
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env(timeout=60)
    yield client
    client.close()


@pytest.fixture
async def launcher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, image: str) -> AsyncIterator[DockerLauncher]:
    """A launcher whose owner is this test alone, so that "nothing is left" can be said exactly."""
    monkeypatch.setenv("KERNEL_BRIDGE_OWNER", f"test-{uuid.uuid4().hex}")
    (tmp_path / "runtime").mkdir(mode=0o700)
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    launcher = DockerLauncher()
    yield launcher
    for each in await launcher.sandboxes():
        await launcher.stop(each.name)
    launcher.close()


@pytest.fixture
def left(launcher: DockerLauncher, engine: docker.DockerClient, tmp_path: Path) -> Callable[[], list[str]]:
    """Everything that this test's sandboxes have, in the engine and on the host."""
    directories = set(places.socket_parent().glob("*"))

    def look() -> list[str]:
        ours: dict[str, Any] = {"label": f"{owner.OWNER}={launcher.owner}"}
        containers = engine.containers.list(all=True, ignore_removed=True, filters=ours)
        found: list[Any] = [*containers, *engine.volumes.list(filters=ours), *engine.networks.list(filters=ours)]
        files = [*(tmp_path / "runtime").iterdir(), *(set(places.socket_parent().glob("*")) - directories)]
        return [*(str(each.name) for each in found), *map(str, files)]

    return look


def of(engine: docker.DockerClient, launcher: DockerLauncher, role: str) -> Any:
    labels = [f"{owner.OWNER}={launcher.owner}", f"{owner.ROLE}={role}"]
    (found,) = engine.containers.list(all=True, ignore_removed=True, filters={"label": labels})
    return found


# -- what is in the engine


async def test_ports_are_published_on_loopback_only(
    launcher: DockerLauncher, engine: docker.DockerClient, spec: Spec
) -> None:
    sandbox = await launcher.start(spec("ports"))
    info = load(sandbox.connection_file)
    ports = {info.shell_port, info.iopub_port, info.stdin_port, info.control_port, info.hb_port}
    assert len(ports) == 5
    settings = of(engine, launcher, "gateway").attrs["NetworkSettings"]
    assert {(each["HostIp"], int(each["HostPort"])) for bound in settings["Ports"].values() for each in bound} == {
        ("127.0.0.1", port) for port in ports
    }
    assert not of(engine, launcher, "kernel").attrs["NetworkSettings"]["Ports"]
    host = settings["Networks"]["bridge"]["Gateway"]
    for port in ports:
        socket.create_connection(("127.0.0.1", port), timeout=SOON).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, port), timeout=SOON)


async def test_all_objects_carry_the_owner_and_none_is_restarted_or_privileged(
    launcher: DockerLauncher, engine: docker.DockerClient, spec: Spec, left: Callable[[], list[str]]
) -> None:
    await launcher.start(spec("labels"))
    stem = f"kernel-bridge.labels.{launcher.owner[:8]}"
    found = left()
    assert {stem, f"{stem}.gateway"} <= set(found)
    assert [each for each in found if each.startswith(f"{stem}.") and len(each) == len(stem) + 17]
    for role in ("kernel", "gateway"):
        host = of(engine, launcher, role).attrs["HostConfig"]
        assert host["RestartPolicy"]["Name"] == "no"
        assert not host["Privileged"]
        assert host["CapDrop"] == ["ALL"]
        assert not host["Binds"]


@pytest.fixture
def make_image(engine: docker.DockerClient, image: str) -> Iterator[Callable[..., str]]:
    """Make images of ours with something more in them."""
    made: list[str] = []

    def make(*changes: str) -> str:
        container = engine.containers.create(image)
        repository = f"kernel-bridge/test-{uuid.uuid4().hex[:8]}"
        try:
            container.commit(repository, "1", changes=list(changes))
        finally:
            container.remove()
        made.append(f"{repository}:1")
        return made[-1]

    yield make
    for each in made:
        engine.images.remove(each, force=True)


def allow(reference: str) -> dict[str, Any]:
    rules = [{"repository": reference.partition(":")[0], "tags": ["*"]}]
    return {"images": rules, "default_image": reference}


async def test_an_image_has_no_say_in_how_it_is_run(
    make_image: Callable[..., str], launcher: DockerLauncher, spec: Spec, connect: Any
) -> None:
    reference = make_image(
        "ENV EVIL=1 PYTHONSTARTUP=/evil.py HOME=/evil",
        'ENTRYPOINT ["/bin/false"]',
        "HEALTHCHECK CMD /bin/false",
        "USER root",
        "WORKDIR /etc",
    )
    client = await connect(await launcher.start(spec("image", policy=allow(reference))))
    code = "import os; print('EVIL' in os.environ, 'PYTHONSTARTUP' in os.environ, os.environ['HOME'], os.getuid() > 0)"
    assert await client.run(code) == "False False /home/kernel True"


@pytest.mark.parametrize(
    ("change", "word"),
    [("VOLUME /data", "/data"), ("ENV LD_PRELOAD=/evil.so", "LD_PRELOAD"), (f"LABEL {owner.IMAGE}=0", "label")],
)
async def test_an_image_that_could_undo_the_seal_is_refused(
    *,
    change: str,
    word: str,
    launcher: DockerLauncher,
    spec: Spec,
    make_image: Callable[..., str],
    left: Callable[[], list[str]],
) -> None:
    with pytest.raises(LaunchError, match=word):
        await launcher.start(spec("image", policy=allow(make_image(change))))
    assert not left()


async def test_a_runtime_that_the_engine_does_not_have_is_not_replaced_by_another(
    launcher: DockerLauncher, spec: Spec, left: Callable[[], list[str]]
) -> None:
    with pytest.raises(PolicyNotEnforceable, match=r"'sealed-vm' is not known to the engine, which has .*runc"):
        await launcher.start(spec("runtime", policy={"runtime": "sealed-vm"}))
    assert not left()


async def test_a_runtime_that_only_containerd_may_know_is_the_engines_to_refuse(
    launcher: DockerLauncher, spec: Spec, left: Callable[[], list[str]]
) -> None:
    with pytest.raises(LaunchError, match=r"The engine did not .*io\.containerd\.nonesuch\.v1"):
        await launcher.start(spec("runtime", policy={"runtime": "io.containerd.nonesuch.v1"}))
    assert not left()


async def test_the_policys_runtime_is_the_one_that_a_sandbox_runs_under_and_its_gateway_the_engines_own(
    launcher: DockerLauncher, engine: docker.DockerClient, spec: Spec, connect: Any
) -> None:
    other = "io.containerd.runc.v2"
    info = engine.info()
    assert other in info["Runtimes"]
    assert info["DefaultRuntime"] == "runc"
    client = await connect(await launcher.start(spec("runtime", policy={"runtime": other})))
    assert await client.run("print(6 * 7)") == "42"
    assert of(engine, launcher, "kernel").attrs["HostConfig"]["Runtime"] == other
    assert of(engine, launcher, "gateway").attrs["HostConfig"]["Runtime"] == "runc"


async def test_an_engine_that_runs_a_sandbox_under_another_runtime_is_found_out(
    launcher: DockerLauncher, spec: Spec, left: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    create = Engine.create

    async def forgetful(self: Engine, asked: document.Document, name: str) -> str:
        host = {key: value for key, value in asked["HostConfig"].items() if key != "Runtime"}
        return await create(self, {**asked, "HostConfig": host}, name)

    monkeypatch.setattr(Engine, "create", forgetful)
    with pytest.raises(LaunchError, match=r"Runtime is 'runc' in place of 'io\.containerd\.runc\.v2'"):
        await launcher.start(spec("runtime", policy={"runtime": "io.containerd.runc.v2"}))
    assert not left()


HOLD = """
import pathlib, socket
cgroup = pathlib.Path("/sys/fs/cgroup")
counted = next(each for each in (cgroup / "memory.current", cgroup / "memory/memory.usage_in_bytes") if each.exists())
before, server, held, pairs = int(counted.read_text()), socket.create_server(("127.0.0.1", 0)), 0, []
while held < 48 << 20:
    pairs.append((sender := socket.create_connection(server.getsockname()), server.accept()[0]))
    sender.setblocking(False)
    try:
        while True:
            held += sender.send(bytes(1 << 16))
    except BlockingIOError:
        pass
print(int(counted.read_text()) - before > held // 2)
"""


async def test_what_waits_in_sockets_is_in_the_memory_where_the_engine_is_told_to_count_it(
    launcher: DockerLauncher, spec: Spec, connect: Any
) -> None:
    client = await connect(await launcher.start(spec("holding")))
    assert await client.run(HOLD) == str((await launcher.check()).counts_sockets)


# -- starts that are cut short

STEPS = [
    ("create the network", 1),
    ("look for the image", 1),
    ("create the container", 1),
    ("create the container", 2),
    ("attach to the container", 1),
    ("start the container", 1),
    ("start the container", 2),
    ("look into the container", 1),
    ("look at the network", 1),
    ("hand the connection over", 1),
]


def at_step(monkeypatch: pytest.MonkeyPatch, doing: str, number: int, act: Callable[[], object]) -> list[str]:
    """Have something happen when the engine is asked to do a thing for the nth time; returns what was asked of it."""
    asked: list[str] = []
    request = Engine._request

    def watched(self: Engine, what: str, call: Any) -> Any:
        asked.append(what)
        if what == doing and asked.count(doing) == number:
            act()
        return request(self, what, call)

    monkeypatch.setattr(Engine, "_request", watched)
    return asked


@pytest.mark.parametrize(("doing", "number"), STEPS)
async def test_a_start_that_is_cancelled_leaves_nothing(
    *,
    doing: str,
    number: int,
    launcher: DockerLauncher,
    spec: Spec,
    left: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    with anyio.CancelScope() as scope:
        asked = at_step(monkeypatch, doing, number, lambda: loop.call_soon_threadsafe(scope.cancel))
        await launcher.start(spec("cancelled", network="open" if "network" in doing else "isolated"))
    assert scope.cancelled_caught
    assert doing in asked
    assert not left()


@pytest.mark.parametrize("network", ["isolated", "none", "open"])
async def test_a_start_whose_task_is_cancelled_leaves_nothing(
    network: str, launcher: DockerLauncher, spec: Spec, left: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(launcher.start(spec("cancelled", network=network)))
    at_step(monkeypatch, "start the container", 1, lambda: loop.call_soon_threadsafe(task.cancel))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not left()


@pytest.mark.parametrize(
    ("doing", "number"), [("create the network", 1), ("create the container", 2), ("start the container", 2)]
)
async def test_a_step_that_fails_is_told_as_itself_and_leaves_nothing(
    *,
    doing: str,
    number: int,
    launcher: DockerLauncher,
    spec: Spec,
    left: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> None:
        raise LaunchError("the engine is on strike")

    at_step(monkeypatch, doing, number, fail)
    with pytest.raises(LaunchError, match="on strike"):
        await launcher.start(spec("failed", network="open"))
    assert not left()


async def test_the_key_is_not_handed_over_to_what_does_not_verify(
    launcher: DockerLauncher, spec: Spec, left: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = at_step(monkeypatch, "nothing", 0, lambda: None)
    monkeypatch.setattr(verification, "network_problems", lambda *_: ["it is in the network of the host"])
    with pytest.raises(
        LaunchError, match="not make sandbox sealed as it was asked to: it is in the network of the host"
    ):
        await launcher.start(spec("sealed"))
    assert "start the container" in asked
    assert "hand the connection over" not in asked
    assert not left()


@pytest.mark.parametrize("ignored", ["ReadonlyRootfs", "CapDrop", "PidsLimit", "SecurityOpt", "Tmpfs"])
async def test_an_engine_that_ignores_what_it_was_asked_for_is_found_out(
    *,
    ignored: str,
    launcher: DockerLauncher,
    spec: Spec,
    left: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create = Engine.create

    async def forgetful(self: Engine, asked: document.Document, name: str) -> str:
        host = {key: value for key, value in asked["HostConfig"].items() if key != ignored}
        return await create(self, {**asked, "HostConfig": host}, name)

    monkeypatch.setattr(Engine, "create", forgetful)
    with pytest.raises(LaunchError, match=ignored):
        await launcher.start(spec("forgetful", network="none"))
    assert not left()


@pytest.mark.parametrize("network", ["isolated", "none"])
async def test_a_gateway_that_comes_back_is_looked_into_as_at_a_start(
    network: str, launcher: DockerLauncher, engine: docker.DockerClient, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    await launcher.start(spec("lost", network=network))
    of(engine, launcher, "gateway").remove(force=True)
    # as an engine whose settings and whose containers differ; a mount is where the socket directory was
    inside = Engine.execute

    async def elsewhere(self: Engine, container: str, command: list[str]) -> str:
        said = await inside(self, container, command)
        return said.replace("CapBnd:\t0", "CapBnd:\tf").replace(f"==> {document.OUTSIDE}\n", "==> moved\n")

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "execute", elsewhere)
        with pytest.raises(LaunchError, match=r"the gateway of sandbox lost .*CapBnd.*kernel still runs") as refused:
            await launcher.revive("lost")
    assert ("is not the directory that was checked" in str(refused.value)) is (network == "none")
    (found,) = await launcher.sandboxes()
    assert found.state == "unreachable", "the gateway was removed, and the kernel lives"
    await launcher.revive("lost")
    (found,) = await launcher.sandboxes()
    assert found.state == "running"


async def test_a_container_that_ends_at_once_is_the_reason_that_is_told(
    launcher: DockerLauncher, spec: Spec, left: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document, "SUPERVISOR", ["/bin/false"])
    with pytest.raises(LaunchError, match="ended as soon as it was started: its supervisor ended with exit status 1"):
        await launcher.start(spec("short", network="none"))
    assert not left()


KILLED_IN_A_START = """
import os, signal, anyio, pickle, sys
from bridge.launchers.docker import DockerLauncher
from bridge.launchers.docker.engine import Engine
request = Engine._request
def watched(self, what, call):
    if what == "look into the container":
        os.kill(os.getpid(), signal.SIGKILL)
    return request(self, what, call)
Engine._request = watched
anyio.run(DockerLauncher().start, pickle.load(sys.stdin.buffer))
"""


async def test_a_bridge_that_is_killed_in_a_start_leaves_only_what_the_next_sweep_removes(
    launcher: DockerLauncher,
    engine: docker.DockerClient,
    spec: Spec,
    left: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed = await anyio.run_process(
        [sys.executable, "-c", KILLED_IN_A_START], input=pickle.dumps(spec("orphan", network="open")), check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    # nobody will ever send the line: the supervisor reads the end of its input and ends
    of(engine, launcher, "kernel").wait(timeout=SOON)
    (orphan,) = await launcher.sandboxes()
    assert (orphan.name, orphan.state) == ("orphan", "ended")
    await launcher.sweep()
    assert not left()


# -- two at the same time


async def outcomes(*starts: Any) -> list[Any]:
    results = await asyncio.gather(*starts, return_exceptions=True)
    return sorted(results, key=lambda each: not isinstance(each, Sandbox))


async def test_of_two_starts_of_one_name_exactly_one_gets_it(
    launcher: DockerLauncher, spec: Spec, connect: Any
) -> None:
    won, lost = await outcomes(launcher.start(spec("both")), launcher.start(spec("both")))
    assert isinstance(won, Sandbox), won
    assert isinstance(lost, NameTaken), lost
    assert [each.name for each in await launcher.sandboxes()] == ["both"]
    client = await connect(won)
    assert await client.run("print(1)") == "1"


async def test_two_starts_at_once_do_not_get_past_the_number_that_may_run(launcher: DockerLauncher, spec: Spec) -> None:
    one = {"max_running": 1}
    results = await outcomes(*(launcher.start(spec(name, network="none", policy=one)) for name in ("left", "right")))
    running = await launcher.sandboxes()
    assert len(running) <= 1
    assert isinstance(results[1], PolicyRefused)
    assert len(running) == sum(isinstance(each, Sandbox) for each in results)


# -- whose it is


async def test_a_listing_removes_what_has_ended_and_leaves_a_file_that_may_be_another_engines(
    launcher: DockerLauncher, engine: docker.DockerClient, spec: Spec, left: Callable[[], list[str]]
) -> None:
    sandbox = await launcher.start(spec("here"))
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    theirs = sandbox.connection_file.with_name(owner.connection_file_name("there"))
    save(replace(load(sandbox.connection_file), control_port=port, start="f" * 16), theirs)
    of(engine, launcher, "kernel").kill()
    kernels = Kernels(built_in(), lambda: launcher)
    rows = {each.name: each.state for each in (await kernels.listing())[0]}
    assert rows.keys() == {"here", "there"}
    assert rows["here"].startswith("ended: ")
    assert "`kernel-bridge gc` removes it" in rows["there"]
    assert left() == [str(theirs)]
    (there,), trouble = await kernels.listing()
    assert (there.name, trouble, left()) == ("there", None, [str(theirs)])
    await kernels.close()
    await launcher.sweep()
    assert left() == []


async def test_a_sandbox_that_an_older_bridge_has_started_is_ours_though_its_file_does_not_say_of_which_start_it_is(
    launcher: DockerLauncher, engine: docker.DockerClient, spec: Spec, connect: Any, left: Callable[[], list[str]]
) -> None:
    def aged() -> ConnectionInfo:
        info = replace(load(sandbox.connection_file), start=None)
        save(info, sandbox.connection_file)
        return info

    sandbox = await launcher.start(spec("older"))
    before = aged()
    assert await launcher.sandboxes() == [sandbox]
    assert (await Sandboxes(lambda: launcher).ready("older")).info == before
    with pytest.raises(NameTaken, match="is there already"):
        await launcher.start(spec("older"))
    await launcher.sweep()
    of(engine, launcher, "gateway").restart(timeout=0)
    (found,) = await launcher.sandboxes()
    assert found.moved
    ready = await Sandboxes(lambda: launcher).ready("older")
    assert (ready.info.key, ready.info.start is None) == (before.key, False)
    client = await connect(sandbox)
    assert await client.run("print(1)") == "1"
    aged()
    assert await launcher.stop("older") is True
    assert left() == []


async def test_owners_do_not_see_each_other_s_sandboxes_and_may_use_the_same_name(
    launcher: DockerLauncher, spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = await launcher.start(spec("same", network="none"))
    other = DockerLauncher(environ={**os.environ, "KERNEL_BRIDGE_OWNER": f"test-{uuid.uuid4().hex}"})
    try:
        assert await other.sandboxes() == []
        assert await other.stop("same") is False
        # one runtime directory has room for one file of that name
        with pytest.raises(NameTaken, match="Another owner's"):
            await other.start(spec("same", network="none"))
        monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "theirs"))
        theirs = await other.start(spec("same", network="none"))
        await other.sweep()
        assert await launcher.sandboxes() == [mine]
        assert await other.sandboxes() == [theirs]
        assert await other.stop("same") is True
        assert await launcher.sandboxes() == [mine]
        assert mine.connection_file.exists()
    finally:
        await other.stop("same")
        other.close()


async def test_a_container_that_is_not_ours_keeps_a_name_that_we_wanted(
    launcher: DockerLauncher, engine: docker.DockerClient, spec: Spec, image: str
) -> None:
    foreign = engine.containers.create(image, name=owner.stem("foreign", launcher.owner))
    try:
        with pytest.raises(NameTaken):
            await launcher.start(spec("foreign"))
        assert await launcher.stop("foreign") is False
        await launcher.sweep()
        foreign.reload()
    finally:
        foreign.remove()


async def test_a_sweep_removes_our_leftovers_and_nothing_else(
    *,
    launcher: DockerLauncher,
    engine: docker.DockerClient,
    spec: Spec,
    image: str,
    left: Callable[[], list[str]],
    tmp_path: Path,
) -> None:
    running = await launcher.start(spec("running", network="open"))
    before = left()
    ours = {owner.OWNER: launcher.owner, owner.NAME: "lost", owner.START: "0" * 16}
    foreign = {**ours, owner.OWNER: "f" * 32}
    name = f"kernel-bridge.lost.{uuid.uuid4().hex[:8]}"
    network = engine.networks.create(name, labels={**ours, owner.ROLE: "network"})
    their_network = engine.networks.create(name, labels={**foreign, owner.ROLE: "network"})
    gateway = engine.containers.create(image, labels={**ours, owner.ROLE: "gateway"})
    engine.volumes.create(f"{name}.{'0' * 16}", labels={**ours, owner.ROLE: "sockets"})
    theirs = engine.containers.create(image, labels={**foreign, owner.ROLE: "gateway"})
    volume = engine.volumes.create(f"{name}.{'1' * 16}", labels={**foreign, owner.ROLE: "sockets"})
    with contextlib.ExitStack() as its_start:
        places.make_socket_directory(places.User(os.geteuid(), os.getegid()), its_start)
    stale = tmp_path / "runtime" / owner.connection_file_name("stale")
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    stale.write_text(json.dumps({**json.loads(running.connection_file.read_text()), "hb_port": port}))
    kernel = tmp_path / "runtime" / "kernel-7.json"
    kernel.write_text(stale.read_text())
    try:
        await launcher.sweep()
        assert sorted(left()) == sorted([*before, str(kernel)])
        with pytest.raises(docker.errors.NotFound):
            gateway.reload()
        with pytest.raises(docker.errors.NotFound):
            network.reload()
        theirs.reload()
        volume.reload()
        their_network.reload()
    finally:
        their_network.remove()
        theirs.remove()
        volume.remove()


# -- the way to the engine


async def test_without_an_engine_every_call_says_so_at_once(tmp_path: Path, spec: Spec) -> None:
    launcher = DockerLauncher(f"unix://{tmp_path}/docker.sock")
    with anyio.fail_after(5):
        for call in (launcher.sandboxes(), launcher.start(spec("none")), launcher.stop("none"), launcher.sweep()):
            with pytest.raises(EngineUnavailable, match="its socket is not there"):
                await call


async def test_a_closed_launcher_may_be_used_again(launcher: DockerLauncher) -> None:
    assert await launcher.sandboxes() == []
    launcher.close()
    launcher.close()
    assert await launcher.sandboxes() == []
