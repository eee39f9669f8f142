"""Much output, and a large picture: time and memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.bench import raw
from tests.bench.contestants import ours
from tests.bench.figures import Curve, Report, by_turns, milliseconds
from tests.bench.lines import Server
from tests.bench.world import World

MIB = 1 << 20
SIZES = (1, 10, 100)
ROUNDS = 5
PICTURE = """
import os, struct, zlib
from IPython.display import Image, display
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
side = 590
rows = b"".join(b"\\0" + os.urandom(3 * side) for _ in range(side))
png = b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
png += chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b"")
"""
"""About 1 MB that nothing makes smaller."""


def measure(world: World, share: float) -> Report:
    """Print more and more by a raw client and through the bridge, by turns."""
    report = Report(
        "(d) Much printed, (e) a picture of 1 MB",
        ("", "raw client", "kernel-bridge", "ratio", "the server's peak memory"),
    )
    rounds = max(2, round(ROUNDS * share))
    peaks = []
    for size in SIZES:
        with ExitStack() as stack:
            client = stack.enter_context(raw.client(stack.enter_context(world.host_kernel())))
            server = stack.enter_context(ours(world, str(stack.enter_context(world.host_kernel()))))
            code = f"for _ in range({size * 16}): print('x' * 65535)"
            ratio = _row(report, f"{size} MB printed", code, client, server, rounds)
            report.judge(f"{size} MB printed: ≤ 1.3 × raw", ratio, 1.3)
            peaks.append(_peak(server))
            report.rows[-1] = (*report.rows[-1], f"{peaks[-1] / MIB:.0f} MiB")
    report.judge("memory flat: 100 MB's peak beside 10 MB's", peaks[2] / peaks[1], 1.2)
    report.curves.append(Curve("Peak memory of the server", "MB printed", "MiB", SIZES, [each / MIB for each in peaks]))
    with ExitStack() as stack:
        client = stack.enter_context(raw.client(stack.enter_context(world.host_kernel())))
        server = stack.enter_context(ours(world, str(stack.enter_context(world.host_kernel()))))
        client.cell(PICTURE)
        server.call("execute_code", {"code": PICTURE})
        _row(report, "a PNG of 1 MB", "display(Image(png))", client, server, rounds * 4)
        report.rows[-1] = (*report.rows[-1], f"{_peak(server) / MIB:.0f} MiB")
    return report


def _row(report: Report, what: str, code: str, client: raw.Client, server: Server, rounds: int) -> float:
    def bare() -> None:
        for _ in client.outputs(client.begin(code)):
            pass

    def bridge() -> None:
        server.call("execute_code", {"code": code})

    times = by_turns(rounds, {"raw": _timed(bare), "ours": _timed(bridge)}, warm_up=1)
    ratio = times["ours"].p50 / times["raw"].p50
    report.rows.append((what, milliseconds(times["raw"].p50), milliseconds(times["ours"].p50), f"{ratio:.2f}"))
    return ratio


def _timed(act: Callable[[], None]) -> Callable[[], float]:
    def once() -> float:
        begin = time.perf_counter()
        act()
        return time.perf_counter() - begin

    return once


def _peak(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
