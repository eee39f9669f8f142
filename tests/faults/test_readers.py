"""A client that does not read, floods or takes everything back: bounded, in nobody's way, and the server still ends."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from bridge.stdio import AT_ONCE
from tests.faults.conftest import SOON, Bridge, End, Serve

MEGABYTE = 1024 * 1024


@pytest.fixture
def server(bridge: Serve) -> Bridge:
    return bridge().greet()


def memory(server: Bridge) -> int:
    """Return the most that the process has had in memory, in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def ask_until_full(server: Bridge, request: bytes, most: int) -> int:
    """Send a request again and again until the server takes no more, or `most` times; returns how often."""
    os.set_blocking(server.stdin.fileno(), False)
    sent = 0
    while sent < most:
        line, quiet = memoryview(request % sent + b"\n"), 0
        while line and quiet < 20:
            try:
                line, quiet = line[os.write(server.stdin.fileno(), line) :], 0
            except BlockingIOError:
                threading.Event().wait(0.05)
                quiet += 1
        if line:
            break
        sent += 1
    os.set_blocking(server.stdin.fileno(), True)
    return sent


def test_a_client_that_asks_and_does_not_read_is_bounded_by_its_own_pipe(server: Bridge, hard_end: End) -> None:
    server.ask("tools/list")
    before = memory(server)
    server.stop_reading()
    sent = ask_until_full(server, b'{"jsonrpc":"2.0","id":"n%d","method":"tools/list"}', 20_000)
    assert sent < 20_000
    assert memory(server) - before < 50 * MEGABYTE
    hard_end(server)


def test_a_client_that_reads_again_gets_every_answer(server: Bridge) -> None:
    server.stop_reading()
    sent = ask_until_full(server, b'{"jsonrpc":"2.0","id":"n%d","method":"tools/list"}', 20_000)
    server.read_again()
    server.send(b"")  # the last one was cut in two
    for number in range(sent):
        server.answer(f"n{number}")
    server.ask("ping")


def test_a_flood_of_calls_is_refused_beyond_what_may_run_at_once_and_each_is_answered(
    server: Bridge, host_kernel: Any
) -> None:
    server.connect(host_kernel)
    calls = [server.start_call("execute_code", code="import time; time.sleep(0.001)") for _ in range(3 * AT_ONCE)]
    refused = 0
    for each in calls:
        answer = server.answer(each)
        if "error" in answer:
            assert f"{AT_ONCE} requests are under way. Nothing was done" in answer["error"]["message"]
            refused += 1
        else:
            assert "isError" not in answer["result"] or not answer["result"]["isError"], answer
    assert 0 < refused <= 2 * AT_ONCE
    assert server.call("execute_code", code="6 * 7") == "42"


def test_a_client_that_takes_everything_back_leaves_the_kernel_free_and_is_served_on(
    server: Bridge, host_kernel: Any
) -> None:
    server.connect(host_kernel)
    for _ in range(3):
        calls = [server.start_call("execute_code", code="import time; time.sleep(60)") for _ in range(AT_ONCE)]
        for each in calls:
            cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": each}}
            server.send(json.dumps(cancelled).encode())
    # also what none of its requests is called
    odds: tuple[Any, ...] = (None, "x", 1.5, [], {})
    for odd in odds:
        cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": odd}}
        server.send(json.dumps(cancelled).encode())
    assert server.call("execute_code", code="6 * 7", timeout=SOON) == "42"
    assert host_kernel.process.poll() is None


def test_a_client_that_has_left_is_noticed_though_nothing_more_is_read_of_it(server: Bridge) -> None:
    server.stop_reading()
    ask_until_full(server, b'{"jsonrpc":"2.0","id":"n%d","method":"tools/list"}', 20_000)
    server.stdin.close()
    assert server.until_ended() == 0
