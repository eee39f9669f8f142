"""The way out for a kernel without a network: a CONNECT proxy on a Unix socket, to the hosts that the policy lists.

The one rule: what is connected to is never what the kernel said. It may only choose one of the listed pairs
(`egress.py`); the listed name is resolved here, once, and the very address that was judged is the one that is connected
to. Where an upstream proxy is named, that one gets the listed pair, and nothing else of the kernel's request.

Everything that a kernel can draw out is bounded: tunnels, the head of a request in size and time, lookups, addresses
that are tried. `../README.md` has the contract. Standard library only.
"""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # -I leaves this file's directory out

import streams  # type: ignore[import-not-found]
from egress import (  # type: ignore[import-not-found]
    SHOWN,
    Address,
    Network,
    Pair,
    Refused,
    Rules,
    answers,
    asked,
    by_turns,
    literal,
    near,
    shown,
    why_not,
    written,
)

MAX_TUNNELS = 64  # pip opens ten at most; each takes 128 KiB at most
HEAD_BYTES = 8192
HEAD_SECONDS = 10.0
LOOKUP_SECONDS = 10.0
LOOKUPS = 8  # threads, of the few that the container may have
CONNECT_SECONDS = 10.0
MAX_ADDRESSES = 4  # of one answer are tried, one after the other
UPSTREAM_SECONDS = 30.0
REFUSED_LINES = 20  # a second, in the log

Resolve = Callable[[str, int], Awaitable[Iterable[str]]]

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?: ([\x20-\x7e]*))?")

_threads = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="lookup")


async def lookup(host: str, port: int) -> list[str]:
    """Ask the system's resolver; raises `OSError`."""
    # with its dot the name is whole: no search domain is tried behind it
    name = f"{host}." if "." in host and not literal(host) else host
    found = await asyncio.get_running_loop().run_in_executor(
        _threads, lambda: socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    )
    return [str(each[4][0]) for each in found]


def neighbours(root: Path = Path("/proc/net")) -> tuple[Network, ...]:
    """Return the networks that this container is in."""
    texts = []
    for name in ("route", "ipv6_route"):
        try:
            texts.append((root / name).read_text(encoding="ascii"))
        except OSError:  # a machine without IPv6 has no such table
            texts.append("")
    return tuple(near(*texts))


class Proxy:
    """The tunnels that are open, under one list of rules."""

    def __init__(self, rules: Rules, neighbours: Iterable[Network] = (), *, resolve: Resolve = lookup) -> None:
        """`neighbours` are the networks that this container is in; see `egress.why_not`."""
        self._rules = rules
        self._near = (*neighbours, *rules.near)
        self._resolve = resolve
        busy = f"{MAX_TUNNELS} tunnels are open already, and no more are at the same time. Close some and try again."
        self._connections = streams.Connections(MAX_TUNNELS, full=streams.reply(503, busy))
        self._refused = streams.Bounded(REFUSED_LINES)

    async def serve(self, listener: socket.socket) -> None:
        """Accept for ever; runs until it is cancelled."""
        await self._connections.accept(listener, self._tunnel)

    async def _tunnel(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        head = b""
        try:
            head, early = await _read_head(client, HEAD_SECONDS)
            pair = asked(head)
            far, first = await self._reach(pair, self._rules.check(pair))
        except Refused as refusal:
            self._refused.say("refused", asked=shown(head), text=str(refusal))
            await streams.answer(client, streams.reply(refusal.status, str(refusal)))
            return
        except OSError:
            return  # whoever asked is gone
        with far:
            try:
                streams.say("opened", target=written(pair), at=far.getpeername()[0])
                await loop.sock_sendall(client, ESTABLISHED + first)
                await loop.sock_sendall(far, early)
            except OSError:
                return
            await streams.join(client, far)

    async def _reach(self, pair: Pair, ranges: tuple[Network, ...]) -> tuple[socket.socket, bytes]:
        """Connect, and return what came from there already; raises `Refused`."""
        if self._rules.upstream is None:
            return await self._connect(pair, await self._judged(pair, ranges)), b""
        # the person named it, so its own address may be any
        end = await self._connect(self._rules.upstream, await self._addresses(self._rules.upstream))
        try:
            return end, await self._ask_upstream(end, pair)
        except BaseException:
            end.close()
            raise

    async def _judged(self, pair: Pair, ranges: tuple[Network, ...]) -> list[Address]:
        """Return the addresses that may be connected to, in the resolver's order.

        The others are left out and never touched, so one that is refused does not take the name away with it: a host
        may well have a public address and one within its own network.
        """
        found = await self._addresses(pair)
        reasons = {address: why_not(address, ranges, self._near) for address in found}
        good: list[Address] = [address for address, reason in reasons.items() if reason is None]
        if good:
            return good
        address, reason = next(iter(reasons.items()))
        raise Refused(
            403,
            f"{written(pair)} is listed, but its name resolves to {address}, which is {reason}. It is connected to "
            f"only where allow_addresses of that entry has it. {self._rules.told()}",
        )

    async def _addresses(self, pair: Pair) -> list[Address]:
        """Resolve a name, the only time that it is."""
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                found: list[Address] = answers(await self._resolve(*pair))
        except TimeoutError:
            raise Refused(
                504, f"The name of {written(pair)} was not resolved within {LOOKUP_SECONDS:g} seconds."
            ) from None
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "unknown reason"
            raise Refused(502, f"The name of {written(pair)} could not be resolved: {reason}.") from None
        if not found:
            raise Refused(502, f"The name of {written(pair)} has no address.")
        return found

    async def _connect(self, pair: Pair, addresses: list[Address]) -> socket.socket:
        loop = asyncio.get_running_loop()
        reasons = []
        for address in by_turns(addresses)[:MAX_ADDRESSES]:
            end = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6)
            end.settimeout(0)
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    await loop.sock_connect(end, (str(address), pair[1]))  # an address, so nothing is looked up
                end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a peer that vanished is noticed
            except OSError as error:  # of which a timeout is one
                end.close()
                reasons.append(f"{address}: {error.strerror or 'no answer'}")
            except BaseException:
                end.close()
                raise
            else:
                return end
        raise Refused(502, f"{written(pair)} does not take a connection ({'; '.join(reasons)}).")

    @staticmethod
    async def _ask_upstream(end: socket.socket, pair: Pair) -> bytes:
        """Have the upstream proxy open a tunnel; of the kernel's own request it gets the listed pair only."""
        target = written(pair)
        try:
            request = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode("ascii")
            async with asyncio.timeout(UPSTREAM_SECONDS):
                await asyncio.get_running_loop().sock_sendall(end, request)
            head, first = await _read_head(end, UPSTREAM_SECONDS)
        except (OSError, Refused):
            raise Refused(502, f"The upstream proxy did not answer the request for {target}.") from None
        said = _STATUS.fullmatch(head.partition(b"\r\n")[0])
        if said is None or not said[1].startswith(b"2"):
            told = b" ".join(filter(None, said.groups())).decode("ascii")[:SHOWN] if said else "no HTTP"
            raise Refused(502, f"The upstream proxy did not open {target}: it said {told}.")
        return first


async def _read_head(client: socket.socket, seconds: float) -> tuple[bytes, bytes]:
    """Read up to the empty line; returns what stands before it and what came behind it. Raises `Refused`, `OSError`."""
    loop = asyncio.get_running_loop()
    data = b""
    try:
        async with asyncio.timeout(seconds):
            while (end := data.find(b"\r\n\r\n")) < 0:
                if len(data) > HEAD_BYTES:
                    raise Refused(431, f"The head of this request is longer than {HEAD_BYTES} bytes.")
                chunk = await loop.sock_recv(client, HEAD_BYTES)
                if not chunk:
                    raise ConnectionError
                data += chunk
    except TimeoutError:
        raise Refused(408, f"No whole request came within {seconds:g} seconds.") from None
    return data[:end], data[end + 4 :]
