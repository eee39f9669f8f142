"""How another program starts a command of ours: by its full path, with its arguments and the few variables it needs.

MCP clients read it in their configuration, IDEs in a kernelspec; both start programs with a bare environment.

The one rule: a variable is written down only by name, from the list here, and only where a bare environment would lead
the command elsewhere than this shell; nothing else of an environment, which may hold secrets, leaves it.
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
class Program:
    """One command, as another program starts it."""

    command: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]


def program(subcommand: str, arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> Program:
    """Return how another program starts `kernel-bridge SUBCOMMAND` so that it finds what this shell finds.

    `arguments` are the subcommand's own. Raises `UsageError` where a path is not text, which no configuration can hold.
    """
    command, *before = executable()
    made = Program(command, (*before, subcommand, *absolute(arguments, environ)), environment(arguments, environ))
    for each in (made.command, *made.arguments, *made.environment.values()):
        try:
            each.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"{each!r} is not valid UTF-8, which what other programs read must be. Nothing was written; rename it."
            ) from None
    return made


def executable(called: str | None = None, python: str = sys.executable) -> list[str]:
    """Return the full path of this installation's command, as it was called; else Python with `-m bridge`.

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
    # -P: whoever starts it does so in the user's project, where a directory `bridge` must not take our package's place
    return [python, "-P", "-m", "bridge"]


def absolute(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the arguments with their files' full paths: other programs start the command in some directory."""
    made: list[str] = []
    for each in arguments:
        option, equals, value = each.partition("=")
        if made[-1:] == ["--policy"] or (made[-1:] == ["--kernel"] and _is_file(each, environ)):
            made.append(_absolute(each, environ))
        elif equals and (option == "--policy" or (option == "--kernel" and _is_file(value, environ))):
            made.append(f"{option}={_absolute(value, environ)}")
        else:
            made.append(each)
    return made


def environment(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that the command needs and a bare environment lacks."""
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


def _is_file(which: str, environ: Mapping[str, str]) -> bool:
    """Tell whether a kernel is named by its connection file, and not by one of its other names."""
    return expanded(which, environ).is_file()


def _absolute(path: str, environ: Mapping[str, str]) -> str:
    return os.path.abspath(expanded(path, environ))  # noqa: PTH100 - the name as it is, not what it may link to
