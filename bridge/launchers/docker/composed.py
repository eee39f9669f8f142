"""The kernel of a `docker compose` project: what compose.yaml, the bridge in it and the bridges on the host agree on.

The one rule: compose starts and ends it, we only find it. It is this owner's where its connection file on the host is:
an engine's label can be written by anybody, a file of ours only by us.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bridge.connection import save
from bridge.errors import BridgeError, NotOurs
from bridge.launchers import COMPOSE_DIRECTORY
from bridge.launchers.docker import connections
from bridge.launchers.docker.document import GATEWAY_PORTS
from bridge.launchers.docker.owner import OWNER, OWNER_VARIABLE, connection_file_name
from bridge.replacing import replace

_OWNER = "compose"
PROJECT = "com.docker.compose.project.working_dir"
"""A label that compose sets on every container."""
SECRET, TOKEN = "secret", "token"
"""Files; the first is what images/python/keys.py has drawn for a volume."""
BESIDE = "beside"
"""Where the connection file is for a container that shares the gateway's network."""


def current_owner(environ: Mapping[str, str] = os.environ) -> str:
    """Return the owner label's value as compose.yaml has it, in place of somebody's id, which compose cannot know."""
    apart = environ.get(OWNER_VARIABLE, "")
    return f"{_OWNER}-{apart}" if apart else _OWNER


def is_composed(labels: Mapping[str, str]) -> bool:
    """Tell whether docker compose started it, for whomever."""
    return labels.get(OWNER, "").partition("-")[0] == _OWNER


def connection_file(labels: Mapping[str, str], name: str) -> Path:
    """Return where the connection file of a compose project's kernel is on the host."""
    return Path(labels.get(PROJECT, "/nonexistent"), COMPOSE_DIRECTORY, connection_file_name(name))


def is_ours(labels: Mapping[str, str], file: Path) -> bool:
    """Tell whether a container is this user's, by its labels and its connection file on the host."""
    if labels.get(OWNER) != current_owner():
        return False
    try:
        about = file.lstat()
    except OSError:
        return False
    return stat.S_ISREG(about.st_mode) and about.st_uid == os.geteuid()


def not_ours(name: str, file: Path, does: str) -> NotOurs:
    """Return the error for what only compose may do to its kernel, with what to type."""
    return NotOurs(
        f"{name} was started by docker compose in {file.parent.parent}, so nothing was done. There, "
        f"`docker compose {does}`."
    )


@dataclass(frozen=True)
class Volumes:
    """Where the kernel's key and the server's token are kept."""

    keys: Path
    tokens: Path


def write_files(project: Path, made: Volumes, name: str, ports: tuple[int, ...], uid: int) -> Path:
    """Write what the host and a dev container need into the project's directory; returns where.

    Called as root, for which alone the secrets are; it becomes the directory's owner for good before it writes. `uid`
    is what the kernel runs as. Raises `BridgeError` where the place cannot be had for that owner alone.
    """
    key, token = ((volume / SECRET).read_text(encoding="ascii") for volume in (made.keys, made.tokens))
    owner = project.stat()
    if owner.st_uid == uid:
        raise BridgeError(
            f"KERNEL_UID in .env is {uid}, which owns the project's directory: code in the kernel could read there "
            "what is for you alone. Nothing was written; give it another number."
        )
    _become(owner)
    try:
        with ExitStack() as held:
            place = held.enter_context(_private(project / COMPOSE_DIRECTORY))
            beside = held.enter_context(_private(place / BESIDE))
            replace(place / ".gitignore", b"*\n")  # also in a project that does not know of us
            replace(place / TOKEN, token.encode())
            save(connections.over_ports(key, GATEWAY_PORTS), beside / f"{name}.json")
            save(connections.over_ports(key, ports), place / connection_file_name(name))
            for each in (*beside.glob("*.json"), *place.glob(connection_file_name("*"))):
                if each.name not in (f"{name}.json", connection_file_name(name)):
                    each.unlink()  # of an earlier name
    except OSError as error:
        raise BridgeError(
            f"{COMPOSE_DIRECTORY} in the project's directory cannot be used by its owner alone ({error.strerror}), so "
            "there is no connection file and nothing can be reached. Remove it, whatever it is, and try again. An "
            "engine that maps users (userns-remap) cannot write there at all."
        ) from None
    return project / COMPOSE_DIRECTORY


@contextmanager
def _private(directory: Path) -> Iterator[Path]:
    """Make a directory that only we can enter, if it is not there; yields a path on which no link is followed."""
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(held).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "it is somebody else's")
        os.fchmod(held, 0o700)
        yield Path(f"/proc/self/fd/{held}")
    finally:
        os.close(held)


def _become(owner: os.stat_result) -> None:
    """Be somebody else from now on."""
    if owner.st_uid != os.geteuid():
        os.setgroups([])
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)
