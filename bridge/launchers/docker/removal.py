"""Ending a sandbox and sweeping up: the one place that removes anything.

The one rule: a sandbox's connection file goes first and the kernel's container, which holds the claim to the name, goes
last: so a new sandbox of the same name can never lose its own. What cannot be removed now carries its labels and is
found by the next sweep.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from bridge.connection import ConnectionInfo, load, runtime_directory
from bridge.errors import BadConnectionFile, LaunchError
from bridge.launchers.docker import connections, places, underway, workspaces
from bridge.launchers.docker.engine import Engine, together
from bridge.launchers.docker.inventory import Container, Inventory, look
from bridge.launchers.docker.owner import FILE_PREFIX, connection_file_name
from bridge.locks import is_locked
from bridge.replacing import DRAFT

CLEAN_UP = 60.0
"""Seconds that a clean-up may take after a failure or a cancellation; usual is a quarter of one."""
_TRIES, _PAUSE = 20, 0.1
"""The engine unmounts a volume a moment after it has removed the container. A network that somebody has put another
container into stays, like a volume in use: that is theirs."""


async def remove(engine: Engine, doomed: Inventory) -> None:
    """Remove containers, volumes, networks, and with each kernel's container its connection file and socket directory.

    Everything is tried; raises the first `LaunchError` at the end.
    """
    kernels = doomed.kernels()
    for kernel in kernels:
        remove_connection_file(kernel, doomed)
    gateways = [each for each in doomed.containers if each not in kernels]
    failures = await _all(
        *(partial(engine.remove, each.id) for each in gateways), *(partial(_end, engine, each) for each in kernels)
    )
    failures += await _all(*(partial(engine.remove, each.id) for each in kernels))
    await together(*(partial(_give_back, each) for each in kernels))
    for kernel in kernels:
        if kernel.socket_directory:
            places.remove_socket_directory(kernel.socket_directory)
    tries = _TRIES if doomed.containers else 1
    failures += await _all(
        *(partial(_when_unused, partial(engine.remove_volume, each.name), tries) for each in doomed.volumes),
        *(partial(_when_unused, partial(engine.remove_network, each.id), tries) for each in doomed.networks),
    )
    if failures:
        raise failures[0]


async def undo(engine: Engine, who: str, start: str, directory: Path | None) -> bool:
    """Remove all that one start made, whatever it had come to; shielded from cancellation and bounded in time.

    False where something may be left: it carries our labels, and the next sweep removes it.
    """
    with anyio.move_on_after(CLEAN_UP, shield=True):
        try:
            await remove(engine, (await look(engine, who)).of_start(start))
        except LaunchError:
            return False  # the first error is the one to tell
        else:
            return True
        finally:
            if directory:
                places.remove_socket_directory(directory)
    return False


async def drop(engine: Engine, container: str) -> None:
    """Remove one container after a failure; shielded from cancellation and bounded in time."""
    with anyio.move_on_after(CLEAN_UP, shield=True), contextlib.suppress(LaunchError):
        await engine.remove(container)


async def sweep_leftovers(engine: Engine, who: str, there: Inventory) -> None:
    """Remove what belongs to no sandbox, of this owner only: in the engine, and on the host."""
    await remove(engine, there.leftovers())
    # A file is written after its container was made: what no later listing claims is nobody's.
    files = list(runtime_directory().glob(f"{FILE_PREFIX}*.json"))
    drafts = list(runtime_directory().glob(f".{FILE_PREFIX}*{DRAFT}"))
    marks = list(runtime_directory().glob(f".{FILE_PREFIX}*{underway.SUFFIX}"))
    there = await look(engine, who, volumes=False)
    used = [*there.containers, *there.others]
    marked = {underway.path(each.connection_file, each.start) for each in used if each.has_file}
    await anyio.to_thread.run_sync(
        _sweep_host,
        [path for path in files if path not in {each.connection_file for each in used}],
        there,
        [path for path in marks if path not in marked],
        drafts,
        {each.socket_directory for each in used if each.socket_directory},
    )


def remove_connection_file(kernel: Container, there: Inventory) -> None:
    """Remove a sandbox's connection file, unless another's has taken its place: an owner's or an engine's."""
    path = kernel.connection_file
    if not kernel.has_file or path.name != connection_file_name(kernel.name):
        return
    if any(each.connection_file == path for each in there.others):
        return
    with contextlib.suppress(OSError):
        if _is_its(path, kernel.start):
            path.unlink()
    with contextlib.suppress(OSError):
        underway.path(path, kernel.start).unlink()


async def is_free(connection_file: Path, there: Inventory) -> bool:
    """Tell whether a sandbox of this engine may have a connection file: no kernel of another is reached by it."""
    return await anyio.to_thread.run_sync(_is_free, connection_file, there)


async def _end(engine: Engine, kernel: Container) -> None:
    """Kill, so that the sockets close and the gateway goes while the rest is under way."""
    if kernel.state in ("running", "paused"):
        with contextlib.suppress(LaunchError):
            await engine.kill(kernel.id, "SIGKILL")


async def _give_back(kernel: Container) -> None:
    """Where root started a kernel, that ran as an unprivileged uid of its own: what it made is root's."""
    workspace = kernel.written_workspace
    if workspace and os.geteuid() == 0 and kernel.uid:
        root = places.User(os.geteuid(), os.getegid())
        await anyio.to_thread.run_sync(workspaces.give_back, workspace, kernel.uid, root)


async def _when_unused(remove: Callable[[], Awaitable[bool]], tries: int) -> None:
    for _ in range(tries - 1):
        if await remove():
            return
        await anyio.sleep(_PAUSE)
    await remove()


async def _all(*calls: Callable[[], Awaitable[None]]) -> list[LaunchError]:
    """Run all the calls at the same time, whichever fail, and return the failures."""
    failures: list[LaunchError] = []

    async def run(call: Callable[[], Awaitable[None]]) -> None:
        try:
            await call()
        except LaunchError as error:
            failures.append(error)

    await together(*(partial(run, call) for call in calls))
    return failures


def _sweep_host(
    files: list[Path], there: Inventory, marks: list[Path], drafts: list[Path], used_directories: set[Path]
) -> None:
    for path in drafts:
        with contextlib.suppress(OSError):
            if (lock := underway.hold(path)) is not None:
                path.unlink(missing_ok=True)
                os.close(lock)
    for path in marks:
        if is_locked(path) is False:
            with contextlib.suppress(OSError):
                path.unlink()
    for path in files:
        if _is_stale(path, there):
            with contextlib.suppress(OSError):
                path.unlink()
    for directory in places.stale_socket_directories(used_directories):
        places.remove_socket_directory(directory)


def _is_its(path: Path, start: str) -> bool:
    """Tell whether a connection file is of a start, or of nobody's, as it cannot be read."""
    try:
        return load(path).is_of(start)
    except BadConnectionFile:
        return True


def _is_free(path: Path, there: Inventory) -> bool:
    try:
        info = load(path)
    except BadConnectionFile:
        return True
    claim = any(each.connection_file == path and info.is_of(each.start) for each in there.kernels())
    return claim or _leads_nowhere(info, there)


def _is_stale(path: Path, there: Inventory) -> bool:
    """Tell whether no kernel is behind an unclaimed connection file; it may be another engine's sandbox's."""
    try:
        return _leads_nowhere(load(path), there)
    except BadConnectionFile:
        return False


def _leads_nowhere(info: ConnectionInfo, there: Inventory) -> bool:
    """Tell whether the kernel of a connection file is certainly not where that says.

    Its gateway listens on all five ports: where one is closed, or is published by a container of another start, those
    that are open are somebody else's by now.
    """
    if info.transport == "ipc":
        return not places.listens(Path(f"{info.ip}-{info.hb_port}"))
    if not info.is_loopback():
        return False
    asked = connections.ports(info)
    others = (each for each in (*there.containers, *there.composed, *there.others) if not info.is_of(each.start))
    if any(port in each.ports for each in others for port in asked):
        return True
    return not all(_listens(info.ip, port) for port in asked)


def _listens(ip: str, port: int) -> bool:
    try:
        socket.create_connection((ip, port), timeout=0.5).close()
    except TimeoutError:  # its queue is full: somebody is there
        return True
    except OSError:
        return False
    return True
