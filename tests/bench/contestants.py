"""Who is measured beside whom: the kernel itself, a trivial server, and ours."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.lines import Server
from tests.bench.world import BRIDGE, World

TRIVIAL = [sys.executable, str(Path(__file__).with_name("trivial.py"))]
OURS = [*BRIDGE, "serve"]


@contextmanager
def ours(world: World, kernel: str | None = None) -> Iterator[Server]:
    """Start our server, connected to a kernel where one is named."""
    with Server(OURS, log=world.log("ours"), env=world.environment) as server:
        server.initialize()
        if kernel:
            server.call("connect_to_kernel", {"connection_file": kernel})
        yield server


@contextmanager
def trivial(world: World) -> Iterator[Server]:
    """Start a trivial server."""
    with Server(TRIVIAL, log=world.log("trivial"), env=world.environment) as server:
        server.initialize()
        yield server
