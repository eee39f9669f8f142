"""MCP clients on this machine: which of them start the bridge, and whether what they start is there.

The one rule: of a configuration only our own entries are told, and of their variables nothing.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

from bridge.checks import Finding
from bridge.clients.configuration import Entry, entries
from bridge.clients.known import CLIENTS, Client, project_file
from bridge.errors import UsageError


def clients(environ: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Look at the configuration of every known client that is there."""
    places = [(each, each.place(environ)) for each in CLIENTS.values()] + [(CLIENTS["claude"], project_file())]
    there = [(client, file) for client, file in places if file.exists() or file.is_symlink()]
    told = [finding for client, file in there for finding in _client(client, file)]
    yield from told
    if not any(each.level == "ok" for each in told):
        known = ", ".join(CLIENTS)
        if not there:
            text = "no configuration of a known MCP client is on this machine"
        else:
            text = f"none names kernel-bridge without a fault ({', '.join(str(file) for _, file in there)})"
        yield Finding("MCP clients", "ok", f"{text}; kernel-bridge client add CLIENT puts it in, for {known}")


def _client(client: Client, file: Path) -> Iterator[Finding]:
    check = f"client {client.name}"
    try:
        ours = [each for each in entries(client, file) if each.is_ours]
    except UsageError as error:
        yield Finding(check, "warn", str(error).partition(" Nothing was changed.")[0], f"correct {file}")
        return
    for entry in ours:
        where = f"{entry.name} in {file}" + (f" for {entry.project}" if entry.project else "")
        fault = _fault(entry)
        if fault is None:
            yield Finding(check, "ok", f"{where} starts {entry.command[0]}")
        else:
            yield Finding(check, "warn", f"{where}: {fault}", _cure(client, file, entry))


def _cure(client: Client, file: Path, entry: Entry) -> str:
    """Return what to type; the server's own arguments are kept, so that no policy is lost by it."""
    if entry.project is not None:
        return f"correct {file}"
    _, _, given = " ".join(map(shlex.quote, entry.command)).partition(" serve ")
    words = ["kernel-bridge", "client", "add", client.name, "--name", shlex.quote(entry.name)]
    words += ["--scope", "project"] if file == project_file() else []
    words += ["--force"] if client.form == "json" else []
    again = " ".join([*words, *(["--", given] if given else [])])
    return again if client.form == "json" else f"remove [{client.key}.{entry.name}] from {file}, then: {again}"


def _fault(entry: Entry) -> str | None:
    """Return why a client could not start it, as far as can be seen without starting it."""
    program, *arguments = entry.command
    found = shutil.which(program)
    if found is None:
        there = Path(program).exists()
        return f"{program} may not be executed" if there else f"{program} is not there"
    words = [word for each in arguments for word in (each.split("=", 1) if each.startswith("--policy=") else [each])]
    missing = [file for option, file in pairwise(words) if option == "--policy" and not Path(file).exists()]
    return f"its policy {missing[0]} is not there" if missing else None
