"""The gateway in the real image, in front of a stand-in for the kernel's container, on a real published port."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

Lab = Any  # the fixtures' classes are in conftest.py, which is not to be imported

SECONDS = 30.0
KERNEL = """
import asyncio, hashlib, json, os, socket, threading
os.chdir("/run/kernel-bridge")

def listen(name):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(name)
    listener.listen(16)
    return listener

async def echo(reader, writer):
    while chunk := await reader.read(1 << 16):
        writer.write(chunk)
        await writer.drain()
    writer.close()

async def serve():
    server = await asyncio.start_unix_server(echo, "k-1")
    print(json.dumps({"event": "listening"}), flush=True)
    await server.serve_forever()

def digest(listener):
    while True:
        end, _ = listener.accept()
        with end:
            whole = hashlib.sha256()
            while chunk := end.recv(1 << 16):
                whole.update(chunk)
            end.sendall(whole.digest())

def flood(listener):
    end, _ = listener.accept()
    sent = 0
    end.settimeout(2)
    try:
        while True:
            sent += end.send(bytes(1 << 16))
    except TimeoutError:
        print(json.dumps({"event": "blocked", "sent": sent}), flush=True)

life = listen("life")
os.symlink("k-1", "k-4")
for work, name in ((digest, "k-2"), (flood, "k-3")):
    threading.Thread(target=work, args=(listen(name),)).start()
asyncio.run(serve())
"""


class Setup:
    """A stand-in for the kernel's container and a gateway that is ready."""

    def __init__(self, lab: Lab) -> None:
        volume = lab.volume()
        self.kernel = lab.container(["python3", "-c", KERNEL], volume=volume)
        self.kernel.start()
        self.events = lab.events(self.kernel)
        assert self.events.next()["event"] == "listening"
        self.gateway, self.gateway_events = lab.gateway(volume)
        assert [self.gateway_events.next()["event"] for _ in range(2)] == ["listening", "ready"]

    def connect(self, port: int) -> socket.socket:
        published = self.gateway.attrs["NetworkSettings"]["Ports"][f"{port}/tcp"][0]
        return socket.create_connection((published["HostIp"], int(published["HostPort"])), timeout=SECONDS)


@pytest.fixture
def setup(lab: Lab) -> Setup:
    return Setup(lab)


def read_all(end: socket.socket) -> bytes:
    chunks = []
    try:
        while chunk := end.recv(1 << 16):
            chunks.append(chunk)
    except ConnectionResetError:
        pass
    return b"".join(chunks)


def test_fifty_megabytes_pass_unchanged_both_ways_at_once(setup: Setup) -> None:
    data = os.urandom(1 << 20) * 50
    with setup.connect(5001) as end:

        def send() -> None:
            end.sendall(data)
            end.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        received = read_all(end)
        sender.join(SECONDS)
    assert len(received) == len(data)
    assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()


def test_one_side_can_finish_while_the_other_still_answers(setup: Setup) -> None:
    data = os.urandom(1 << 20)
    with setup.connect(5002) as end:
        end.sendall(data)
        end.shutdown(socket.SHUT_WR)
        assert read_all(end) == hashlib.sha256(data).digest()


def largest_buffers_on_the_way() -> int:
    """Bytes that the system itself may hold: two TCP connections, to the engine's proxy and on to the gateway."""
    most = [int(Path(f"/proc/sys/net/ipv4/tcp_{way}mem").read_text().split()[2]) for way in ("r", "w")]
    return 2 * sum(most) + (1 << 20)  # and what the Unix socket and the two programs have in hand


def test_a_reader_that_does_not_read_slows_the_sender_down_instead_of_filling_memory(setup: Setup) -> None:
    with setup.connect(5003) as end:
        assert end.recv(1)
        event = setup.events.next()
        assert event["event"] == "blocked"
        assert event["sent"] < largest_buffers_on_the_way()
        assert setup.gateway.stats(stream=False)["memory_stats"]["usage"] < 40 << 20


@pytest.mark.parametrize("port", [5004, 5005], ids=["a symbolic link", "nothing"])
def test_where_there_is_no_socket_of_a_kernel_the_connection_is_closed_at_once(setup: Setup, port: int) -> None:
    with setup.connect(port) as end:
        assert read_all(end) == b""
    with setup.connect(5001) as end:  # and the others still work
        end.sendall(b"x")
        assert end.recv(1) == b"x"


def test_other_containers_are_turned_away_while_the_host_is_served(lab: Lab, setup: Setup) -> None:
    address = setup.gateway.attrs["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    probe = (
        "import socket, sys\n"
        f"end = socket.create_connection(({address!r}, 5001), timeout=20)\n"
        "try:\n"
        "    end.sendall(b'x')\n"
        "    answer = end.recv(1)\n"
        "except ConnectionError:\n"
        "    answer = b''\n"
        'print(\'{"event": "answer", "bytes": %d}\' % len(answer))'
    )
    neighbour = lab.container(["python3", "-c", probe], network_mode="bridge")
    neighbour.start()
    assert neighbour.wait(timeout=SECONDS)["StatusCode"] == 0
    assert lab.events(neighbour).rest() == [{"event": "answer", "bytes": 0}]
    with setup.connect(5001) as end:
        end.sendall(b"x")
        assert end.recv(1) == b"x"


def test_a_health_check_in_the_gateways_own_container_is_served(setup: Setup) -> None:
    probe = (
        "import socket; end = socket.create_connection(('127.0.0.1', 5001), 20); end.sendall(b'x'); print(end.recv(1))"
    )
    assert setup.gateway.exec_run(["/opt/kernel/bin/python", "-c", probe]).output == b"b'x'\n"


def test_the_gateway_ends_with_its_kernels_container(setup: Setup) -> None:
    with setup.connect(5001) as end:
        setup.kernel.kill()
        assert setup.gateway.wait(timeout=SECONDS)["StatusCode"] == 0
        assert read_all(end) == b""
    assert [event["event"] for event in setup.gateway_events.rest()] == ["ended"]


def test_the_terminate_signal_ends_the_gateway(setup: Setup) -> None:
    setup.gateway.kill("TERM")
    assert setup.gateway.wait(timeout=SECONDS)["StatusCode"] == 0


HANGING = """
import runpy, socket, sys, threading
socket.getaddrinfo = lambda *_, **__: threading.Event().wait()
sys.argv = ["gateway.py", "--egress", '{"allow": [["index.example", 443, []]], "upstream": null}']
runpy.run_path("/opt/kernel-bridge/gateway.py", run_name="__main__")
"""
ASKING = """
import socket
end = socket.socket(socket.AF_UNIX)
end.connect("/run/kernel-bridge-egress/proxy")
end.sendall(b"CONNECT index.example:443 HTTP/1.1\\r\\n\\r\\n")
print(end.recv(12))
"""


def test_a_lookup_that_hangs_does_not_keep_the_gateway_there(lab: Lab) -> None:
    # a resolver that never answers cannot be had for real: the system's own gives up after some seconds
    place = {"/run/kernel-bridge-egress": "rw,mode=0777"}
    python = "/opt/kernel/bin/python"
    gateway = lab.container([python, "-I", "-c", HANGING], volume=lab.volume(), network_mode="bridge", tmpfs=place)
    gateway.start()
    events = lab.events(gateway)
    assert events.next()["event"] == "listening"
    assert gateway.exec_run([python, "-c", ASKING]).output == b"b'HTTP/1.1 504'\n"
    gateway.kill("TERM")
    assert gateway.wait(timeout=SECONDS)["StatusCode"] == 0
    assert [each["event"] for each in events.rest()] == ["refused", "ended"]


def test_more_connections_than_allowed_are_closed_and_the_rest_go_on(setup: Setup) -> None:
    limit = 256
    with ExitStack() as ends:
        for _ in range(limit):
            end = ends.enter_context(setup.connect(5001))
            end.sendall(b"x")
            assert end.recv(1) == b"x"
        assert read_all(ends.enter_context(setup.connect(5001))) == b""
        end.sendall(b"y")
        assert end.recv(1) == b"y"


def test_a_gateway_without_a_network_says_that_it_cannot_tell_the_host_from_others(lab: Lab) -> None:
    gateway = lab.container(
        ["/opt/kernel/bin/python", "-I", "-S", "/opt/kernel-bridge/gateway.py"], volume=lab.volume()
    )
    gateway.start()
    assert gateway.wait(timeout=SECONDS)["StatusCode"] == 2
    (event,) = lab.events(gateway).rest()
    assert event["event"] == "failed"
    assert "default route" in event["text"]


def test_a_gateway_that_cannot_open_its_sockets_says_so_and_ends(lab: Lab) -> None:
    gateway = lab.container(
        ["/opt/kernel/bin/python", "-I", "-S", "/opt/kernel-bridge/gateway.py", "/nowhere"], volume=lab.volume()
    )
    gateway.start()
    assert gateway.wait(timeout=SECONDS)["StatusCode"] == 2
    (event,) = lab.events(gateway).rest()
    assert (event["event"], event["text"]) == (
        "failed",
        "the gateway's sockets cannot be opened: No such file or directory",
    )


HEADER = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"


@pytest.mark.parametrize(
    ("routes", "address"),
    [
        ("eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n", "172.17.0.1"),
        ("eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n", None),
        # half of all addresses through a gateway is not the default route
        ("tun0\t00000000\t0100000A\t0003\t0\t0\t0\t00000080\t0\t0\t0\n", None),
        ("eth0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n", None),
        ("", None),
    ],
)
def test_the_default_gateway_is_read_from_the_routing_table(gateway: Any, routes: str, address: str | None) -> None:
    assert gateway.default_gateway(HEADER + routes) == address
