"""Network open and GPUs: who reaches whom, what is made and removed, what is told where the engine has none."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest

from bridge.errors import LaunchError, PolicyNotEnforceable
from bridge.launchers.docker import document, owner
from bridge.launchers.docker.engine import Engine
from bridge.policy import SandboxSpec

pytestmark = pytest.mark.anyio

Spec = Callable[..., SandboxSpec]
SOON = 30.0
PORT = 7007


@dataclass(frozen=True)
class Peer:
    """A sandbox with somebody who listens in its kernel, on TCP and UDP."""

    name: str
    client: Any
    container: Any
    gateway: Any

    @property
    def addresses(self) -> list[str]:
        """Of the kernel's container, in all its networks."""
        self.container.reload()
        networks = self.container.attrs["NetworkSettings"]["Networks"].values()
        return [each["IPAddress"] for each in networks if each["IPAddress"]]


# Whoever sends a datagram is answered, so that the sender knows what arrived.
LISTEN = f"""
import socket, threading
tcp = socket.create_server(("0.0.0.0", {PORT}))
udp = socket.socket(type=socket.SOCK_DGRAM)
udp.bind(("0.0.0.0", {PORT}))
def accept():
    while True:
        tcp.accept()[0].close()
def echo():
    while True:
        said, who = udp.recvfrom(64)
        udp.sendto(said, who)
for work in (accept, echo):
    threading.Thread(target=work, daemon=True).start()
"""
# Names what answers; nothing is printed of what does not within the time.
REACH = """
import concurrent.futures, socket
def over_tcp(host, port):
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return []
    return [f"tcp {port}"]
def over_udp(host, port):
    with socket.socket(type=socket.SOCK_DGRAM) as sender:
        sender.settimeout(1)
        try:
            sender.sendto(b"who is there", (host, port))
            sender.recvfrom(64)
        except OSError:
            return []
    return [f"udp {port}"]
def reached(host, ports, port):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        tried = [*(pool.submit(over_tcp, host, each) for each in ports), pool.submit(over_udp, host, port)]
        return [one for each in tried for one in each.result()]
"""
BOTH = [f"tcp {PORT}", f"udp {PORT}"]


def reaching(host: str, ports: tuple[int, ...] = (PORT,)) -> str:
    return f"{REACH}\nprint(reached({host!r}, {ports!r}, {PORT}))"


def reached_from_here(host: str) -> list[str]:
    """What this machine itself reaches, by the same code."""
    found: dict[str, Any] = {}
    exec(REACH, found)  # noqa: S102 - our own text
    return list(found["reached"](host, (PORT,), PORT))


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env(timeout=60)
    yield client
    client.close()


@pytest.fixture
async def peers(observer: Any, spec: Spec, connect: Any, tidy: None) -> dict[str, Peer]:
    found = {}
    for name, network in (("east", "open"), ("west", "open"), ("inland", "isolated")):
        client = await connect(await observer.launcher.start(spec(name, network=network)))
        assert await client.run(LISTEN) == ""
        found[name] = Peer(name, client, observer.one(name, "kernel"), observer.one(name, "gateway"))
    return found


async def test_open_kernels_reach_neither_each_other_nor_any_gateway_nor_are_they_reached_by_one(
    peers: dict[str, Peer], engine: docker.DockerClient
) -> None:
    for one, other in (("east", "west"), ("west", "east")):
        (theirs,) = peers[other].addresses
        assert reached_from_here(theirs) == BOTH, "somebody listens there, and this machine is never kept out"
        assert await peers[one].client.run(reaching(theirs)) == "[]"
        (mine,) = peers[one].addresses
        assert await peers[one].client.run(reaching(mine)) == str(BOTH)
        for each in peers.values():
            each.gateway.reload()
            host = each.gateway.attrs["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
            socket.create_connection((host, document.GATEWAY_PORTS[1]), timeout=SOON).close()
            assert await peers[one].client.run(reaching(host, document.GATEWAY_PORTS)) == "[]"
            # the other way, from the gateway's container: a program of the test's own, as if it had been taken over
            command = ["/opt/kernel/bin/python", "-c", reaching(mine)]
            ran = await asyncio.to_thread(each.gateway.exec_run, command)
            assert ran.output.decode().strip() == "[]"
    assert peers["inland"].addresses == []
    (east,) = peers["east"].addresses
    assert await peers["inland"].client.run(reaching(east)) == "[]"
    await _control(peers, engine)


async def _control(peers: dict[str, Peer], engine: docker.DockerClient) -> None:
    """In one network the same code reaches the other at once, where that allows its containers to talk."""
    for talks in ("false", "true"):
        options = {"com.docker.network.bridge.enable_icc": talks}
        network = engine.networks.create(f"kernel-bridge-test-{uuid.uuid4().hex[:8]}", options=options)
        try:
            for name in ("east", "west"):
                network.connect(peers[name].container)
            network.reload()
            members = network.attrs["Containers"]
            theirs = members[peers["west"].container.id]["IPv4Address"].partition("/")[0]
            said = await peers["east"].client.run(reaching(theirs))
            assert said == (str(BOTH) if talks == "true" else "[]")
        finally:
            for name in ("east", "west"):
                with contextlib.suppress(docker.errors.APIError):
                    network.disconnect(peers[name].container, force=True)
            network.remove()


async def test_each_open_sandbox_has_a_network_of_its_own_which_goes_with_it(
    observer: Any, engine: docker.DockerClient, peers: dict[str, Peer]
) -> None:
    def networks() -> dict[str, Any]:
        ours = engine.networks.list(filters={"label": f"{owner.OWNER}={observer.launcher.owner}"}, greedy=True)
        return {each.attrs["Labels"][owner.NAME]: each.attrs for each in ours}

    there = networks()
    assert {"east", "west"} <= set(there)
    assert "inland" not in there
    assert there["east"]["Id"] != there["west"]["Id"]
    for name in ("east", "west"):
        assert list(there[name]["Containers"]) == [peers[name].container.id]
        assert there[name]["Options"] == {"com.docker.network.bridge.enable_icc": "false"}
        assert there[name]["Labels"][owner.ROLE] == "network"
        assert there[name]["Labels"][owner.START] == peers[name].container.labels[owner.START]
    assert await observer.launcher.stop("east") is True
    assert "east" not in networks()
    assert "west" in networks()


async def test_an_open_kernel_has_no_port_and_what_listens_on_this_machines_loopback_is_out_of_its_reach(
    peers: dict[str, Peer],
) -> None:
    east = peers["east"]
    (mine,) = east.addresses
    listening = """
lines = [line.split() for name in ("tcp", "tcp6") for line in open(f"/proc/net/{name}").read().splitlines()[1:]]
print(*(each[1] for each in lines if each[3] == "0A" and not each[1].partition(":")[0].endswith("7F")))
"""
    assert await east.client.run(listening) == f"00000000:{PORT:04X}", "nothing but the test's own is on the network"
    bridge = mine.rpartition(".")[0] + ".1"
    with socket.create_server(("127.0.0.1", 0)) as private, socket.create_server(("0.0.0.0", 0)) as public:
        hidden, shown = private.getsockname()[1], public.getsockname()[1]
        said = await east.client.run(reaching(bridge, (hidden, shown)))
    assert said == f"['tcp {shown}']"


async def test_a_network_that_somebody_else_has_put_a_container_into_is_left_to_them(
    observer: Any, engine: docker.DockerClient, spec: Spec, image: str, tidy: None
) -> None:
    await observer.launcher.start(spec("visited", network="open"))
    container = observer.one("visited", "kernel")
    (name,) = container.attrs["NetworkSettings"]["Networks"]
    guest = engine.containers.run(image, network=name, entrypoint=["sleep", "60"], detach=True)
    try:
        assert await observer.launcher.stop("visited") is True
        guest.reload()
        assert guest.status == "running"
        assert name in observer.left()
    finally:
        guest.remove(force=True)
    await observer.launcher.sweep()
    assert name not in observer.left()


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"Options": {}}, "enable_icc"),
        ({"Internal": True}, "Internal"),
        ({"Attachable": True}, "Attachable"),
        ({"Labels": {}}, "Labels"),
    ],
)
async def test_an_engine_that_makes_another_network_than_it_was_asked_for_is_found_out(
    *,
    changes: dict[str, Any],
    word: str,
    observer: Any,
    engine: docker.DockerClient,
    spec: Spec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left, create, made = observer.left(), Engine.create_network, []

    async def forgetful(self: Engine, asked: document.Document) -> str:
        made.append(await create(self, asked | changes))
        return made[-1]

    monkeypatch.setattr(Engine, "create_network", forgetful)
    try:
        with pytest.raises(LaunchError, match=rf"of its network: .*{word}"):
            await observer.launcher.start(spec("forgetful", network="open"))
        if changes != {"Labels": {}}:  # without ours it is nobody's to remove
            assert observer.left() == left
    finally:
        for each in made:
            with contextlib.suppress(docker.errors.NotFound):
                engine.networks.get(each).remove()


async def test_an_engine_without_gpus_refuses_a_policy_that_gives_some_and_nothing_is_left(
    observer: Any, spec: Spec
) -> None:
    left = observer.left()
    with pytest.raises(PolicyNotEnforceable, match=r"every sandbox 2 GPUs .*has none to give .*write gpus: 0"):
        await observer.launcher.start(spec("drawing", policy={"gpus": 2}))
    assert observer.left() == left


async def test_gpus_are_asked_for_as_the_engine_wants_them_and_read_back(
    observer: Any, engine: docker.DockerClient, spec: Spec, image: str
) -> None:
    """As far as it goes on a machine without one: the engine takes the request, and says what it has taken."""
    asked = spec("drawing", policy={"gpus": 2})
    facts = document.Facts(
        owner=observer.launcher.owner,
        start="0" * 16,
        image_id=str(engine.images.get(image).id),
        image_environment=(),
        uid=234567,
        gid=234567,
        connection_file=Path("/nonexistent/kernel-bridge-drawing.json"),
        timezone="UTC",
        engine_cpus=1,
    )
    made = document.documents(asked, facts)
    created = engine.api.create_container_from_config(made.kernel, made.kernel_name)  # type: ignore[no-untyped-call]
    try:
        said = engine.api.inspect_container(created["Id"])["HostConfig"]["DeviceRequests"]
        assert json.loads(json.dumps(said)) == made.kernel["HostConfig"]["DeviceRequests"]
    finally:
        engine.api.remove_container(created["Id"], v=True)
