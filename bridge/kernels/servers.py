"""The Jupyter servers that run on this machine: which notebooks and consoles use which of their kernels now.

The one rule: a server's answer goes before what it once wrote into a kernel's file, which tells only of the first
notebook and only by the name it had at the kernel's start. A server that does not answer costs nothing but the wait.
Files and addresses: https://jupyter-server.readthedocs.io/en/latest/api/jupyter_server.html (`list_running_servers`).
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bridge.messages import mapping

# Seconds. A server answers in hundredths of one, and while it starts a kernel too.
PATIENCE = 1.0
# Bytes: of the file that a server writes about itself, and of thousands of sessions.
LARGEST_FILE, LARGEST_ANSWER = 16 * 1024, 4 * 1024 * 1024
# How `ServerApp.ip` says that it listens everywhere.
EVERYWHERE = ("", "*", "0.0.0.0", "::")  # noqa: S104 - nothing is bound here
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class _Server:
    host: str
    port: int
    base_url: str
    root: str
    token: str = field(repr=False)


async def notebooks(directories: Iterable[Path]) -> dict[str, tuple[str, ...]]:
    """Return the full paths of what uses each kernel, by the kernel's id, as the servers tell that run now.

    `directories`: where servers leave word of themselves.
    """
    servers = [each for directory in directories for each in _running(directory)]
    found: defaultdict[str, list[str]] = defaultdict(list)
    for told in await asyncio.gather(*(asyncio.to_thread(_sessions, each) for each in servers)):
        for kernel, path in told:
            if path not in found[kernel]:
                found[kernel].append(path)
    return {kernel: tuple(paths) for kernel, paths in found.items()}


def _running(directory: Path) -> Iterator[_Server]:
    """Yield the servers of this user that live and can be asked on loopback; others' words stay as they are."""
    for path in sorted(directory.glob("jpserver-*.json")):
        with contextlib.suppress(OSError, LookupError, ValueError, TypeError, RecursionError):
            about = path.stat()
            if about.st_uid != os.geteuid() or about.st_size > LARGEST_FILE or not stat.S_ISREG(about.st_mode):
                continue
            told = mapping(json.loads(path.read_text()))
            os.kill(int(told["pid"]), 0)  # the token is not shown to whoever listens there now
            host = str(told["hostname"])
            if told.get("sock") or told.get("secure") or host not in LOOPBACK + EVERYWHERE:
                continue
            yield _Server(
                host="127.0.0.1" if host in EVERYWHERE else host,
                port=int(told["port"]),
                base_url=str(told["base_url"]),
                root=str(told["root_dir"]),
                token=str(told["token"]),
            )


def _sessions(server: _Server) -> list[tuple[str, str]]:
    """Return a kernel's id and the full path of what uses it, for each session; none where the server does not tell."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE)
    # a look must not count as use, or it would keep an idle server from ending
    address = f"{quote(server.base_url)}api/sessions?no_track_activity=1"
    try:
        connection.request("GET", address, headers={"Authorization": f"token {server.token}"} if server.token else {})
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            return []
        told = json.loads(answer.read(LARGEST_ANSWER))
        return [read for each in told if (read := _read(mapping(each), server.root))]
    except (OSError, http.client.HTTPException, ValueError, TypeError, RecursionError):
        return []
    finally:
        connection.close()


def _read(session: dict[str, Any], root: str) -> tuple[str, str] | None:
    kernel, path, name = mapping(session.get("kernel")).get("id"), session.get("path"), session.get("name")
    if not isinstance(kernel, str) or not isinstance(path, str):
        return None
    where = Path(root, path.lstrip("/"))
    # a console's path is made up of numbers; its name is what a person sees on the tab
    is_file = session.get("type") == "notebook" or not isinstance(name, str) or not name
    return kernel, str(where if is_file else where.with_name(Path(str(name)).name))
