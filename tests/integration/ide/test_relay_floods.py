"""A kernel that says much, and clients that do not read it."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from bridge.ide.publisher import BUDGET
from tests.programs import piped

# the types of this folder's fixtures
Ide: TypeAlias = Any
Kernel: TypeAlias = Any
Client: TypeAlias = Any
Message: TypeAlias = dict[str, Any]

log = logging.getLogger(__name__)
SOON = 60.0
MANY = 60_000


def memory(process: int) -> int:
    """The most that a process ever held, in bytes."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def numbered(client: Client, count: int, size: int) -> str:
    """Have a rogue kernel say many numbers, and hold what comes against them."""
    msg_id = client.start(f"numbers({count}, {size})")
    check_numbers(client, count, size)
    return str(msg_id)


def check_numbers(client: Client, count: int, size: int) -> None:
    begin = b'{"name": "stdout", "text": "'
    number = 0
    while number < count:
        assert client.sockets["iopub"].poll(int(SOON * 1000)), number
        content = client.sockets["iopub"].recv_multipart()[-1]
        if content.startswith(begin):
            assert content == begin + str(number).rjust(size, ".").encode() + b'"}'
            number += 1


def test_of_many_thousand_messages_none_is_lost_and_all_come_in_order(
    start_rogue_kernel: Callable[..., Any], world: Path, start_ide: Callable[..., Ide]
) -> None:
    client = start_ide(start_rogue_kernel()).client()
    begin = time.monotonic()
    msg_id = numbered(client, MANY, 1)
    log.info("%d messages a second through the relay", MANY / (time.monotonic() - begin))
    assert client.output(msg_id)[-1]["content"] == {"execution_state": "idle"}


@pytest.mark.parametrize("sizes", [(1, 2_000_000), (2_000_000, 1), (1000, 100_000, 3_000_000, 10)])
def test_messages_of_changing_sizes_all_reach_a_client_that_reads(
    start_rogue_kernel: Callable[..., Any], world: Path, start_ide: Callable[..., Ide], sizes: tuple[int, ...]
) -> None:
    client = start_ide(start_rogue_kernel()).client()
    for size in sizes:
        msg_id = numbered(client, min(5000, 200_000_000 // size), size)
        assert client.reply(msg_id)["content"]["status"] == "ok"


STALLED = """
import json, os, signal, sys
from jupyter_client.blocking.client import BlockingKernelClient
client = BlockingKernelClient()
client.load_connection_file(sys.argv[1])
client.start_channels()
client.wait_for_ready(timeout=60)
msg_id = client.execute("never")
while True:  # its own cell runs now, until it is interrupted
    message = client.get_iopub_msg(timeout=60)
    if message["msg_type"] == "execute_input":
        break
print("stops", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
missing, ended = 0, False
while not ended:
    message = client.get_iopub_msg(timeout=60)
    if message["parent_header"].get("msg_id") != msg_id:
        continue
    missing += "Output is missing here" in message["content"].get("text", "")
    ended = message["content"].get("execution_state") == "idle"
client.execute("honest")
while message["msg_type"] != "stream":
    message = client.get_iopub_msg(timeout=60)
print(missing, message["content"]["text"], flush=True)
"""


@pytest.mark.parametrize(
    ("cells", "count", "size"), [(20, 3, 5_000_000), (25, 1000, 12_000)], ids=["big messages", "small messages"]
)
def test_a_client_that_stopped_costs_bounded_memory_and_nobody_else_anything_and_is_told_what_it_missed(
    start_rogue_kernel: Callable[..., Any],
    world: Path,
    start_ide: Callable[..., Ide],
    cells: int,
    count: int,
    size: int,
) -> None:
    about = {"status": "ok", "protocol_version": "5.3"}
    ide = start_ide(start_rogue_kernel(json.dumps(about)))
    reader = ide.client()
    before = memory(ide.pid)
    command = [sys.executable, "-c", STALLED, ide.manager.connection_file]
    with piped(command, stdout=subprocess.PIPE) as stalled:
        assert stalled.stdout
        try:
            assert stalled.stdout.readline() == "stops\n"
            for _ in range(cells):
                reader.reply(numbered(reader, count, size))
            reader.ask("control", "interrupt_request")
            # with what waits for the reader at the moment, and what messages cost beside their bytes
            assert memory(ide.pid) - before < BUDGET * 3 // 2
            os.kill(stalled.pid, signal.SIGCONT)
            assert stalled.stdout.readline() == "1 honest\n"
        finally:
            stalled.kill()


def test_an_interrupt_is_not_held_up_by_a_flood_of_output(ide: Ide) -> None:
    client = ide.client()
    msg_id = client.start("from IPython.display import display\nwhile True: display('x' * 10_000)")
    client.of("display_data", msg_id)
    assert client.ask("control", "interrupt_request")["content"]["status"] == "ok"
    assert client.reply(msg_id)["content"]["ename"] == "KeyboardInterrupt"
    client.output(msg_id)


@pytest.fixture
def ide(kernel: Kernel, start_ide: Callable[..., Ide]) -> Ide:
    return start_ide(kernel)
