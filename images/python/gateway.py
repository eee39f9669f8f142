"""The way to a kernel without a network: five listeners for the host, pumped to the kernel's Unix sockets on a volume.

The one rule: between the host and the kernel it only ever connects to the kernel's sockets and looks at no byte, so a
kernel gets no way out of its container through it. What lies on the volume is taken as hostile, and the kernel sees
nothing but the volume. Where the policy lists hosts that may be reached, that is another door (`proxy.py`).

Without an argument it listens on TCP ports, and accepts peers from the host only (the container's default gateway) and
from its own container, because a kernel's iopub channel needs no key and other containers may share the bridge. With a
directory as argument it listens on Unix sockets there, of the kernel's own names; who may enter the directory may
connect. With `--egress RULES` it listens on the ports, and for the kernel on a socket of a second volume, which the
kernel can only read.

It lives and dies with the kernel's container: the supervisor there listens on the socket `life`, and is told there
whether anybody is connected. `../README.md` has the
contract. Standard library only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # -I leaves this file's directory out

import streams  # type: ignore[import-not-found]

SOCKETS = Path("/run/kernel-bridge")
PROXY = Path("/run/kernel-bridge-egress/proxy")
PORTS = {5001: "k-1", 5002: "k-2", 5003: "k-3", 5004: "k-4", 5005: "k-5"}  # shell, iopub, stdin, control, heartbeat
LOOPBACK = "127.0.0.1"  # nobody but a health check that the engine runs in here
LIFE_SECONDS = 120.0
MAX_CONNECTIONS = 256  # a client needs five or six
STAYS_SECONDS = 5.0  # who asks only whether a kernel answers, as a listing and a health check do, is gone by then
NOBODY, SOMEBODY, STAYS = b"0", b"1", b"2"


def default_gateway(routes: str) -> str | None:
    """The default gateway's address in the text of `/proc/net/route`; None where there is none."""
    for line in routes.splitlines()[1:]:
        fields = line.split()
        # Destination and mask are zero, and the flags have RTF_GATEWAY; addresses are hexadecimal in host byte order.
        if len(fields) > 7 and fields[1] == fields[7] == "00000000" and int(fields[3], 16) & 2:
            return socket.inet_ntoa(int(fields[2], 16).to_bytes(4, "little"))
    return None


class Gateway:
    """The connections between the host and the kernel."""

    def __init__(self, host: str | None, *, sockets: Path = SOCKETS) -> None:
        """Accept connections from this address only; `None` where listeners have none."""
        self._host = host
        self._sockets = sockets
        self._connections = streams.Connections(MAX_CONNECTIONS)
        self._here: set[object] = set()
        self._staying: set[object] = set()
        self._changed = asyncio.Event()

    async def serve(self, listener: socket.socket, name: str) -> None:
        """Accept for ever; runs until it is cancelled."""

        async def handle(client: socket.socket) -> None:
            kernel = streams.connect(self._sockets / name)
            if kernel is not None:
                with kernel, self._counted():
                    await streams.join(client, kernel)

        await self._connections.accept(
            listener, handle, known=lambda address: self._host is None or address[0] in (self._host, LOOPBACK)
        )

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """Have it known that somebody is connected, as long as the block takes."""
        one = object()
        self._here.add(one)
        self._changed.set()
        later = asyncio.get_running_loop().call_later(STAYS_SECONDS, self._stay, one)
        try:
            yield
        finally:
            later.cancel()
            self._here.discard(one)
            self._staying.discard(one)
            self._changed.set()

    def _stay(self, one: object) -> None:
        self._staying.add(one)
        self._changed.set()

    async def tell(self, end: socket.socket) -> None:
        """Write who is connected, now and at each change, one byte each; runs until it is cancelled."""
        told = b""
        while True:
            self._changed.clear()
            now = STAYS if self._staying else SOMEBODY if self._here else NOBODY
            if now != told:
                await asyncio.get_running_loop().sock_sendall(end, now)
                told = now
            else:
                await self._changed.wait()


async def life(path: Path, gateway: Gateway) -> None:
    """Return when the kernel's container is gone; raises `TimeoutError` where it never came."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LIFE_SECONDS
    while (end := streams.connect(path)) is None:
        if loop.time() > deadline:
            raise TimeoutError
        await asyncio.sleep(0.05)  # no event tells that a socket on a shared volume has begun to listen
    streams.say("ready")
    telling = asyncio.create_task(gateway.tell(end))
    with end, contextlib.suppress(OSError):
        try:
            while True:
                if not await loop.sock_recv(end, streams.CHUNK):
                    return
                await asyncio.sleep(1)  # the supervisor writes nothing; whoever does is not worth our time
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)


async def run(host: str | None, directory: Path | None, door: Any = None) -> int:
    """Serve until the kernel's container is gone or a signal says so; returns the exit status.

    `door` is the `proxy.Proxy` of a kernel that may reach something.
    """
    if host is None and directory is None:
        streams.say(
            "failed", text="the gateway's container has no default route, so it cannot tell the host from others"
        )
        return 2
    gateway = Gateway(host)
    try:
        listeners = {name: streams.listen(directory / name if directory else port) for port, name in PORTS.items()}
        way_out = streams.listen(PROXY) if door else None
    except OSError as error:
        kind = "sockets" if directory else "ports"
        streams.say("failed", text=f"the gateway's {kind} cannot be opened: {error.strerror}")
        return 2
    streams.say("listening", ports=[] if directory else list(PORTS))
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    serving = [asyncio.create_task(gateway.serve(listener, name)) for name, listener in listeners.items()]
    if door:
        serving.append(asyncio.create_task(door.serve(way_out)))
    ends = [asyncio.create_task(life(SOCKETS / "life", gateway)), asyncio.create_task(told.wait())]
    await asyncio.wait([*ends, *serving], return_when=asyncio.FIRST_COMPLETED)
    if ends[0].done() and isinstance(ends[0].exception(), TimeoutError):
        streams.say("failed", text=f"no kernel's container appeared within {LIFE_SECONDS:.0f} seconds")
        return 2
    if any(task.done() for task in serving):
        streams.say("failed", text="the gateway's listener broke off")
        return 1
    streams.say("ended", text="told to end" if told.is_set() else "the kernel's container is gone")
    return 0


def main() -> int:
    """Read the arguments and serve; returns the exit status."""
    os.umask(0o077)
    match sys.argv[1:]:
        case ["--egress", rules]:
            # only here: most sandboxes reach nothing, and their gateways are there the sooner
            import egress  # type: ignore[import-not-found]  # noqa: PLC0415
            import proxy  # type: ignore[import-not-found]  # noqa: PLC0415

            directory, door = None, proxy.Proxy(egress.read(rules), proxy.neighbours())
        case [place]:
            directory, door = Path(place), None
        case _:
            directory, door = None, None
    host = None if directory else default_gateway(Path("/proc/net/route").read_text(encoding="ascii"))
    return asyncio.run(run(host, directory, door))


if __name__ == "__main__":
    os._exit(main())  # at once: a lookup that hangs in a thread would keep the process there
