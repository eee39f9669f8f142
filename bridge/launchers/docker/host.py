"""Which engine: the socket of the Docker Engine API, and who said so.

The one rule: MCP clients start servers with a bare environment, so where nothing is said the places are searched where
the known engines put their socket; what is said explicitly is never replaced by something else.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bridge.errors import EngineUnavailable
from bridge.launchers.docker.places import listens

HOST_VARIABLES = ("KERNEL_BRIDGE_DOCKER_HOST", "DOCKER_HOST")
_HOW_TO_NAME_ONE = (
    "Install or start one, or name its socket in KERNEL_BRIDGE_DOCKER_HOST (unix:///path/to/docker.sock)."
)


@dataclass(frozen=True)
class Endpoint:
    """A local engine's socket."""

    socket: Path
    source: str
    """Where it comes from, for error messages: `named by …` or `found …`."""

    @property
    def url(self) -> str:
        """As `DOCKER_HOST` would have it."""
        return f"unix://{self.socket}"


def find(explicit: str | None = None, environ: Mapping[str, str] = os.environ) -> Endpoint:
    """Return the engine to use: the explicit one, the environment's, the CLI's current context's, a well-known one.

    Raises `EngineUnavailable` where there is none, or where it is on another machine.
    """
    if explicit:
        return _endpoint(explicit, "the option given")
    for variable in HOST_VARIABLES:
        if environ.get(variable):
            return _endpoint(environ[variable], f"${variable}")
    context = _current_context(environ)
    if context is not None:
        return context
    candidates = _well_known(environ)
    there = [path for path in candidates if _is_socket(path)]
    if there:
        # a rootless engine's own goes before a system-wide one that this user may not use, and one that lives before
        # what a dead one left behind
        best = min(there, key=lambda path: (not os.access(path, os.W_OK), not listens(path)))
        return Endpoint(best, "found at a well-known place")
    raise EngineUnavailable(
        f"No container engine was found: there is no socket at {candidates[0]}, nor where rootless Docker, Docker "
        f"Desktop, Colima, OrbStack, Rancher Desktop and Podman have theirs. Nothing was done. {_HOW_TO_NAME_ONE}"
    )


def _endpoint(host: str, source: str) -> Endpoint:
    scheme, separator, rest = host.partition("://")
    if not separator and host.startswith("/"):
        scheme, rest = "unix", host
    if scheme == "unix" and rest.startswith("/"):
        return Endpoint(Path(rest), f"named by {source}")
    if scheme in ("tcp", "http", "https", "ssh", "npipe", "fd"):
        raise EngineUnavailable(
            f"The engine {host!r}, named by {source}, is not a local Unix socket. Remote engines are not supported "
            "yet: the kernel's ports and the workspace would be another machine's. Nothing was started. Name a local "
            "engine in KERNEL_BRIDGE_DOCKER_HOST (unix:///path/to/docker.sock)."
        )
    raise EngineUnavailable(f"{host!r}, named by {source}, is not an engine's address. {_HOW_TO_NAME_ONE}")


def _current_context(environ: Mapping[str, str]) -> Endpoint | None:
    """Return what the docker CLI's current context names; None for the default one.

    The files are the CLI's own: `config.json`, and a `meta.json` in a directory named by the hash of its name.
    """
    home = _home(environ)
    directory = Path(environ["DOCKER_CONFIG"]) if environ.get("DOCKER_CONFIG") else home / ".docker" if home else None
    if directory is None:
        return None
    name = environ.get("DOCKER_CONTEXT") or _field(directory / "config.json", "currentContext")
    if not isinstance(name, str) or name in ("", "default"):
        return None
    meta = directory / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest() / "meta.json"
    host = _field(meta, "Endpoints", "docker", "Host")
    if not isinstance(host, str) or not host:
        raise EngineUnavailable(
            f"The docker CLI's current context is {name!r}, but {meta} names no engine. Nothing was started. "
            "Choose another one (docker context use default), or name a socket in KERNEL_BRIDGE_DOCKER_HOST."
        )
    return _endpoint(host, f"the docker CLI's context {name!r}")


def _field(path: Path, *keys: str) -> object:
    try:
        value: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _well_known(environ: Mapping[str, str]) -> list[Path]:
    # an MCP client's bare environment has HOME, but not where systemd put the runtime directory
    runtime = Path(environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}")
    places = [Path("/var/run/docker.sock"), runtime / "docker.sock"]  # the second: rootless
    home = _home(environ)
    if home:
        places += [
            home / ".docker" / "run" / "docker.sock",  # Docker Desktop, macOS
            home / ".docker" / "desktop" / "docker.sock",  # Docker Desktop, Linux
            home / ".colima" / "default" / "docker.sock",
            home / ".orbstack" / "run" / "docker.sock",
            home / ".rd" / "docker.sock",  # Rancher Desktop
        ]
    return [*places, runtime / "podman" / "podman.sock", Path("/run/podman/podman.sock")]


def _home(environ: Mapping[str, str]) -> Path | None:
    return Path(environ["HOME"]) if environ.get("HOME") else None


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False
