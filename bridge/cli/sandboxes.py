"""`up`, `stop`, `restart` and `gc`: sandboxes from the shell."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from bridge.cli import engine_option, policy_option, say
from bridge.cli.completion import sandbox_names
from bridge.cli.kernels import with_kernels
from bridge.cli.requests import request_options
from bridge.kernels import person
from bridge.kernels.registry import Kernels
from bridge.launchers import Sandbox
from bridge.policy import OPEN_NETWORK, SandboxRequest


@click.command()
@click.argument("name", required=False)
@request_options
@click.option("--json", "as_json", is_flag=True, help="Print what was started as JSON.")
@policy_option
@engine_option
def up(
    *, name: str | None, request: SandboxRequest, as_json: bool, policy_file: Path | None, engine: str | None
) -> None:
    """Start a sandbox and print its connection file, which any Jupyter client attaches to.

    Example: jupyter console --existing "$(kernel-bridge up analysis)"
    """
    if sys.stderr.isatty():
        say(f"Starting {f'sandbox {name}' if name else 'a sandbox'} …")

    async def work(kernels: Kernels) -> tuple[dict[str, Any], float]:
        started = time.monotonic()
        sandbox, status = await kernels.start_sandbox(dataclasses.replace(request, name=name or ""))
        return {**asdict(sandbox), "language": status.language}, time.monotonic() - started

    about, seconds = with_kernels(policy_file, engine, work)
    say(f"Sandbox {about['name']} runs after {seconds:.1f} s ({about['language']}, network {about['network']}).")
    if about["network"] == "open":
        say(f"Network open: {OPEN_NETWORK}.")
    if about["reaches"]:
        say(f"It reaches {', '.join(about['reaches'])} and nothing else.")
    for each in about["lasts"]:
        say(f"It ends {each}.")
    click.echo(json.dumps(about, indent=2, default=str) if as_json else str(about["connection_file"]))


@click.command()
@click.argument("name", shell_complete=sandbox_names)
@policy_option
@engine_option
def stop(name: str, policy_file: Path | None, engine: str | None) -> None:
    """End a sandbox of yours and remove all that belongs to it; its variables are lost.

    Example: kernel-bridge stop analysis
    """
    with_kernels(policy_file, engine, lambda kernels: kernels.stop_sandbox(name))
    say(f"Sandbox {name} was stopped and removed.")


@click.command()
@click.argument("name", shell_complete=sandbox_names)
@policy_option
@engine_option
def restart(name: str, policy_file: Path | None, engine: str | None) -> None:
    """Start a sandbox's kernel anew, also one that hangs; all its variables are lost, for everybody who uses it.

    Name, connection file and attached clients stay. A host kernel is restarted where it was started.

    Example: kernel-bridge restart analysis
    """
    say(with_kernels(policy_file, engine, lambda kernels: person.restart(kernels, name)))


@click.command()
@click.option("--all", "all_of_them", is_flag=True, help="End every sandbox of yours, also those that run.")
@policy_option
@engine_option
def gc(*, all_of_them: bool, policy_file: Path | None, engine: str | None) -> None:
    """Remove what is left of sandboxes that have ended, and what killed starts and bridges left behind.

    Only your own; running sandboxes are left alone unless you say --all. Prints the names of what was removed.

    Example: kernel-bridge gc
    """

    async def work(kernels: Kernels) -> tuple[list[Sandbox], list[str]]:
        ended = await kernels.launcher.sweep()
        there = await kernels.launcher.sandboxes() if all_of_them else []
        running = [each.name for each in there if not each.composed]
        for each in running:
            await kernels.launcher.stop(each)
        return ended, running

    ended, stopped = with_kernels(policy_file, engine, work)
    for each in ended:
        say(f"Sandbox {each.name} had ended: {each.ending}.")
    for name in stopped:
        say(f"Sandbox {name} was stopped.")
    for name in (*(each.name for each in ended), *stopped):
        click.echo(name)
    if not ended and not stopped:
        say("No sandbox of yours had ended. Nothing of yours is left behind.")
