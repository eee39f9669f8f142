"""The kinds of value that a policy's settings have: each with its bounds or its check, and the reason for them.

The one rule: a check either returns the value as it will be used or says, in one sentence, what is wrong and what may
be written. It looks at one value alone; rules between settings are the model's.
"""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, PlainValidator, ValidationInfo

from bridge.policy import certificates, environment, images, places
from bridge.policy.units import OF_SYSTEM, KiB, MiB, TiB, count, duration, problem, shown, size

RUNTIME_DIRECTORY = "runtime"
"""In `attach.directories`: where Jupyter and VS Code write their kernels' connection files, wherever that is."""

Network = Literal["none", "isolated", "open"]
NETWORKS: tuple[Network, ...] = get_args(Network)
"""From the narrowest to the widest."""
OPEN_NETWORK = (
    "the sandbox has the network of this machine: it reaches the internet, the local network, and what this machine "
    "and its other containers offer to them"
)
"""What a person and an agent are told wherever a sandbox has network open."""
Mode = Literal["ro", "rw"]

MAX_RUNNING = count(0, 256)
"""0 allows no sandbox at all; at 256 idle kernels alone take 20 GiB."""
PORT = count(1, 65535)
"""All that TCP has."""
GPUS = count(0, 64)
"""More than any machine has."""
ENDING = duration(60, 365 * 86400)
"""Below a minute a sandbox would end while its first import runs; a kernel that is a year old is not meant."""
IDLE_OF_AGENTS = 7200.0
"""Seconds, of an agent that does not call and of a sandbox in which only agents were: they forget what they started."""
TIMEOUT = duration(1, 86400)
"""Clients give up after minutes; a call that waits for a day is a slip of the pen."""
OUTPUT = size(KiB, 16 * MiB)
"""A traceback needs a KiB; 16 MiB of text fills any model's context many times."""
RESULT = size(16 * KiB, 64 * MiB)
"""A small plot needs 16 KiB; clients drop what is far above 1 MiB."""
KEPT = size(MiB, TiB)
"""On the disk of the bridge's own machine; below a MiB there would be room for a few cells."""

AUDIT_SIZE = size(MiB, TiB)
"""A line may have half a MiB."""
AUDIT_KEPT = count(1, 1000)
"""With none, the lines of a full file would be gone with it."""

_RUNTIME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*")
_UPSTREAM = re.compile(r"http://(?P<host>[^:/@?#\[\]\s]+):(?P<port>[1-9][0-9]{0,4})/?")
_NO_HOST = tuple(
    (ipaddress.ip_network(network), what)
    for network, what in (
        ("127.0.0.0/8", "the loopback address, which is the gateway's own container"),
        ("::1/128", "the loopback address, which is the gateway's own container"),
        ("::ffff:0:0/96", "an IPv4 address in IPv6's form, which is compared as IPv4"),
        ("0.0.0.0/8", "no host's address"),
        ("::/128", "no host's address"),
        ("224.0.0.0/4", "the address of no single host"),
        ("ff00::/8", "the address of no single host"),
    )
)


def _version(value: object) -> int:
    # 1.0 and true equal 1, so comparing is not enough
    if isinstance(value, bool) or not isinstance(value, int) or value != 1:
        raise problem(f"{shown(value)} cannot be used here; write 1")
    return value


def _repository(text: str) -> str:
    if "@" in text or ":" in text.rpartition("/")[2]:
        raise ValueError(f"{text[:80]!r} holds a tag or digest; write the name alone, and those under tags or digests")
    images.parse_name(text)
    return text


def _image(text: str) -> str:
    images.parse(text)
    return text


def _attach_directory(text: str) -> str:
    if text == RUNTIME_DIRECTORY:
        return text
    real = places.real_directory(text)
    places.refuse_root_and_home(real)
    return str(real)


def _address(text: str) -> str:
    if text != "loopback":
        raise ValueError(f"{text[:60]!r} is not supported yet by this version; write loopback")
    return text


def _runtime(text: str) -> str:
    if not _RUNTIME.fullmatch(text):
        raise ValueError(f"{text[:60]!r} is not a runtime's name; write one that the engine knows, like runsc, or null")
    return text


def _host(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return _host_name(text)
    _refuse_itself(ipaddress.ip_network(address), text)  # first: of these each Python has a usual form of its own
    if str(address) != text:
        raise ValueError(f"{text[:60]!r} has another usual form; write {address}")
    return text


def _host_name(text: str) -> str:
    if not _HOST.fullmatch(text):
        raise ValueError(
            f"{text[:60]!r} is not a host's name; write it in full and in lower case, without a pattern, scheme, port "
            "or path (and a name in another script as xn--…)"
        )
    last = text.rpartition(".")[2]
    if last.isdigit() or re.fullmatch("0x[0-9a-f]*", last):
        # resolvers take 127.1, 0x7f.1 and 2130706433 for addresses
        raise ValueError(f"{text[:60]!r} is a number that some programs read as an address; write the address in full")
    if last == "localhost":
        raise ValueError(f"{text[:60]!r} is the gateway's own container, where nothing listens; write another host")
    return text


def _network_range(text: str) -> str:
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(f"{text[:60]!r} is not a range of addresses; write one like 10.1.2.0/24") from None
    _refuse_itself(network, text)
    return str(network)


def _refuse_itself(network: ipaddress.IPv4Network | ipaddress.IPv6Network, text: str) -> None:
    for other, what in _NO_HOST:
        if network.version == other.version and network.overlaps(other):
            raise ValueError(
                f"{text[:60]!r} is or holds {what}; write the address or the range that your hosts really have"
            )


def _upstream(text: str) -> str:
    match = _UPSTREAM.fullmatch(text)
    if "@" in text:
        # not a word of what was written: it may be a password
        raise ValueError(
            "this holds a name or password, which would be read by whoever may ask the engine; write http://host:port "
            "of a proxy that needs none, such as one of your own that adds them"
        )
    if not match or not 0 < int(match["port"]) < 1 << 16:
        raise ValueError(f"{text[:60]!r} is not a proxy's address; write one like http://proxy.example.org:3128")
    _host(match["host"])
    return text.removesuffix("/")


def _path(value: object) -> str | Path:
    if not isinstance(value, str | Path):
        raise problem(f"{shown(value)} cannot be used here; write a file's full path, or null")
    return value


def _audit_file(value: object, info: ValidationInfo) -> Path:
    # who sets $HOME must not choose where the system's audit is
    environ = {} if OF_SYSTEM in (info.context or ()) else os.environ
    return places.audit_file(_path(value), environ)


def _ca_bundle(value: object) -> Path:
    file = places.expanded(_path(value))
    certificates.read(file)
    return file


def _source(value: object) -> Path:
    if not isinstance(value, str | Path):
        raise problem(f"{shown(value)} cannot be used here; write a directory")
    real = places.real_directory(value)
    places.refuse_source(real)
    return real


Version = Annotated[int, PlainValidator(_version)]
Repository = Annotated[str, AfterValidator(_repository)]
Image = Annotated[str, AfterValidator(_image)]
Tag = Annotated[str, AfterValidator(images.check_tag)]
Digest = Annotated[str, AfterValidator(images.check_digest)]
AttachDirectory = Annotated[str, AfterValidator(_attach_directory)]
Address = Annotated[str, AfterValidator(_address)]
Host = Annotated[str, AfterValidator(_host)]
Upstream = Annotated[str, AfterValidator(_upstream)]
CaBundle = Annotated[Path, PlainValidator(_ca_bundle)]
NetworkRange = Annotated[str, AfterValidator(_network_range)]
VariableName = Annotated[str, AfterValidator(environment.check_name)]
Runtime = Annotated[str, AfterValidator(_runtime)]
AuditFile = Annotated[Path, PlainValidator(_audit_file)]
Source = Annotated[Path, PlainValidator(_source)]
