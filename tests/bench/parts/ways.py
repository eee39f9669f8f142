"""The ways to a kernel: an IDE's relay, and a sandbox's gateway."""

from __future__ import annotations

import subprocess
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from jupyter_client.connect import write_connection_file

from tests.bench import raw
from tests.bench.figures import Report, Times, by_turns, milliseconds
from tests.bench.world import BRIDGE, World

ROUNDS, WARM_UP = 1000, 20
FLOOD, AT_A_TIME = 20_000, 500
"""Messages, each of one line; more at a time the kernel's own socket may drop (its high-water mark is 1,000)."""
CELL = {"code": "pass", "silent": True, "store_history": False, "user_expressions": {}, "allow_stdin": False}
KINDS: Mapping[str, Callable[[raw.Client], float]] = {
    "a heartbeat": lambda client: client.beats(),
    "kernel_info": lambda client: client.asks("kernel_info_request", {}),
    "a silent cell": lambda client: client.asks("execute_request", CELL),
}


def measure(world: World, share: float) -> Report:
    """Ask one kernel by turns directly and through a relay; and one in a sandbox by its sockets and its gateway."""
    report = Report(
        "(g) What relay and gateway add",
        ("", "directly", "through it", "more", "ratio"),
        note="A sandbox's gateway is on either way: with network none it listens on sockets in a directory of the "
        "host, with isolated on ports of the engine, which adds the engine's own proxy or rules.",
    )
    rounds = max(20, round(ROUNDS * share))
    with ExitStack() as stack:
        kernel = stack.enter_context(world.host_kernel())
        ways = {"directly": kernel, "through it": relay(world, stack, kernel)}
        more = _compare(report, "relay", stack, ways, rounds)
        report.judge("relay: less than 1 ms more at the median of a silent cell", more * 1000, 1.0, "{:.2f} ms")
    with ExitStack() as stack:
        inside = stack.enter_context(world.sandbox("lab"))
        beside = stack.enter_context(world.sandbox("sockets", "--network", "none"))
        ways = {"directly": beside, "through it": inside}
        _compare(report, "published ports", stack, ways, rounds)
    with ExitStack() as stack:
        host = stack.enter_context(world.host_kernel())
        inside = stack.enter_context(world.sandbox("lab"))
        ways = {"directly": host, "through it": inside}
        more = _compare(report, "a sandbox beside the host", stack, ways, rounds)
        report.judge("gateway: less than 1 ms more at the median of a silent cell", more * 1000, 1.0, "{:.2f} ms")
    return report


def relay(world: World, stack: ExitStack, kernel: Path) -> Path:
    """Start a relay to a kernel; returns the connection file that an IDE would use."""
    file = world.directory / f"ide-{uuid.uuid4().hex}.json"
    write_connection_file(str(file), key=uuid.uuid4().hex.encode())
    null = subprocess.DEVNULL
    command = [*BRIDGE, "relay", "--kernel", str(kernel), str(file)]
    process = subprocess.Popen(command, env=world.environment, stdin=null, stdout=null, stderr=null)
    stack.callback(world.end, process)
    return file


def _compare(report: Report, what: str, stack: ExitStack, ways: Mapping[str, Path], rounds: int) -> float:
    """Add a row for each kind of request; returns how many seconds more the last takes at the median."""
    clients = {name: stack.enter_context(raw.client(file)) for name, file in ways.items()}
    more = 0.0
    for kind, ask in KINDS.items():
        times = by_turns(rounds, {name: _bound(ask, each) for name, each in clients.items()}, warm_up=WARM_UP)
        more = _row(report, f"{what}: {kind}", times)
    seconds = {name: Times([_flood(each) for _ in range(3)]) for name, each in clients.items()}
    rates = [f"{FLOOD / each.p50:.0f} /s" for each in seconds.values()]
    ratio = seconds["directly"].p50 / seconds["through it"].p50
    report.rows.append((f"{what}: messages of a flood", *rates, "", f"{ratio:.2f}"))
    return more


def _bound(ask: Callable[[raw.Client], float], client: raw.Client) -> Callable[[], float]:
    return lambda: ask(client)


def _row(report: Report, what: str, times: Mapping[str, Times]) -> float:
    direct, through = times["directly"].p50, times["through it"].p50
    columns = (milliseconds(direct), milliseconds(through), f"{(through - direct) * 1000:+.2f} ms")
    report.rows.append((what, *columns, f"{through / direct:.2f}"))
    return through - direct


def _flood(client: raw.Client) -> float:
    """Have a kernel publish as fast as it can; returns the seconds until the last message is there."""
    code = f"""
kernel = get_ipython().kernel
for number in range({AT_A_TIME}):
    kernel.session.send(kernel.iopub_socket, "stream", {{"name": "stdout", "text": "x"}}, parent=kernel.get_parent())
"""
    begin, count = time.perf_counter(), 0
    for _ in range(FLOOD // AT_A_TIME):
        count += sum(message["msg_type"] == "stream" for message in client.outputs(client.begin(code)))
    if count != FLOOD:
        raise RuntimeError(f"{FLOOD - count} of {FLOOD} messages were lost")
    return time.perf_counter() - begin
