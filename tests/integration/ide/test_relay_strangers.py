"""Programs of this machine that have no key, and a kernel that sends what no kernel should."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from bridge.ide.publisher import LEAST, MOST_SUBSCRIBERS, SUBSCRIBED_WITHIN
from bridge.ide.zmtp import GREETING, MOST_TOPICS, READY, command, message

# the types of this folder's fixtures
Ide: TypeAlias = Any
Kernel: TypeAlias = Any
Client: TypeAlias = Any

DELIMITER = b"<IDS|MSG>"
PORTS = ("shell_port", "control_port", "stdin_port", "iopub_port", "hb_port")


@pytest.fixture
def client(ide: Ide) -> Iterator[Client]:
    client = ide.client()
    yield client
    assert ide.stderr() == ""
    client.close()


def frames_of(client: Client, code: str) -> list[bytes]:
    content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
    return list(client.session.serialize(client.session.msg("execute_request", content)))


@pytest.mark.parametrize("channel", ["shell", "control", "stdin"])
def test_what_is_not_signed_with_the_ides_key_does_not_reach_the_kernel(
    ide: Ide, client: Client, agent: Client, channel: str
) -> None:
    client.run("reached = []")
    stranger = ide.client(key="another key", listens=False, asks=False)
    signed = frames_of(client, "reached.append('own key')")
    for frames in (
        frames_of(stranger, "reached.append('a foreign key')"),
        frames_of(agent, "reached.append('own key')"),
        [DELIMITER, b"", *signed[2:]],
        [*signed[:5], signed[5].replace(b"own", b"OWN")],
        signed[:4],
        [DELIMITER],
        [b""],
        [os.urandom(100)] * 5,
        [DELIMITER] * 20,
        [b"x" * 5_000_000],
    ):
        stranger.sockets[channel].send_multipart(frames)
    assert client.ask("control", "kernel_info_request")["content"]["status"] == "ok"
    assert client.value("reached") == "[]"


def test_what_the_kernel_has_refused_as_sent_before_is_refused_through_the_relay(ide: Ide, client: Client) -> None:
    client.run("times = 0")
    frames = frames_of(client, "times += 1")
    client.sockets["shell"].send_multipart(frames)
    stranger = ide.client(listens=False, asks=False)
    for _ in range(3):
        stranger.sockets["shell"].send_multipart(frames)
    client.reply(client.session.unpack(frames[2])["msg_id"])
    assert client.value("times") == "1"


# In a process of its own: sockets of such kinds on such ports have ended their own process (an assertion of libzmq's).
FLOOD = """
import contextlib, os, sys, zmq
with zmq.Context() as context:
    for kind in (zmq.DEALER, zmq.PUB, zmq.XSUB, zmq.PAIR):
        with context.socket(kind) as flood:
            flood.linger = 0
            flood.connect(sys.argv[1])
            with contextlib.suppress(zmq.Again):  # as much as is taken
                for _ in range(500):
                    flood.send_multipart([b"<IDS|MSG>", os.urandom(64), b"{}", b"{}", b"{}", b"{}"], zmq.NOBLOCK)
"""


def test_a_flood_of_garbage_on_every_port_leaves_the_ide_its_kernel(ide: Ide, client: Client) -> None:
    for name in PORTS:
        url = ide.info.url(getattr(ide.info, name))
        flood = subprocess.run([sys.executable, "-c", FLOOD, url], capture_output=True, timeout=60, check=False)
        assert flood.returncode in (0, -signal.SIGABRT), flood.stderr
        with contextlib.suppress(ConnectionError), socket.create_connection(address(ide, name)) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\n\r\n" + os.urandom(1000))
    reply, output = client.run("print('unharmed')")
    assert reply["status"] == "ok"
    assert client.printed(output) == "unharmed\n"


def memory(process: int) -> int:
    """What a process holds, in bytes (field 2 of proc(5)'s statm)."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def address(ide: Ide, name: str) -> tuple[str, int]:
    return ide.info.ip, getattr(ide.info, name)


@pytest.mark.parametrize(
    "said",
    [
        b"\x00",
        b"\xff" * 64,
        GREETING[:10] + b"\x01" + GREETING[11:],
        GREETING.replace(b"NULL\0", b"CURVE"),
        GREETING + message([b"\x01before it is ready"]),
        GREETING + READY + message([b"\x01" + b"x" * 5000]),
        GREETING + READY + message([b"\x01a", b"in two frames"]),
        GREETING + READY + b"\x02" + b"\xff" * 8,
        GREETING + READY + b"".join(message([b"\x01%d" % each]) for each in range(MOST_TOPICS + 1)),
        GREETING + READY + command(b"PING", bytes(2) + b"x" * 17),
    ],
)
def test_who_speaks_otherwise_than_a_subscriber_is_left_at_once(ide: Ide, client: Client, said: bytes) -> None:
    # sooner than whoever is merely silent
    with socket.create_connection((ide.info.ip, ide.info.iopub_port), timeout=SUBSCRIBED_WITHIN * 0.8) as raw:
        raw.sendall(said)
        with contextlib.suppress(ConnectionResetError):
            while raw.recv(65536):  # until it is closed
                pass
    assert client.run("1")[0]["status"] == "ok"


def test_who_pings_on_and_on_and_reads_no_answer_costs_no_memory(ide: Ide, client: Client) -> None:
    pings = command(b"PING", bytes(2) + b"x" * 16) * 1000
    before = memory(ide.pid)
    with socket.create_connection((ide.info.ip, ide.info.iopub_port), timeout=60) as raw:
        raw.sendall(GREETING + READY + message([b"\x01nothing"]))
        for _ in range(1500):
            raw.sendall(pings)
        assert client.run("1")[0]["status"] == "ok"
        assert memory(ide.pid) - before < 4 * LEAST
    assert len(pings) * 1500 > 8 * LEAST


def test_connections_that_say_nothing_keep_no_client_out(ide: Ide, client: Client) -> None:
    where = (ide.info.ip, ide.info.iopub_port)
    with contextlib.ExitStack() as silent:
        for _ in range(MOST_SUBSCRIBERS + 6):
            silent.enter_context(socket.create_connection(where, timeout=60))
        late = ide.client()
        reply, output = late.run("print('heard')")
        assert reply["status"] == "ok"
        assert late.printed(output) == "heard\n"
        late.close()
    assert client.run("1")[0]["status"] == "ok"


def test_who_never_subscribes_is_left_after_a_while(ide: Ide, client: Client) -> None:
    with socket.create_connection((ide.info.ip, ide.info.iopub_port), timeout=60) as raw:
        raw.sendall(GREETING + READY)
        with contextlib.suppress(ConnectionResetError):
            while raw.recv(65536):
                pass
    assert client.run("1")[0]["status"] == "ok"


def test_a_subscription_in_any_pieces_is_one(ide: Ide, client: Client) -> None:
    with socket.create_connection((ide.info.ip, ide.info.iopub_port), timeout=15) as raw:
        for each in GREETING + READY + message([b"\x01"]):
            raw.sendall(bytes((each,)))
        got = b""
        while b"iopub_welcome" not in got:
            got += raw.recv(65536)
        assert got.startswith(GREETING + READY)


@pytest.mark.parametrize("word", ["garbage", "odd", "astray", "twice", "idle_first"])
def test_what_no_kernel_should_send_harms_neither_relay_nor_client(
    start_rogue_kernel: Callable[..., Any], world: Any, start_ide: Callable[..., Ide], word: str
) -> None:
    ide = start_ide(start_rogue_kernel())
    client = ide.client()
    client.start(word)
    last = client.start("honest")
    seen = b""
    while last.encode() not in seen or b'"honest"' not in seen:
        assert client.sockets["iopub"].poll(15_000)
        seen = b"".join(client.sockets["iopub"].recv_multipart())
    assert ide.manager.is_alive()
    assert ide.stderr() == ""
