"""Looking without starting: what the engine is, which image would be started, what was left behind.

The one rule: nothing here changes anything, in the engine or on the host.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bridge.launchers import EngineFacts, Leftovers
from bridge.launchers.docker import image, places
from bridge.launchers.docker.border import Missing
from bridge.launchers.docker.engine import Engine
from bridge.launchers.docker.host import Endpoint
from bridge.launchers.docker.image import Image
from bridge.launchers.docker.inventory import Inventory

# GET /info names what the engine's machine can enforce; an engine that leaves one out says nothing about it.
_LIMITS = {
    "MemoryLimit": "memory",
    "SwapLimit": "swap",
    "PidsLimit": "pids",
    "CpuCfsPeriod": "cpus",
    "CpuCfsQuota": "cpus",
}


async def facts(engine: Engine, endpoint: Endpoint) -> EngineFacts:
    """Return what the engine says of itself (GET /info and /version)."""
    version = await engine.version()
    before = time.time()
    info = await engine.info()
    return read(endpoint, version, info, before=before, after=time.time())


def read(
    endpoint: Endpoint, version: Mapping[str, Any], info: Mapping[str, Any], *, before: float, after: float
) -> EngineFacts:
    """Read the two answers; the engine looked at its clock between `before` and `after`, in seconds of ours."""
    options = [str(each) for each in info.get("SecurityOptions") or []]
    maps = next((each for each in ("rootless", "userns") if any(o.startswith(f"name={each}") for o in options)), None)
    virtual = sys.platform != "linux" or "Docker Desktop" in str(info.get("OperatingSystem"))
    storage = Path(str(info.get("DockerRootDir") or "/"))
    free = None
    if not virtual:
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(storage).free
    return EngineFacts(
        address=endpoint.url,
        named_by=endpoint.source,
        version=str(version.get("Version", "")),
        api_version=str(version.get("ApiVersion", "")),
        system=str(info.get("OperatingSystem") or "an unknown system"),
        maps_uids=maps,
        shares_sockets=not virtual and maps is None,
        runtimes=tuple(sorted(info.get("Runtimes") or {})),
        missing_limits=tuple(dict.fromkeys(limit for name, limit in _LIMITS.items() if info.get(name) is False)),
        warnings=tuple(str(each) for each in info.get("Warnings") or []),
        clock_ahead=_ahead(str(info.get("SystemTime") or ""), before, after),
        storage=storage,
        free=free,
    )


async def startable(engine: Engine, reference: str) -> Image:
    """Return the image behind a full reference, checked as a start checks it; raises `LaunchError`."""
    try:
        inspected = await engine.image(reference)
    except Missing:
        raise image.missing(reference) from None
    return image.checked(reference, inspected)


def leftovers(ended: tuple[str, ...], there: Inventory, environ: Mapping[str, str] = os.environ) -> Leftovers:
    """Return what belongs to no sandbox that runs."""
    left = there.leftovers()
    used = {each.socket_directory for each in (*there.containers, *there.others) if each.socket_directory}
    directories = places.stale_socket_directories(used, environ)
    return Leftovers(ended, len(left.containers) + len(left.volumes), tuple(directories))


def _ahead(told: str, before: float, after: float) -> float:
    """Return how far the engine's clock is outside the time of the request; 0 where it does not tell."""
    try:
        engine = datetime.fromisoformat(told)
    except ValueError:
        return 0.0
    now = (engine if engine.tzinfo else engine.replace(tzinfo=UTC)).timestamp()
    return now - after if now > after else min(0.0, now - before)
