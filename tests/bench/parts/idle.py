"""A bridge with nothing to do: what it costs to have it there."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path

from tests.bench.contestants import ours, trivial
from tests.bench.figures import Curve, Report
from tests.bench.lines import Server
from tests.bench.world import World

MIB = 1 << 20
KERNELS = (1, 10, 50)
SECONDS = 20.0
SETTLE = 3.0


def measure(world: World, share: float) -> Report:
    """Connect to more and more kernels on the host and look at the server's process while nobody calls it."""
    report = Report("(i) An idle bridge", ("", "memory", "CPU", "woken up"))
    memory = []
    with ExitStack() as stack:
        server = stack.enter_context(trivial(world))
        server.call("echo", {"code": "x"})
        base = _row(report, "a trivial server", server, SECONDS * share)
        mine = stack.enter_context(ours(world))
        connected = 0
        for number in KERNELS:
            while connected < number:
                kernel = stack.enter_context(world.host_kernel())
                mine.call("connect_to_kernel", {"connection_file": str(kernel)})
                connected += 1
            mine.call("execute_code", {"code": "1 + 1", "kernel": str(kernel.stem)})
            memory.append(_row(report, f"kernel-bridge, {number} connected", mine, SECONDS * share))
            most = base + (25 + number) * MIB
            report.judge(f"{number} kernels: memory ≤ a trivial server + 25 MB + 1 MB a kernel", memory[-1] / most, 1.0)
    report.curves.append(Curve("Idle memory", "connected kernels", "MiB", KERNELS, [each / MIB for each in memory]))
    return report


def _row(report: Report, what: str, server: Server, seconds: float) -> int:
    time.sleep(SETTLE)
    before, began = _used(server), time.perf_counter()
    time.sleep(seconds)
    after, took = _used(server), time.perf_counter() - began
    percent = 100 * (after[0] - before[0]) / took
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    resident = int(status.partition("VmRSS:")[2].split()[0]) * 1024
    woken = (after[1] - before[1]) / took
    report.rows.append((what, f"{resident / MIB:.1f} MiB", f"{percent:.2f} %", f"{woken:.1f} times a second"))
    if what != "a trivial server":
        report.judge(f"{what}: no CPU", percent, 0.5, "{:.2f} %")
    return resident


def _used(server: Server) -> tuple[float, int]:
    """Return the seconds of CPU of all its threads, and how often they gave the processor away."""
    tasks = Path(f"/proc/{server.process.pid}/task")
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    ticks = os.sysconf("SC_CLK_TCK")
    switches = 0
    for each in tasks.iterdir():
        status = (each / "status").read_text()
        switches += int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return (int(fields[11]) + int(fields[12])) / ticks, switches
