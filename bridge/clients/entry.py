"""What an MCP client starts: the command by its full path, its arguments, and the few variables that it needs.

The one rule: a variable is written down only by name, from the list here, and only where a client's bare environment
would lead the server elsewhere than this shell; nothing else of an environment, which may hold secrets, leaves it.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bridge.errors import EngineUnavailable, UsageError
from bridge.launchers.docker import host
from bridge.policy.places import expanded, user_home

COMMAND = "kernel-bridge"
_PLACES = {
    "JUPYTER_RUNTIME_DIR": ".local/share/jupyter/runtime",
    "JUPYTER_DATA_DIR": ".local/share/jupyter",
    "XDG_DATA_HOME": ".local/share",
    "XDG_CONFIG_HOME": ".config",
    "XDG_STATE_HOME": ".local/state",
}
"""Directories, and where they are below HOME when nothing is said."""


@dataclass(frozen=True)
class Server:
    """One server, as a client starts it."""

    command: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]


def server(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> Server:
    """Return how a client starts `kernel-bridge serve` so that it finds what this shell finds.

    `arguments` are `serve`'s own. Raises `UsageError` where a path is not text, which no configuration can hold.
    """
    command, *before = executable()
    made = Server(command, (*before, "serve", *absolute(arguments, environ)), environment(arguments, environ))
    for each in (made.command, *made.arguments, *made.environment.values()):
        try:
            each.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"{each!r} is not valid UTF-8, which a client's configuration must be. Nothing was written; rename it."
            ) from None
    return made


def executable(called: str | None = None, python: str = sys.executable) -> list[str]:
    """Return the full path of this installation's command, as it was called; else Python's with `-m bridge`.

    Symlinks stay as they are: an installer's link outlives the version that it leads to.
    """
    called = sys.argv[0] if called is None else called
    names = (COMMAND, f"{COMMAND}.exe")
    if Path(called).name in names:
        found = shutil.which(called)
        if found:
            return [os.path.abspath(found)]  # noqa: PTH100 - symlinks stay
    for name in names:
        beside = Path(python).with_name(name)
        if os.access(beside, os.X_OK):
            return [str(beside)]
    return [python, "-m", "bridge"]


def absolute(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the arguments of `serve` with the policy's full path: a client starts the server in some directory."""
    made: list[str] = []
    for each in arguments:
        if made[-1:] == ["--policy"]:
            made.append(_absolute(each, environ))
        elif each.startswith("--policy="):
            made.append("--policy=" + _absolute(each.removeprefix("--policy="), environ))
        else:
            made.append(each)
    return made


def environment(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that the server needs and a bare environment lacks."""
    said = {each.partition("=")[0] for each in arguments}
    found: dict[str, str] = {} if "--engine" in said else _engine(environ)
    if environ.get("KERNEL_BRIDGE_POLICY") and "--policy" not in said:
        found["KERNEL_BRIDGE_POLICY"] = _absolute(environ["KERNEL_BRIDGE_POLICY"], environ)
    if environ.get("KERNEL_BRIDGE_OWNER"):
        found["KERNEL_BRIDGE_OWNER"] = environ["KERNEL_BRIDGE_OWNER"]
    defaults = {name: str(user_home(environ) / below) for name, below in _PLACES.items()}
    defaults["XDG_RUNTIME_DIR"] = f"/run/user/{os.getuid()}"
    for name, default in defaults.items():
        if environ.get(name, default) not in ("", default):
            found[name] = _absolute(environ[name], environ)
    return found


def _engine(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variable that names the engine; none where an empty environment leads to the same one."""
    for variable in host.HOST_VARIABLES:
        if environ.get(variable):
            return {variable: environ[variable]}
    try:
        endpoint = host.find(None, environ)
    except EngineUnavailable:
        return {}
    try:
        if host.find(None, {}).socket == endpoint.socket:
            return {}
    except EngineUnavailable:
        pass
    return {host.HOST_VARIABLES[0]: endpoint.url}


def _absolute(path: str, environ: Mapping[str, str]) -> str:
    return os.path.abspath(expanded(path, environ))  # noqa: PTH100 - the name as it is, not what it may link to
