"""Looking without starting: what the engine is, which image would be started, what was left behind.

The one rule: nothing here changes anything, in the engine or on the host.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bridge.launchers import EngineFacts, Leftovers
from bridge.launchers.docker import capabilities, image, places
from bridge.launchers.docker.border import Missing
from bridge.launchers.docker.engine import Engine
from bridge.launchers.docker.host import Endpoint
from bridge.launchers.docker.image import Image
from bridge.launchers.docker.inventory import Inventory


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
    able = capabilities.read(info)
    storage = Path(str(info.get("DockerRootDir") or "/"))
    free = None
    if not able.virtual:
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(storage).free
    return EngineFacts(
        address=endpoint.url,
        source=endpoint.source,
        version=str(version.get("Version", "")),
        api_version=str(version.get("ApiVersion", "")),
        system=str(info.get("OperatingSystem") or "an unknown system"),
        maps_uids="rootless" if able.rootless else "userns-remap" if able.mapped else None,
        shares_sockets=not able.virtual and not able.mapped,
        runtimes=able.runtimes,
        missing_limits=able.unlimited,
        counts_sockets=str(info.get("CgroupVersion")) == "2",
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
    return Leftovers(ended, len(left.containers) + len(left.volumes) + len(left.networks), tuple(directories))


def _ahead(told: str, before: float, after: float) -> float:
    """Return how far the engine's clock is outside the time of the request; 0 where it does not tell."""
    try:
        engine = datetime.fromisoformat(told)
    except ValueError:
        return 0.0
    now = (engine if engine.tzinfo else engine.replace(tzinfo=UTC)).timestamp()
    return now - after if now > after else min(0.0, now - before)
