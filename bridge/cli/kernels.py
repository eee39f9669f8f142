"""`up`, `stop` and `ls`: sandboxes and host kernels from the shell."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio
import click

from bridge.cli import engine_option, policy_option, say
from bridge.errors import UsageError
from bridge.kernels.registry import Kernels
from bridge.launchers.docker import DockerLauncher
from bridge.policy import SandboxRequest, asked_memory, find


def open_kernels(policy_file: Path | None, engine: str | None) -> Kernels:
    """Return the kernels under the policy in force, signed as the person at the shell."""
    username = os.environ.get("USER") or "shell"
    return Kernels(find(policy_file), lambda: DockerLauncher(engine), username=username)


@click.command()
@click.argument("name", required=False)
@click.option("--image", help="An image that the policy allows.")
@click.option(
    "--network", type=click.Choice(["isolated", "none"]), help="Neither reaches anything; none has no TCP port."
)
@click.option("--workspace", type=click.Path(path_type=Path), help="A directory of yours, at the same path inside.")
@click.option("--rw", is_flag=True, help="The workspace may be written.")
@click.option("--memory", help="E.g. 1GiB; up to the policy's limit.")
@click.option("--cpus", type=float, help="Up to the policy's limit.")
@click.option("--env", "names", multiple=True, metavar="NAME[=VALUE]", help="A variable that the policy lets through.")
@click.option("--json", "as_json", is_flag=True, help="Print what was started as JSON.")
@policy_option
@engine_option
def up(
    *,
    name: str | None,
    image: str | None,
    network: str | None,
    workspace: Path | None,
    rw: bool,
    memory: str | None,
    cpus: float | None,
    names: tuple[str, ...],
    as_json: bool,
    policy_file: Path | None,
    engine: str | None,
) -> None:
    """Start a sandbox and print its connection file, which any Jupyter client attaches to.

    Example: jupyter console --existing "$(kernel-bridge up analysis)"
    """
    kernels = open_kernels(policy_file, engine)
    if workspace:
        workspace = workspace.expanduser().absolute()

    async def work() -> tuple[dict[str, Any], float]:
        started = time.monotonic()
        request = SandboxRequest(
            name=name or "",
            image=image,
            network=network,
            workspace=workspace,
            workspace_mode="rw" if rw else "ro",
            memory=asked_memory(memory),
            cpus=cpus,
            environment=_environment(names, os.environ),
        )
        sandbox, status = await kernels.start_sandbox(request)
        await kernels.close()
        return {**asdict(sandbox), "language": status.language}, time.monotonic() - started

    about, seconds = anyio.run(work)
    say(f"Sandbox {about['name']} runs after {seconds:.1f} s ({about['language']}, network {about['network']}).")
    click.echo(json.dumps(about, indent=2, default=str) if as_json else str(about["connection_file"]))


@click.command()
@click.argument("name")
@policy_option
@engine_option
def stop(name: str, policy_file: Path | None, engine: str | None) -> None:
    """End a sandbox of yours and remove all that belongs to it; its variables are lost.

    Example: kernel-bridge stop analysis
    """
    kernels = open_kernels(policy_file, engine)
    anyio.run(kernels.stop_sandbox, name)
    say(f"Sandbox {name} was stopped and removed.")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@policy_option
@engine_option
def ls(*, as_json: bool, policy_file: Path | None, engine: str | None) -> None:
    """List every kernel the bridge can see: your sandboxes, and host kernels with their notebooks, alive or not.

    Example: kernel-bridge ls --json
    """
    kernels = open_kernels(policy_file, engine)

    listed, trouble = anyio.run(kernels.listing)
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
        click.echo(f"{each.name:<{width}}  {each.kind:<7}  {each.state}  {each.notebook or each.connection_file}")


def _environment(names: tuple[str, ...], environ: Mapping[str, str]) -> dict[str, str]:
    chosen = {}
    for each in names:
        name, given, value = each.partition("=")
        if not given and name not in environ:
            raise UsageError(f"--env {name}: there is no such variable in this environment. Nothing was started.")
        chosen[name] = value if given else environ[name]
    return chosen
