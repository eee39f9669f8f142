"""From the wish to interrupt a cell to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

from tests.bench import raw
from tests.bench.contestants import ours
from tests.bench.figures import Report, by_turns, milliseconds
from tests.bench.lines import Server, text
from tests.bench.world import World

ROUNDS = 30
FOREVER = "print('begun', flush=True)\nwhile True: pass"


def measure(world: World, share: float) -> Report:
    """Interrupt by a raw client and by the bridge, by turns; on the host and in a sandbox."""
    report = Report("(h) An interrupt", ("", "raw client", "kernel-bridge", "more"))
    with ExitStack() as stack:
        places = {
            "host kernel": stack.enter_context(world.host_kernel()),
            "sandbox": stack.enter_context(world.sandbox()),
        }
        for where, file in places.items():
            client = stack.enter_context(raw.client(file))
            server = stack.enter_context(ours(world, str(file)))
            measured = {"raw": _bare(client), "ours": _bridge(server)}
            times = by_turns(max(3, round(ROUNDS * share)), measured, warm_up=1)
            bare, mine = times["raw"].p50, times["ours"].p50
            more = (mine - bare) * 1000
            report.rows.append((where, milliseconds(bare), milliseconds(mine), f"{more:+.1f} ms"))
            report.judge(f"{where}: less than 20 ms above the kernel's own", more, 20, "{:.1f} ms")
    return report


def _bare(client: raw.Client) -> Callable[[], float]:
    def once() -> float:
        outputs = client.outputs(client.begin(FOREVER))
        next(each for each in outputs if each["msg_type"] == "stream")
        begin = time.perf_counter()
        client.interrupt()
        assert any(each["content"].get("ename") == "KeyboardInterrupt" for each in outputs)
        return time.perf_counter() - begin

    return once


def _bridge(server: Server) -> Callable[[], float]:
    def once() -> float:
        assert "begun" in text(server.call("execute_code", {"code": FOREVER, "timeout": 0.5}))
        begin = time.perf_counter()
        told = text(server.ask("tools/call", {"name": "interrupt_kernel", "arguments": {}}))  # an error: the cell's own
        took = time.perf_counter() - begin
        assert "KeyboardInterrupt" in told, told
        return took

    return once
