"""Several clients on one server over HTTP: what they get done grows with the kernels."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from tests.bench.figures import Report
from tests.bench.over_http import Served
from tests.bench.world import SOON, World

SECONDS = 8.0
KERNELS, CLIENTS = 4, 8
CELLS = {"trivial": "1 + 1", "50 ms": "import time; time.sleep(0.05)"}


def measure(world: World, share: float) -> Report:
    """Have more and more clients run cells in one kernel and in four."""
    report = Report(
        f"(c) {KERNELS} kernels, {CLIENTS} clients, over HTTP: cells a second",
        ("cell", "1 kernel, 1 client", f"1 kernel, {CLIENTS} clients", f"{KERNELS} kernels, {CLIENTS} clients"),
        note="Four kernels and a server share this machine's processors, so trivial cells, which keep those busy, "
        "cannot grow with the kernels there; cells that wait can.",
    )
    with ExitStack() as stack:
        kernels = [stack.enter_context(world.host_kernel()) for _ in range(KERNELS)]
        served = stack.enter_context(Served(world))
        for name, code in CELLS.items():
            rates = [
                _rate(served, some, clients, code, SECONDS * share)
                for some, clients in ((kernels[:1], 1), (kernels[:1], CLIENTS), (kernels, CLIENTS))
            ]
            report.rows.append((name, *(f"{each:.0f}" for each in rates)))
            if name != "trivial":
                report.judge("cells that wait: 8 clients on one kernel as fast as one", rates[0] / rates[1], 1.15)
                report.judge(f"cells that wait: {KERNELS} kernels {KERNELS} × one", KERNELS * rates[1] / rates[2], 1.15)
    return report


def _rate(served: Served, kernels: Sequence[Path], clients: int, code: str, seconds: float) -> float:
    """Return how many cells a second clients get done that run one after the other, each in one of the kernels."""
    begin = threading.Barrier(clients, timeout=SOON)

    def work(number: int) -> float:
        with served.client() as client:
            kernel = kernels[number % len(kernels)]
            client.call("connect_to_kernel", {"connection_file": str(kernel)})
            arguments = {"code": code, "kernel": kernel.stem}
            client.call("execute_code", arguments)
            begin.wait()
            began, done = time.perf_counter(), 0
            while time.perf_counter() < began + seconds:
                client.call("execute_code", arguments)
                done += 1
            return done / (time.perf_counter() - began)

    with ThreadPoolExecutor(clients) as pool:
        return sum(pool.map(work, range(clients)))
