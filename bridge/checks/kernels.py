"""Connection files: whether somebody still listens behind each.

The one rule: nothing is sent to a kernel; its heartbeat port is connected to and closed again.
"""

from __future__ import annotations

import shlex
import socket
import time
from collections.abc import Iterator

from bridge.checks import Finding
from bridge.connection import ConnectionInfo
from bridge.kernels.files import KernelFile, kernel_files
from bridge.policy import Attach

YOUNG = 120.0
"""Seconds. A Jupyter server writes the file before its kernel listens."""
SHOWN = 5
CONNECT_TIMEOUT = 0.5


def connection_files(attach: Attach) -> Iterator[Finding]:
    """Tell which connection files are left of kernels that have ended."""
    check = "connection files"
    if not attach.allowed:
        yield Finding(check, "ok", "the policy does not allow host kernels (attach.allowed: false)")
        return
    found = list(kernel_files(attach))
    stale = [each for each in found if _is_old(each) and not _listens(each.info)]
    if not stale:
        yield Finding(check, "ok", f"{len(found)} where the policy looks, none stale")
        return
    hosts = [each for each in stale if not each.is_sandbox]
    if len(hosts) < len(stale):
        text = f"{len(stale) - len(hosts)} of sandboxes that have ended"
        yield Finding(check, "warn", text, "kernel-bridge gc")
    if hosts:
        more = f" (and {len(hosts) - SHOWN} more)" if len(hosts) > SHOWN else ""
        names = " ".join(shlex.quote(str(each.path)) for each in hosts[:SHOWN])
        yield Finding(
            check, "warn", f"{len(hosts)} of host kernels that have ended; they do no harm", f"rm {names}{more}"
        )


def _is_old(file: KernelFile) -> bool:
    try:
        return time.time() - file.path.stat().st_mtime > YOUNG
    except OSError:
        return False


def _listens(info: ConnectionInfo) -> bool:
    """Tell whether a kernel may be there; one on another machine is not asked."""
    if not info.is_loopback():
        return True
    family = socket.AF_UNIX if info.transport == "ipc" else socket.AF_INET6 if ":" in info.ip else socket.AF_INET
    address = f"{info.ip}-{info.hb_port}" if info.transport == "ipc" else (info.ip, info.hb_port)
    with socket.socket(family) as probe:
        probe.settimeout(CONNECT_TIMEOUT)
        try:
            probe.connect(address)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # it may be there and not answer
            return True
    return True
