"""The engine's machine and its neighbours, where they have public addresses: what an allowed name must not lead to.

The one rule: engines are local, so this machine is the engine's, and its system's own tables say what it is in. That
is fixed with the start, like the rest of what may be reached; an address that a router gives it is not in them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path

_LEAF = re.compile(r"\|-- (\S+)|/(\d+) (?:host LOCAL|link UNICAST)$")
WIDEST = 8
"""Bits. A wider network is not one that this machine is in: a tunnel is the way to everything in it."""


def networks(root: Path = Path("/proc/net")) -> tuple[str, ...]:
    """Return this machine's public addresses and the networks they are in; other addresses are refused anyway."""
    found = {ipaddress.IPv4Network(each) for each in _ipv4(_read(root / "fib_trie"))}
    found_v6 = set()
    for line in _read(root / "if_inet6").splitlines():
        address, _, length, *_ = line.split()
        found_v6.add(ipaddress.IPv6Network((int(address, 16), int(length, 16)), strict=False))
    own = ipaddress.collapse_addresses(each for each in found if each.is_global and each.prefixlen >= WIDEST)
    own_v6 = ipaddress.collapse_addresses(each for each in found_v6 if each.is_global and each.prefixlen >= WIDEST)
    return tuple(str(each) for each in (*own, *own_v6))


def _ipv4(table: str) -> Iterator[str]:
    """Yield what the tree of routes has as this machine's own, or as reached without a router."""
    address = ""
    for line in table.splitlines():
        if leaf := _LEAF.search(line):
            address = leaf[1] or address
            if leaf[2]:
                yield f"{address}/{leaf[2]}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:  # another system, or one without that protocol
        return ""
