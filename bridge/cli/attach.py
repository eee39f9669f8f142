"""`kernel-bridge attach`: a terminal on the kernel that the agent and the IDE use."""

from __future__ import annotations

from pathlib import Path

import click

from bridge.cli import engine_option, policy_option, say
from bridge.cli.completion import kernel_names
from bridge.cli.kernels import with_kernels
from bridge.policy import SandboxRequest


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("name", shell_complete=kernel_names)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@policy_option
@engine_option
def attach(*, name: str, arguments: tuple[str, ...], policy_file: Path | None, engine: str | None) -> None:
    """Open a console on the kernel NAME: a sandbox, or a host kernel by its file, id or notebook.

    Ctrl-C interrupts what runs; Ctrl-D or `exit` leaves, and the kernel goes on. What the agent and other clients run
    is shown too. ARGUMENTS are jupyter console's own.

    Example: kernel-bridge attach analysis
    """
    with_kernels(policy_file, engine, lambda kernels: kernels.address(name))  # an error before a console is there
    from bridge.ide import console, kernelspec  # noqa: PLC0415 - the console takes a while to be imported

    target = kernelspec.Target(name, name)
    started = kernelspec.relay(target, SandboxRequest(name=""), policy_file, engine)
    say(f"On {name}: Ctrl-C interrupts what runs, Ctrl-D or exit leaves; the kernel goes on.")
    console.attach(kernelspec.content(target, f"Shared: {name}", started), list(arguments))
