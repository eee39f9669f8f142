"""In the kernel's container: takes connections on a port of its own loopback to the proxy's socket on a volume.

The one rule: it decides nothing. It has no right that other code in the container has not, so whoever ends it, stops it
or takes its place gains nothing; the supervisor starts it again. It gets the listener as its standard input from there,
so nobody inside has the port while it is away. It is not dumpable: who traced it could shut that listener down for the
supervisor too; it ends then, and gets another. Standard library only.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # -I leaves this file's directory out

import streams  # type: ignore[import-not-found]

SOCKET = Path("/run/kernel-bridge-egress/proxy")
PR_SET_DUMPABLE = 4
MAX_CONNECTIONS = 128  # more than the proxy takes, so that it is the one to say that there are too many


async def forward(client: socket.socket) -> None:
    """Join a client with the proxy, or say why not."""
    way = streams.connect(SOCKET)
    if way is None:
        away = streams.reply(503, "The sandbox's gateway does not answer; it comes back when a client connects.")
        await streams.answer(client, away)
        return
    with way:
        await streams.join(client, way)


async def main() -> None:
    """Serve until the supervisor ends it, or the listener is shut down."""
    listener = socket.socket(fileno=0)
    listener.settimeout(0)
    with contextlib.suppress(OSError):
        await streams.Connections(MAX_CONNECTIONS).accept(listener, forward)


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    asyncio.run(main())
