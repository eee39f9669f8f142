"""The way to a kernel without a network: five listeners for the host, pumped to the kernel's Unix sockets on a volume.

The one rule: it only ever connects to the kernel's sockets and looks at no byte, so a kernel gets no way out of its
container through it. What lies on the volume is taken as hostile, and the kernel sees nothing but the volume.

Without an argument it listens on TCP ports, and accepts peers from the host only (the container's default gateway),
because a kernel's iopub channel needs no key and other containers may share the bridge. With a directory as argument it
listens on Unix sockets there, of the kernel's own names; who may enter the directory may connect.

It lives and dies with the kernel's container: the supervisor there listens on the socket `life`. `../README.md` has the
contract. Standard library only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import sys
from datetime import UTC, datetime
from pathlib import Path

SOCKETS = Path("/run/kernel-bridge")
PORTS = {5001: "k-1", 5002: "k-2", 5003: "k-3", 5004: "k-4", 5005: "k-5"}  # shell, iopub, stdin, control, heartbeat
LIFE_SECONDS = 120.0
MAX_CONNECTIONS = 256  # a client needs five or six
CHUNK = 1 << 16  # all that is held of a connection, each way: a reader that is slow slows its writer down


def say(event: str, **fields: object) -> None:
    """Write one JSON line to standard output."""
    line = json.dumps({"event": event, **fields, "time": datetime.now(UTC).isoformat(timespec="milliseconds")}) + "\n"
    try:
        os.write(1, line.encode())
    except OSError:
        return  # a log that is lost ends nothing


def default_gateway(routes: str) -> str | None:
    """The default gateway's address in the text of `/proc/net/route`; None where there is none."""
    for line in routes.splitlines()[1:]:
        fields = line.split()
        # Destination and mask are zero, and the flags have RTF_GATEWAY; addresses are hexadecimal in host byte order.
        if len(fields) > 7 and fields[1] == fields[7] == "00000000" and int(fields[3], 16) & 2:
            return socket.inet_ntoa(int(fields[2], 16).to_bytes(4, "little"))
    return None


def connect(path: Path) -> socket.socket | None:
    """Connect to a Unix socket; None where it is not there, not a socket, or nobody listens."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return None
        end = socket.socket(socket.AF_UNIX)
    except OSError:
        return None
    try:
        end.settimeout(0)  # then a listener whose queue is full says so at once
        end.connect(str(path))
    except OSError:
        end.close()
        return None
    return end


async def pump(source: socket.socket, sink: socket.socket) -> None:
    """Copy bytes until the source ends, then end the sink's reading side; the other direction may go on."""
    loop = asyncio.get_running_loop()
    while chunk := await loop.sock_recv(source, CHUNK):
        await loop.sock_sendall(sink, chunk)
    sink.shutdown(socket.SHUT_WR)


def listen(place: int | Path) -> socket.socket:
    """Open one listener, on a port of the gateway's own container or as a Unix socket; raises `OSError`."""
    if isinstance(place, int):
        listener = socket.create_server(("0.0.0.0", place), backlog=64)  # noqa: S104
    else:
        place.unlink(missing_ok=True)  # of a gateway before this one
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(place))
        listener.listen(64)
    listener.settimeout(0)
    return listener


class Gateway:
    """The listeners and the connections that are open."""

    def __init__(self, host: str | None, *, sockets: Path = SOCKETS) -> None:
        """Accept connections from this address only; `None` where listeners have none."""
        self._host = host
        self._sockets = sockets
        self._open: set[asyncio.Task[None]] = set()

    async def serve(self, listener: socket.socket, name: str) -> None:
        """Accept for ever; runs until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, address = await loop.sock_accept(listener)
            except OSError:  # the peer is gone already, or no descriptor is free
                await asyncio.sleep(0.05)
                continue
            stranger = self._host is not None and address[0] != self._host
            if stranger or len(self._open) >= MAX_CONNECTIONS:
                client.close()
                continue
            task = asyncio.create_task(self._join(client, name))
            self._open.add(task)
            task.add_done_callback(self._open.discard)

    async def _join(self, client: socket.socket, name: str) -> None:
        with client:
            kernel = connect(self._sockets / name)
            if kernel is None:
                return
            with kernel:
                try:
                    if client.family == socket.AF_INET:
                        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    async with asyncio.TaskGroup() as pumps:
                        pumps.create_task(pump(client, kernel))
                        pumps.create_task(pump(kernel, client))
                except* OSError:
                    pass  # one end broke off: both are closed


async def life(path: Path) -> None:
    """Return when the kernel's container is gone; raises `TimeoutError` where it never came."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LIFE_SECONDS
    while (end := connect(path)) is None:
        if loop.time() > deadline:
            raise TimeoutError
        await asyncio.sleep(0.05)  # no event tells that a socket on a shared volume has begun to listen
    say("ready")
    with end, contextlib.suppress(OSError):
        while True:
            if not await loop.sock_recv(end, CHUNK):
                return
            await asyncio.sleep(1)  # the supervisor writes nothing; whoever does is not worth our time


async def run(host: str | None, directory: Path | None) -> int:
    """Serve until the kernel's container is gone or a signal says so; returns the exit status."""
    if host is None and directory is None:
        say("failed", text="the gateway's container has no default route, so it cannot tell the host from others")
        return 2
    gateway = Gateway(host)
    try:
        listeners = {name: listen(directory / name if directory else port) for port, name in PORTS.items()}
    except OSError as error:
        say("failed", text=f"the gateway's {'sockets' if directory else 'ports'} cannot be opened: {error.strerror}")
        return 2
    say("listening", ports=[] if directory else list(PORTS))
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    serving = [asyncio.create_task(gateway.serve(listener, name)) for name, listener in listeners.items()]
    ends = [asyncio.create_task(life(SOCKETS / "life")), asyncio.create_task(told.wait())]
    await asyncio.wait([*ends, *serving], return_when=asyncio.FIRST_COMPLETED)
    if ends[0].done() and isinstance(ends[0].exception(), TimeoutError):
        say("failed", text=f"no kernel's container appeared within {LIFE_SECONDS:.0f} seconds")
        return 2
    if any(task.done() for task in serving):
        say("failed", text="the gateway's listener broke off")
        return 1
    say("ended", text="told to end" if told.is_set() else "the kernel's container is gone")
    return 0


if __name__ == "__main__":
    os.umask(0o077)
    place = Path(sys.argv[1]) if sys.argv[1:] else None
    peer = None if place else default_gateway(Path("/proc/net/route").read_text(encoding="ascii"))
    raise SystemExit(asyncio.run(run(peer, place)))
