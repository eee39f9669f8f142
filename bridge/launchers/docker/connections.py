"""Where a sandbox's channels are: inside its container, and for the clients on the host.

The one rule: inside they are always Unix sockets; what a client sees are the gateway's, of the same names in a host
directory (network none) or ports on 127.0.0.1.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bridge.connection import ConnectionInfo
from bridge.launchers.docker.document import SOCKETS


def orders(
    key: str,
    environment: Iterable[tuple[str, str]],
    *,
    proxy: bool = False,
    certificates: str = "",
    limits: Mapping[str, float] | None = None,
) -> bytes:
    """Return the one line for the supervisor's stdin: the connection as the kernel gets it, and what to pass to it.

    And whether there is a `proxy` for it, the `certificates` that it is to trust, and by which `limits` it ends.
    """
    said: dict[str, Any] = {"connection": over_sockets(key, Path(SOCKETS)).to_json(), "environment": dict(environment)}
    said |= {"proxy": True} if proxy else {}
    said |= {"certificates": certificates} if certificates else {}
    said |= limits or {}
    return json.dumps(said).encode() + b"\n"


def over_sockets(key: str, directory: Path, start: str | None = None) -> ConnectionInfo:
    """Return the connection over the sockets `k-1` to `k-5` of a directory."""
    return ConnectionInfo(
        transport="ipc",
        ip=str(directory / "k"),
        shell_port=1,
        iopub_port=2,
        stdin_port=3,
        control_port=4,
        hb_port=5,
        key=key,
        supervised=True,
        start=start,
    )


def over_ports(key: str, ports: tuple[int, ...], start: str | None = None) -> ConnectionInfo:
    """Return the connection over the gateway's five ports."""
    shell, iopub, stdin, control, heartbeat = ports
    return ConnectionInfo(
        transport="tcp",
        ip="127.0.0.1",
        shell_port=shell,
        iopub_port=iopub,
        stdin_port=stdin,
        control_port=control,
        hb_port=heartbeat,
        key=key,
        supervised=True,
        start=start,
    )


def ports(info: ConnectionInfo) -> tuple[int, ...]:
    """Return the five ports in the gateway's order."""
    return (info.shell_port, info.iopub_port, info.stdin_port, info.control_port, info.hb_port)
