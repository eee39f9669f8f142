"""`kernel-bridge relay`: what a kernelspec starts. Nobody types it, so it is not among the commands that are listed."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path

import click

from bridge.cli import engine_option, policy_option
from bridge.cli.kernels import open_kernels
from bridge.cli.requests import request_options
from bridge.connection import load
from bridge.ide.joining import Joining
from bridge.ide.serving import serve
from bridge.policy import SandboxRequest


@click.command(hidden=True)
@click.argument("connection_file", type=click.Path(path_type=Path))
@click.option("--kernel", "name", help="The kernel to join; else a sandbox of the IDE's own is started.")
@click.option("--owner", is_flag=True, help="The IDE's restart and shutdown are meant for the sandbox.")
@request_options
@policy_option
@engine_option
def relay(
    *,
    connection_file: Path,
    name: str | None,
    owner: bool,
    request: SandboxRequest,
    policy_file: Path | None,
    engine: str | None,
) -> None:
    """Relay between the ports of CONNECTION_FILE, which an IDE chose, and a kernel; started from a kernelspec."""
    os.umask(0o077)  # of sockets that are bound in a directory
    kernels = partial(open_kernels, policy_file, engine, by="relay")
    joining = Joining(kernels, name, owner=owner or name is None, request=request, engine=engine)
    asyncio.run(serve(load(connection_file), joining))
