"""`kernel-bridge client`: the bridge in an MCP client's configuration, put in or printed."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import click

from bridge.cli import say
from bridge.cli.serve import serve
from bridge.clients import configuration
from bridge.clients.configuration import Entry
from bridge.clients.known import CLIENTS, Client, project_file
from bridge.clients.over_http import checked_url, paste
from bridge.entry import Program, program
from bridge.errors import UsageError
from bridge.http.token import default_file
from bridge.policy import find
from bridge.policy.places import expanded

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What every client takes for a server's name."""
DEFAULT_URL = "http://127.0.0.1:8765/mcp"

client_argument = click.argument("which", metavar="CLIENT", type=click.Choice(list(CLIENTS)))
name_option = click.option("--name", default="kernel", show_default=True, help="What the client calls the server.")
serve_arguments = click.argument("arguments", metavar="[-- SERVE ARGUMENTS]", nargs=-1, type=click.UNPROCESSED)


@click.group()
def client() -> None:
    """Put the bridge into an MCP client's configuration, or print what belongs there.

    CLIENT is one of claude, claude-desktop, cursor, vscode, codex, gemini.

    Example: kernel-bridge client add claude
    """


@client.command()
@client_argument
@name_option
@click.option(
    "--scope",
    type=click.Choice(["user", "project"]),
    default="user",
    show_default=True,
    help="For Claude Code: you in all projects, or this directory's .mcp.json, which a repository shares.",
)
@click.option("--force", is_flag=True, help="Replace another entry of that name.")
@serve_arguments
def add(*, which: str, name: str, scope: str, force: bool, arguments: tuple[str, ...]) -> None:
    """Put the bridge into CLIENT's configuration; everything else in it stays as it is, byte by byte.

    What follows `--` is given to `kernel-bridge serve`. Where the `claude` command is there, it is what changes Claude
    Code's configuration. The engine, policy and directories of this shell are written down where the client would not
    find them by itself.

    Example: kernel-bridge client add claude -- --policy policy.yaml
    """
    chosen = CLIENTS[which]
    if scope == "project" and which != "claude":
        raise UsageError(f"--scope project is for Claude Code only; {chosen.title} is configured for you as a user.")
    asked = chosen.entry(_server(name, arguments))
    file = project_file() if scope == "project" else chosen.place(os.environ)
    old = configuration.existing(chosen, file, name)
    if old and old.starts(asked):
        say(f"{chosen.title} has it already: {name} in {file}. Nothing was changed.")
        return
    if old and not force:
        raise UsageError(
            f"{file} has another entry {name}:\n{_difference(old, asked)}\nNothing was changed. Type --force to "
            "replace it, or --name for another name."
        )
    # what the client itself keeps in an entry of ours, such as a time-out, stays there
    value = {**old.value, **asked} if old and old.is_ours else asked
    _put(chosen, file, scope, name, value, old)
    say(f"{chosen.title} starts the bridge as {name} now ({file}). {chosen.after}")


@client.command("print")
@client_argument
@name_option
@click.option("--http", "over_http", is_flag=True, help="For a server that runs: `serve --transport http`, or compose.")
@click.option("--url", help=f"With --http: where it is; {DEFAULT_URL} if left out.")
@click.option("--token-file", type=click.Path(path_type=Path), help="With --http: its token, as `serve` was told.")
@serve_arguments
def print_(
    *, which: str, name: str, over_http: bool, url: str | None, token_file: Path | None, arguments: tuple[str, ...]
) -> None:
    """Print what belongs into CLIENT's configuration, and say where. The token itself is never printed.

    Example: kernel-bridge client print codex >> ~/.codex/config.toml

    Example: kernel-bridge client print claude --http
    """
    chosen = CLIENTS[which]
    if over_http:
        if arguments:
            raise UsageError("With --http the server runs already and is given nothing; leave out what follows `--`.")
        _print_for_http(chosen, _checked(name), url or DEFAULT_URL, token_file)
        return
    if url or token_file:
        raise UsageError("--url and --token-file are for --http.")
    click.echo(configuration.snippet(chosen, name, chosen.entry(_server(name, arguments))), nl=False)
    say(f"For {chosen.title}, in {chosen.place(os.environ)}, or: kernel-bridge client add {which}. {chosen.after}")


def _print_for_http(client: Client, name: str, url: str, token_file: Path | None) -> None:
    file = expanded(token_file or default_file()).absolute()
    printed, where = paste(client, name, checked_url(url), file)
    click.echo(printed, nl=False)
    say(f"For {client.title}, in {client.place(os.environ)}. {where}" if client.http else where)
    if not file.exists():
        say(f"{file} is not there yet: `kernel-bridge serve --transport http` makes it.")


def _checked(name: str) -> str:
    if not NAME.fullmatch(name):
        raise UsageError(f"{name[:80]!r} cannot be a server's name: write 1 to 64 of letters, digits, '-' and '_'.")
    return name


def _server(name: str, arguments: tuple[str, ...]) -> Program:
    """Return what the client is to start, after it was seen that `serve` takes the arguments and finds its policy."""
    _checked(name)
    given = serve.make_context("kernel-bridge serve", list(arguments)).params
    if given["transport"] != "stdio":
        raise UsageError(
            "A client starts a server of its own, over stdio. Nothing was changed. One that serves HTTP is started by "
            "you, and `kernel-bridge client print CLIENT --http` prints what a client needs then."
        )
    find(given["policy_file"])
    return program("serve", arguments)


def _put(client: Client, file: Path, scope: str, name: str, value: dict[str, object], old: Entry | None) -> None:
    program = shutil.which("claude") if client.name == "claude" else None
    if program is None:
        configuration.write(client, file, name, value)
        return
    said = configuration.tell_claude(program, scope, name, value, old)
    # it has been seen to say that it did and not to
    now = configuration.existing(client, file, name)
    if now is None or not now.starts(value):
        raise UsageError(
            f"`claude mcp add-json` said {said!r}, but {file} does not hold the entry. See what `claude mcp list` "
            f"shows, or put in by hand what `kernel-bridge client print {client.name}` prints."
        )


def _difference(old: Entry, asked: dict[str, object]) -> str:
    """Tell what is there and what would be; of variables only the names, and of a foreign server only its program."""
    if not old.is_ours:
        return f"  there:  another server ({old.command[0] if old.command else 'not a program'})"
    new = Entry(old.name, asked)
    lines = [f"  there:  {' '.join(old.command)}", f"  asked:  {' '.join(new.command)}"]
    before, after = (each.value.get("env") or {} for each in (old, new))
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    if changed:
        lines.append(f"  variables that differ: {', '.join(changed)}")
    return "\n".join(lines)
