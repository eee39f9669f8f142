"""`kernel-bridge policy`: what a policy file says, before anything is started under it."""

from __future__ import annotations

from pathlib import Path

import click

from bridge.cli import say
from bridge.policy import load


@click.group()
def policy() -> None:
    """Check what a policy file allows."""


@policy.command()
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Tell whether FILE is a valid policy; every problem is listed with its line, and the exit code is 2.

    Example: kernel-bridge policy check policy.yaml
    """
    load(file)
    say(f"{file} is a valid policy.")
