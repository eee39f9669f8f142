"""`kernel-bridge serve`: the MCP server, as an MCP client starts it."""

from __future__ import annotations

import gc
import logging
import os
import sys
from pathlib import Path

import click

from bridge.cli import engine_option, policy_option


@click.command()
@policy_option
@engine_option
def serve(policy_file: Path | None, engine: str | None) -> None:
    """Serve MCP on stdin and stdout; MCP clients start this.

    Example: claude mcp add kernel -- kernel-bridge serve
    """
    # before the imports below, which take most of the start
    gc.disable()
    logging.basicConfig(stream=sys.stderr, level=os.environ.get("KERNEL_BRIDGE_LOG", "WARNING").upper())
    import anyio  # noqa: PLC0415 - only what is asked for pays for it

    from bridge.policy import find  # noqa: PLC0415 - only what is asked for pays for it
    from bridge.server import serve_stdio  # noqa: PLC0415 - only what is asked for pays for it

    policy = find(policy_file)
    gc.enable()
    gc.freeze()
    if sys.stdin.isatty():
        click.echo("kernel-bridge: waiting for an MCP client on stdin; `kernel-bridge --help` is for people.", err=True)
    anyio.run(lambda: serve_stdio(policy, engine=engine))
