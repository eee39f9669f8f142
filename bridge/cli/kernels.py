"""`ls`, `status`, `logs` and `interrupt`: any kernel from the shell, on the host or in a sandbox."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from bridge.audit import Who
from bridge.cli import engine_option, policy_option, say
from bridge.cli.completion import kernel_names, sandbox_names
from bridge.cli.interruption import complete
from bridge.errors import KernelDied, NotOurs
from bridge.kernels import person
from bridge.kernels.person import Described
from bridge.kernels.registry import Kernels
from bridge.launchers import LogLine, Sandbox
from bridge.launchers.docker import DockerLauncher
from bridge.policy import OPEN_NETWORK, find

T = TypeVar("T")


def open_kernels(policy_file: Path | None, engine: str | None, *, by: str = "shell") -> Kernels:
    """Return the kernels under the policy in force, signed as the person at the shell; `by` is for the audit."""
    username = os.environ.get("USER") or "shell"
    who = Who(by, click.get_current_context().info_name)
    return Kernels(find(policy_file), lambda: DockerLauncher(engine), username=username, who=who)


def with_kernels(policy_file: Path | None, engine: str | None, work: Callable[[Kernels], Coroutine[Any, Any, T]]) -> T:
    """Do what a command does with the kernels, and leave them however it ends."""
    kernels = open_kernels(policy_file, engine)

    async def and_leave() -> T:
        try:
            return await work(kernels)
        finally:
            await kernels.close()

    return complete(and_leave)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@policy_option
@engine_option
def ls(*, as_json: bool, policy_file: Path | None, engine: str | None) -> None:
    """List every kernel the bridge can see: your sandboxes, and host kernels with their notebooks, alive or not.

    Example: kernel-bridge ls --json
    """
    listed, trouble = with_kernels(policy_file, engine, lambda kernels: kernels.listing())
    if as_json:
        click.echo(json.dumps({"kernels": [asdict(each) for each in listed], "trouble": trouble}, indent=2))
        return
    if trouble:
        say(f"Sandboxes are not shown: {trouble}")
    if not listed:
        start = "`ipython kernel` starts one on the host"
        say(f"No host kernels; {start}." if trouble else f"No kernels; `kernel-bridge up` starts a sandbox, {start}.")
    width = max((len(each.name) for each in listed), default=0)
    for each in listed:
        network = "network open" if each.network == "open" else ""
        state = ", ".join(filter(None, (each.state, network, each.ends, each.remark)))
        click.echo(f"{each.name:<{width}}  {each.kind:<7}  {state}  {each.notebook or each.connection_file}")
    if any(each.network == "open" for each in listed):
        say(f"Network open: {OPEN_NETWORK}.")


@click.command()
@click.argument("name", shell_complete=kernel_names)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@policy_option
@engine_option
def status(*, name: str, as_json: bool, policy_file: Path | None, engine: str | None) -> int:
    """Tell all about one kernel: idle or busy and with whose code, where it is, how it ended last.

    Exit code 4 where it has ended or does not answer.

    Example: kernel-bridge status analysis
    """
    told = with_kernels(policy_file, engine, lambda kernels: person.describe(kernels, name))
    if as_json:
        click.echo(json.dumps(asdict(told), indent=2, default=str))
    else:
        for label, value in _rows(told):
            click.echo(f"{label:<16} {value}")
    return 0 if told.status else KernelDied.exit_code


@click.command()
@click.argument("name", shell_complete=sandbox_names)
@click.option("--follow", "-f", is_flag=True, help="Go on until the sandbox ends or Ctrl-C.")
@click.option("--tail", type=click.IntRange(min=1), metavar="N", help="Only the last N lines.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@policy_option
@engine_option
def logs(
    *, name: str, follow: bool, tail: int | None, as_json: bool, policy_file: Path | None, engine: str | None
) -> None:
    """Print what a sandbox wrote: its supervisor's and gateway's events, and what the kernel's process wrote itself.

    What cells print is not in it: that goes to the kernel's clients. A sandbox that has ended keeps its log until it is
    removed (by `gc`, `ls` or a start of the same name).

    Example: kernel-bridge logs analysis --follow
    """
    if follow and tail:
        raise click.UsageError("Give either --follow or --tail.")

    def show(line: LogLine) -> None:
        click.echo(json.dumps(asdict(line)) if as_json else f"{line.time[:23]}Z  {line.source:<10}  {_readable(line)}")

    async def work(kernels: Kernels) -> None:
        launcher = kernels.launcher
        if name not in {each.name for each in await launcher.sandboxes()}:
            await _refuse_host_kernel(kernels, name)
        if follow:
            await launcher.follow_log(name, show)
        else:
            for line in (await launcher.log(name))[-(tail or 0) :]:
                show(line)

    with_kernels(policy_file, engine, work)


@click.command()
@click.argument("name", shell_complete=kernel_names)
@policy_option
@engine_option
def interrupt(name: str, policy_file: Path | None, engine: str | None) -> None:
    """Interrupt what runs in a kernel, whoever's cell it is; the variables stay.

    Exit code 4 where it went on all the same.

    Example: kernel-bridge interrupt analysis
    """
    say(with_kernels(policy_file, engine, lambda kernels: person.interrupt(kernels, name)))


async def _refuse_host_kernel(kernels: Kernels, name: str) -> None:
    found = await kernels.find(name)
    if found.file:
        raise NotOurs(f"{found.file.name} is a kernel on the host; what it writes is where it was started.")


def _readable(line: LogLine) -> str:
    """Return a line for a person: supervisor and gateway write JSON."""
    if line.source == "kernel":
        return line.text
    try:
        event = dict(json.loads(line.text))
    except (ValueError, TypeError):
        return line.text
    told = [str(event.pop("event", "")), str(event.pop("text", ""))]
    event.pop("time", None)  # the engine's own stands in front
    return "  ".join(filter(None, [*told, ", ".join(f"{key} {value}" for key, value in event.items())]))


def _lasts(sandbox: Sandbox) -> list[str]:
    """Return how long it lasts, and when its end is, where that can be foreseen."""
    if sandbox.end is None:
        return [f"ends {each}" for each in sandbox.lasts]
    at = f"{sandbox.end.at.isoformat(timespec='seconds').removesuffix('+00:00')}Z"
    return [*(f"ends {each}" for each in sandbox.lasts), f"{sandbox.end.told(datetime.now(UTC))}, at {at}"]


def _rows(told: Described) -> list[tuple[str, str]]:
    rows = [("name", told.name), ("kind", "sandbox" if told.sandbox else "host kernel (not isolated)")]
    if told.status:
        state = "busy, since before this look" if told.status.state == "unknown" else told.status.state
        rows += [("state", state), *(("running", each) for each in told.status.running)]
        rows.append(("language", told.status.language))
    else:
        rows.append(("state", told.trouble or "not answering"))
    sandbox = told.sandbox
    file = told.status.connection_file if told.status else sandbox.connection_file if sandbox else ""
    rows.append(("connection file", str(file)))
    if sandbox:
        network = f"open: {OPEN_NETWORK}" if sandbox.network == "open" else sandbox.network
        rows += [("image", sandbox.image), ("network", network), ("started", sandbox.started_at)]
        rows += [("reaches", each) for each in sandbox.reaches]
        rows += [("workspace", sandbox.workspace)] if sandbox.workspace else []
        rows += [("lasts", each) for each in _lasts(sandbox)]
    if told.last_ending:
        rows.append(("last ending", told.last_ending))
    return rows
