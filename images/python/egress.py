"""What a kernel may reach through the gateway: which request is one, which host:port, which address of it.

The one rule: no input and no output, so that each rule is tried alone; `proxy.py` obeys them. What can be read in two
ways is refused, and each refusal says what was asked for and what is allowed. An address that is not a public one is
refused, unless the pair's own list of addresses has it: whoever controls a name must not turn it to what the engine's
machine or its network can reach.
"""

from __future__ import annotations

import ipaddress
import json
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest

SHOWN_PAIRS = 20
SHOWN = 200  # characters of what a kernel asked for, in answers and in the log

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Pair = tuple[str, int]

# Written out and not left to the library, whose answers differ between versions; https://www.iana.org/assignments has
# the registries of special-purpose addresses.
_NOT_PUBLIC: tuple[tuple[Network, str], ...] = tuple(
    (ipaddress.ip_network(network), what)
    for network, what in (
        ("0.0.0.0/8", "an unspecified address"),
        ("10.0.0.0/8", "a private address"),
        ("100.64.0.0/10", "a provider's shared address (CGNAT)"),
        ("127.0.0.0/8", "the gateway itself (loopback)"),
        ("168.63.129.16/32", "an address of the engine's machine, in Azure"),
        ("169.254.0.0/16", "a link-local address, as those of cloud metadata are"),
        ("172.16.0.0/12", "a private address"),
        ("192.0.0.0/24", "a reserved address"),
        ("192.0.2.0/24", "a reserved address"),
        ("192.88.99.0/24", "a reserved address"),
        ("192.168.0.0/16", "a private address"),
        ("198.18.0.0/15", "a reserved address"),
        ("198.51.100.0/24", "a reserved address"),
        ("203.0.113.0/24", "a reserved address"),
        ("224.0.0.0/4", "a multicast address"),
        ("240.0.0.0/4", "a reserved address"),
        ("::/128", "an unspecified address"),
        ("::1/128", "the gateway itself (loopback)"),
        ("fc00::/7", "a private address"),
        ("fe80::/10", "a link-local address"),
        ("fec0::/10", "a private address"),
        ("ff00::/8", "a multicast address"),
        ("2001::/23", "a reserved address, or a tunnel's"),
        ("2001:db8::/32", "a reserved address"),
        ("3fff::/20", "a reserved address"),
    )
)
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")  # all that is given out so far
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_HEADER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")


class Refused(Exception):
    """What is asked for is not done; the sentence goes to whoever asked, and into the log."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Rules:
    """What may be reached, as the launcher wrote it down."""

    allowed: Mapping[Pair, tuple[Network, ...]]
    """Each pair, and the addresses beyond the public ones that its name may have."""
    upstream: Pair | None = None
    near: tuple[Network, ...] = ()
    """The networks of the engine's machine, which are as near as those that the gateway finds itself to be in."""

    def check(self, pair: Pair) -> tuple[Network, ...]:
        """Return what the pair's name may resolve to beyond public addresses; raises `Refused`."""
        if pair not in self.allowed:
            raise Refused(403, f"{written(pair)} may not be reached from this sandbox. {self.told()}")
        return self.allowed[pair]

    def told(self) -> str:
        """What is allowed, in a sentence."""
        shown = [written(each) for each in list(self.allowed)[:SHOWN_PAIRS]]
        more = len(self.allowed) - len(shown)
        listed = ", ".join(shown) + (f" and {more} more" if more else "")
        return f"The policy's egress allows {listed}."


def read(text: str) -> Rules:
    """Read the launcher's argument.

    `{"allow": [[host, port, [range, …]], …], "upstream": [host, port] or null, "refuse": [network, …]}`; the last is in
    none that an older launcher wrote.
    """
    said = json.loads(text)
    allowed = {}
    for host, port, ranges in said["allow"]:
        itself = [host] if literal(host) else []  # who lists an address means that one
        allowed[(host, port)] = tuple(ipaddress.ip_network(each) for each in (*ranges, *itself))
    upstream = said["upstream"]
    near = tuple(ipaddress.ip_network(each) for each in said.get("refuse", ()))
    return Rules(allowed, (upstream[0], upstream[1]) if upstream else None, near)


def literal(host: str) -> Address | None:
    """Return what a host is where it is an address."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def written(pair: Pair) -> str:
    """A pair as it stands in a request, cut where it is long."""
    host, port = pair
    return f"[{host}]:{port}" if ":" in host else f"{host[:SHOWN]}:{port}"


def asked(head: bytes) -> Pair:
    """Return what a request's head asks to be connected to; raises `Refused` for all that is not plainly a CONNECT."""
    first, *headers = head.split(b"\r\n")
    parts = first.split(b" ")
    if len(parts) != 3 or parts[2] not in (b"HTTP/1.1", b"HTTP/1.0") or not parts[0].isalpha():
        raise Refused(400, "This is not a request to an HTTP proxy.")
    target = parts[1].decode("utf-8", "replace")
    if parts[0] != b"CONNECT":
        raise Refused(
            405,
            f"{shown(head)} is not passed on: only tunnels are, which a client asks for by "
            "CONNECT, as it does for https addresses. Plain http is not carried; use an https address.",
        )
    for header in headers:
        # a line that two readers could read as two, or as a part of the line before it
        if not _HEADER.fullmatch(header):
            raise Refused(400, "A header of this request is malformed.")
        if header.partition(b":")[0].lower() in (b"content-length", b"transfer-encoding"):
            raise Refused(400, "A CONNECT request has no body, and this one announces one.")
    return pair_of(target)


def shown(head: bytes) -> str:
    """What a head asks for, for answers and the log: a method, a host and a port; the rest may hold a secret."""
    method, _, rest = head.partition(b"\r\n")[0].decode("utf-8", "replace").partition(" ")
    return f"{method[:20]} {_place(rest.partition(' ')[0])}"


def _place(target: str) -> str:
    """Return the host and the port of a target, without a scheme, a user, a path and a query."""
    whole = target.partition("://")[2] or target
    place = re.split(r"[/?#]", whole, maxsplit=1)[0].rpartition("@")[2]
    return place[:SHOWN] if re.fullmatch(r"([\w.*-]*|\[[\w.:%]*\])(:\d*)?", place) else "…"


def pair_of(target: str) -> Pair:
    """Read `host:port` or `[address]:port`, the host as the policy writes it; raises `Refused`."""
    host, colon, port = target.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    number = int(port) if re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) else 0
    name = _canonical(host, bracketed=bracketed)
    if not colon or name is None or not 0 < number < 1 << 16:
        raise Refused(400, f"{_place(target)!r} is not a host and a port.")
    return name, number


def _canonical(host: str, *, bracketed: bool) -> str | None:
    """Return one spelling for all that mean the same name or address; None for what is neither."""
    address = literal(host)
    if bracketed or isinstance(address, ipaddress.IPv6Address):
        # a zone names a device of whoever resolves it, and without brackets the port could be a part of the address
        return str(address) if bracketed and address and address.version == 6 and "%" not in host else None
    if address:
        return str(address)
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            return None
    host = host.lower().removesuffix(".")
    return host if re.fullmatch(r"[a-z0-9_](?:[a-z0-9._-]{0,251}[a-z0-9_])?", host) else None


def answers(found: Iterable[str]) -> list[Address]:
    """Return a lookup's addresses, each once, an IPv4 address in IPv6's clothes as what it is; none with a zone."""
    addresses: dict[Address, None] = {}
    for text in found:
        if (address := literal(text)) and "%" not in text:
            mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
            addresses[mapped or address] = None
    return list(addresses)


def by_turns(addresses: list[Address]) -> list[Address]:
    """Put the two families by turns, each in the resolver's order: where one leads nowhere, the other is near."""
    first = [each for each in addresses if each.version == addresses[0].version]
    other = [each for each in addresses if each.version != addresses[0].version]
    return [each for two in zip_longest(first, other) for each in two if each is not None]


def why_not(address: Address, ranges: Iterable[Network] = (), near: Iterable[Network] = ()) -> str | None:
    """Why an address is not connected to: what it is in place of a public one; None where it may be.

    `ranges` are the exceptions of a pair. `near` is what the gateway or the engine's machine reaches without a router:
    that machine, its neighbours and other containers, whatever their addresses.
    """
    inner = _embedded(address)
    forms = (address, inner) if inner else (address,)
    if any(form in network for form in forms for network in ranges):
        return None
    for form in forms:
        for network, what in _NOT_PUBLIC:
            if form in network:
                return what
        if any(form in network for network in near):
            return "an address of the engine's machine, of its network or of another container"
    if isinstance(address, ipaddress.IPv6Address) and address not in _PUBLIC_V6 and address not in _NAT64:
        return "no public address"
    return None


def _embedded(address: Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that a router on the way would make of an IPv6 address."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour


def near(routes: str, routes_v6: str) -> tuple[Network, ...]:
    """Return the networks that a container is in, by the texts of `/proc/net/route` and `/proc/net/ipv6_route`."""
    found: list[Network] = []
    for line in routes.splitlines()[1:]:
        fields = line.split()
        # no RTF_GATEWAY, so what lies there is reached directly; addresses are hexadecimal in host byte order
        if len(fields) > 7 and not int(fields[3], 16) & 2:
            destination, mask = (socket.inet_ntoa(int(fields[at], 16).to_bytes(4, "little")) for at in (1, 7))
            found.append(ipaddress.IPv4Network(f"{destination}/{mask}"))
    for line in routes_v6.splitlines():
        fields = line.split()
        # destination and its length, and a next hop of zero
        if len(fields) > 9 and int(fields[4], 16) == 0 and int(fields[1], 16) > 0:
            found.append(ipaddress.IPv6Network((int(fields[0], 16), int(fields[1], 16))))
    return tuple(found)
