"""Who is measured beside whom: the kernel itself, a trivial server, and ours."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.bench.lines import Server, text
from tests.bench.world import BRIDGE, World

TRIVIAL = [sys.executable, str(Path(__file__).with_name("trivial.py"))]
OURS = [*BRIDGE, "serve"]

Cell = Callable[[str], str]


@contextmanager
def ours(world: World, kernel: str | None = None, options: Sequence[str] = ()) -> Iterator[Server]:
    """Start our server, connected to a kernel where one is named."""
    with Server([*OURS, *options], log=world.log("ours"), env=world.environment) as server:
        server.initialize()
        if kernel:
            server.call("connect_to_kernel", {"connection_file": kernel})
        yield server


def run_in(server: Server, **more: str) -> Cell:
    """Return what runs a cell by our server and returns the text of the answer."""
    return lambda code: text(server.call("execute_code", {"code": code, **more}))


@contextmanager
def trivial(world: World) -> Iterator[Server]:
    """Start a trivial server."""
    with Server(TRIVIAL, log=world.log("trivial"), env=world.environment) as server:
        server.initialize()
        yield server
