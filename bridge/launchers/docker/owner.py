"""Whose a sandbox is, and what its objects are called in the engine.

The one rule: engines are shared, so only objects that carry our own owner label are ever touched, and a sandbox's name
becomes part of an object's name only after it has matched one pattern.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path

from bridge.errors import UsageError

LABEL = "io.kernel-bridge."
OWNER = LABEL + "owner"
NAME = LABEL + "name"
ROLE = LABEL + "role"
"""`kernel`, `gateway`; on a volume `sockets` or `egress`, on a network `network`."""
START = LABEL + "start"
"""Drawn anew for every start: what a failed start made is told from what another holder of the same name has."""
NETWORK = LABEL + "network"
IMAGE = LABEL + "image"
"""The reference that was asked for. On an image the same label is "1" and marks it as one of ours."""
WORKSPACE = LABEL + "workspace"
WORKSPACE_MODE = LABEL + "workspace-mode"
CONNECTION_FILE = LABEL + "connection-file"
SOCKETS = LABEL + "sockets"
"""With network none: the host directory that holds the kernel's sockets."""
EGRESS = LABEL + "egress"
"""What may be reached through the gateway, as it gets it; empty where nothing may."""
ENDS = LABEL + "ends"
"""When its supervisor ends it, as that was told; empty where it does not."""
UID = LABEL + "uid"
ALL = frozenset(
    (OWNER, NAME, ROLE, START, NETWORK, IMAGE, WORKSPACE, WORKSPACE_MODE, CONNECTION_FILE, SOCKETS, EGRESS, ENDS, UID)
)

FILE_PREFIX = "kernel-bridge-"

OWNER_VARIABLE = "KERNEL_BRIDGE_OWNER"
_MACHINE_IDS = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


def current_owner(environ: Mapping[str, str] = os.environ, *, uid: int | None = None) -> str:
    """Return this user's id on this machine: 32 hexadecimal digits.

    $KERNEL_BRIDGE_OWNER is mixed in, so that CI jobs and tests that share one uid stay apart.
    """
    who = f"{os.getuid() if uid is None else uid}:{environ.get(OWNER_VARIABLE, '')}"
    # machine-id(5): an application must not show the id itself, but a keyed hash of it
    return hmac.new(_machine_id().encode(), b"io.kernel-bridge:" + who.encode(), hashlib.sha256).hexdigest()[:32]


def stem(name: str, owner: str) -> str:
    """Return the name of the kernel's container, which is also how the gateway's and the volume's names begin."""
    return f"kernel-bridge.{checked_name(name)}.{owner[:8]}"


def connection_file_name(name: str) -> str:
    """Return the name of a sandbox's connection file."""
    return f"{FILE_PREFIX}{name}.json"


def checked_name(name: str) -> str:
    """Return the name, or raise `UsageError`: nothing else may become part of a request to the engine."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name[:64]!r} cannot be a sandbox's name: write 1 to 32 of a-z, 0-9 and '-', the first not a '-'."
        )
    return name


def _machine_id() -> str:
    for path in _MACHINE_IDS:
        try:
            text = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if text and text != "uninitialized":
            return text
    # not Linux, or a container image without one: the host name keeps at least other machines' objects apart
    return platform.node()
