"""The kinds of value that a policy's settings have: each with its bounds or its check, and the reason for them.

The one rule: a check either returns the value as it will be used or says, in one sentence, what is wrong and what may
be written. It looks at one value alone; rules between settings are the model's.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, PlainValidator

from bridge.policy import environment, images, places
from bridge.policy.units import KiB, MiB, TiB, count, duration, problem, shown, size

RUNTIME_DIRECTORY = "runtime"
"""In `attach.directories`: Jupyter's own runtime directory, wherever it is."""

Network = Literal["none", "isolated", "open"]
NETWORKS: tuple[Network, ...] = get_args(Network)
"""From the narrowest to the widest."""
Mode = Literal["ro", "rw"]

MAX_RUNNING = count(0, 256)
"""0 allows no sandbox at all; at 256 idle kernels alone take 20 GiB."""
PORT = count(1, 65535)
"""All that TCP has."""
GPUS = count(0, 64)
"""More than any machine has."""
ENDING = duration(60, 365 * 86400)
"""Below a minute a sandbox would end while its first import runs; a kernel that is a year old is not meant."""
TIMEOUT = duration(1, 86400)
"""Clients give up after minutes; a call that waits for a day is a slip of the pen."""
OUTPUT = size(KiB, 16 * MiB)
"""A traceback needs a KiB; 16 MiB of text fills any model's context many times."""
RESULT = size(16 * KiB, 64 * MiB)
"""A small plot needs 16 KiB; clients drop what is far above 1 MiB."""
KEPT = size(MiB, TiB)
"""On the disk of the bridge's own machine; below a MiB there would be room for a few cells."""

_RUNTIME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*")


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
    if not _HOST.fullmatch(text):
        raise ValueError(f"{text[:60]!r} is not a host's name; write it in full and in lower case, without a pattern")
    return text


def _network_range(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise ValueError(f"{text[:60]!r} is not a range of addresses; write one like 10.1.2.0/24") from None


def _path(value: object) -> Path:
    if not isinstance(value, str | Path):
        raise problem(f"{shown(value)} cannot be used here; write null")
    return Path(value)


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
NetworkRange = Annotated[str, AfterValidator(_network_range)]
VariableName = Annotated[str, AfterValidator(environment.check_name)]
Runtime = Annotated[str, AfterValidator(_runtime)]
FilePath = Annotated[Path, PlainValidator(_path)]
Source = Annotated[Path, PlainValidator(_source)]
