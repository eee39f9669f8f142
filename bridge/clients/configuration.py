"""A client's configuration on this machine: which servers it names, and how ours gets into it.

The one rule: a file that cannot be read in full is not written, and one that is written is replaced at once, with its
mode, its owner and, through a symlink, its place; whoever reads it meanwhile reads the old one or the new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from bridge.clients import text
from bridge.clients.known import Client
from bridge.entry import COMMAND
from bridge.errors import UsageError

CLI_TIMEOUT = 60.0
"""Seconds. A client's own command starts in one or two, on a loaded machine in ten."""


@dataclass(frozen=True)
class Entry:
    """One server that a configuration names."""

    name: str
    value: Mapping[str, Any]
    project: str | None = None
    """The directory for which alone Claude Code starts it."""

    @property
    def command(self) -> tuple[str, ...]:
        """The program and its arguments; none for a server that is reached over HTTP."""
        arguments = self.value.get("args") or []
        words = [self.value.get("command"), *(arguments if isinstance(arguments, list) else [])]
        return tuple(each for each in words if isinstance(each, str))

    @property
    def is_ours(self) -> bool:
        """Whether it starts a kernel-bridge, by whatever path."""
        names = [Path(each.replace("\\", "/")).name.removesuffix(".exe") for each in self.command]
        return COMMAND in names or ("-m", "bridge") in pairwise(self.command)

    def starts(self, asked: Mapping[str, Any]) -> bool:
        """Tell whether it does what another entry asks for; settings of the client's own may stand beside."""
        kinds = {"type": "stdio", "args": [], "env": {}}
        return all(self.value.get(key, kinds.get(key)) == value for key, value in asked.items())


def entries(client: Client, file: Path) -> list[Entry]:
    """Return the servers that a configuration names. Raises `UsageError` where it cannot be read; [] without one."""
    content = _parsed(client, file, _read(file))
    found = list(_named(client, content, None))
    projects = content.get("projects") if client.name == "claude" else None
    for directory, project in (projects if isinstance(projects, dict) else {}).items():
        if isinstance(project, dict):
            found += _named(client, project, directory)
    return found


def existing(client: Client, file: Path, name: str) -> Entry | None:
    """Return the server of that name for all projects, if there is one."""
    return next((each for each in entries(client, file) if each.name == name and each.project is None), None)


def snippet(client: Client, name: str, value: Mapping[str, Any]) -> str:
    """Return what is to be put into the client's configuration, as it would stand in an empty one."""
    if client.form == "toml":
        return text.toml(client.key, name, value)
    return text.put_json("", (client.key, name), value)


def write(client: Client, file: Path, name: str, value: Mapping[str, Any]) -> None:
    """Put the entry into the file, in place of one that has its name. Raises `UsageError`; then nothing was changed."""
    old = _read(file)
    content = _parsed(client, file, old)
    table = content.get(client.key, {})
    if not isinstance(table, dict):
        raise UsageError(
            f"{file} has `{client.key}`, but it is not a table of servers. Nothing was changed. Correct it and try "
            f"again, or put in by hand what `kernel-bridge client print {client.name}` prints."
        )
    if client.form == "json":
        _replace(file, old, text.put_json(old, (client.key, name), value))
        return
    if name in table:
        raise UsageError(
            f"{file} is TOML, in which an entry is not replaced, only added. Nothing was changed. Remove "
            f"[{client.key}.{name}] from it and try again."
        )
    try:
        new = text.add_toml(old, client.key, name, value)
    except ValueError as error:
        raise UsageError(
            f"{file} {error}. Nothing was changed. Put in by hand what `kernel-bridge client print {client.name}` "
            "prints."
        ) from None
    _replace(file, old, new)


def tell_claude(program: str, scope: str, name: str, value: Mapping[str, Any], old: Entry | None) -> str:
    """Have Claude Code's own command put the entry in, which alone knows when it rewrites its file; returns its words.

    `add-json` and not `add`, whose `-e` takes every word that follows for a variable, the server's name too.
    Raises `UsageError`; an entry that was to be replaced is then there as before.
    """
    if old:
        _claude(program, "remove", "--scope", scope, name)
    try:
        return _claude(program, "add-json", "--scope", scope, name, json.dumps(value))
    except UsageError:
        if old:
            with contextlib.suppress(UsageError):
                _claude(program, "add-json", "--scope", scope, name, json.dumps(old.value))
        raise


def _claude(program: str, verb: str, *words: str) -> str:
    try:
        done = subprocess.run(
            [program, "mcp", verb, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=CLI_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"`claude mcp {verb}` did not end within {CLI_TIMEOUT:g} s and was stopped. See whether `claude mcp list` "
            "shows the server, and try again."
        ) from None
    except OSError as error:
        raise UsageError(f"{program} cannot be run: {error.strerror}. Nothing was changed.") from None
    said = done.stdout.decode(errors="replace").strip()
    if done.returncode:
        raise UsageError(f"`claude mcp {verb}` failed: {said or f'exit code {done.returncode}'}")
    return said


def _named(client: Client, content: Mapping[str, Any], project: str | None) -> Iterator[Entry]:
    servers = content.get(client.key)
    for name, value in (servers if isinstance(servers, dict) else {}).items():
        if isinstance(value, dict):
            yield Entry(name, value, project)


def _read(file: Path) -> str:
    try:
        return file.read_bytes().decode()
    except FileNotFoundError:
        if file.is_symlink():
            raise UsageError(f"{file} is a symlink that leads nowhere. Nothing was changed. Remove it.") from None
        return ""
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not UTF-8 text. Nothing was changed.") from None
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}. Nothing was changed.") from None


def _parsed(client: Client, file: Path, content: str) -> dict[str, Any]:
    try:
        return text.read_toml(content) if client.form == "toml" else text.read_json(content)
    except ValueError as error:
        raise UsageError(
            f"{file} {error}. Nothing was changed. Correct it and try again, or put in by hand what "
            f"`kernel-bridge client print {client.name}` prints."
        ) from None


def _replace(file: Path, old: str, new: str) -> None:
    target = Path(os.path.realpath(file))
    draft: str | None = None
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-", suffix=".part")
        with os.fdopen(handle, "wb") as writing:
            writing.write(new.encode())
            with contextlib.suppress(FileNotFoundError):
                about = target.stat()
                os.fchmod(writing.fileno(), about.st_mode & 0o7777)
                if (about.st_uid, about.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(writing.fileno(), about.st_uid, about.st_gid)
        if _read(file) != old:
            raise UsageError(f"{file} was changed by another program just now. Nothing was written; try again.")
        Path(draft).replace(target)
        draft = None
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}. Nothing was changed.") from None
    finally:
        if draft is not None:
            with contextlib.suppress(OSError):
                Path(draft).unlink()
