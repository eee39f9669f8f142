"""`kernel-bridge connection-files`: what compose.yaml runs for the host; hidden, because nobody types it."""

from __future__ import annotations

from pathlib import Path

import click

from bridge.cli import say
from bridge.errors import UsageError

directory = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command(hidden=True)
@click.option("--name", required=True, help="What the kernel is called.")
@click.option("--uid", type=int, required=True, help="Whom it runs as.")
@click.option("--mcp", required=True, help="Where the MCP server is on the host.")
@click.option("--ports", required=True, help="Of shell, iopub, stdin, control, heartbeat on the host, with commas.")
@click.argument("project", type=directory)
@click.argument("keys", type=directory)
@click.argument("tokens", type=directory)
def connection_files(*, name: str, uid: int, mcp: str, ports: str, project: Path, keys: Path, tokens: Path) -> None:
    """Write the connection files of the kernel in compose.yaml into PROJECT, and print what to paste."""
    from bridge.clients.known import CLIENTS  # noqa: PLC0415 - only what is asked for pays for it
    from bridge.clients.over_http import paste  # noqa: PLC0415 - only what is asked for pays for it
    from bridge.launchers.docker import composed, owner  # noqa: PLC0415 - only what is asked for pays for it

    owner.checked_name(name)
    numbers = tuple(int(each) if each.isdecimal() else 0 for each in ports.split(","))
    if len(numbers) != 5 or len(set(numbers)) != 5 or not all(0 < each < 1 << 16 for each in numbers):
        raise UsageError(f"The KERNEL_…_PORT lines in .env must be five different ports, 1 to 65535; they are {ports}.")
    made = composed.write_files(project, composed.Volumes(keys, tokens), name, numbers, uid)
    line, _ = paste(CLIENTS["claude"], "kernel", mcp, Path(made.name, composed.TOKEN))
    say(
        "In the project's directory, once all is up:\n"
        f"  jupyter console --existing {made.name}/{owner.connection_file_name(name)}\n  {line.rstrip()}"
    )
