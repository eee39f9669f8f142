"""What a person may ask for of a sandbox: the options that `up` and `policy explain` share.

The one rule: they only collect. What is allowed is the policy's to say.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from bridge.errors import UsageError
from bridge.policy import SandboxRequest, asked_memory

OPTIONS = (
    click.option("--image", help="An image that the policy allows."),
    click.option(
        "--network",
        type=click.Choice(["isolated", "none", "open"]),
        help="none reaches nothing and has no TCP port, isolated what the policy lists, open what this machine does.",
    ),
    click.option("--workspace", type=click.Path(path_type=Path), help="A directory of yours, at the same path inside."),
    click.option("--rw", is_flag=True, help="The workspace may be written."),
    click.option("--memory", help="E.g. 1GiB; up to the policy's limit."),
    click.option("--cpus", type=float, help="Up to the policy's limit."),
    click.option(
        "--env", "names", multiple=True, metavar="NAME[=VALUE]", help="A variable that the policy lets through."
    ),
)


def request_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options, and give the command one `request` in their place; its name is still empty."""

    @functools.wraps(command)
    def collecting(
        *arguments: Any,
        image: str | None,
        network: str | None,
        workspace: Path | None,
        rw: bool,
        memory: str | None,
        cpus: float | None,
        names: tuple[str, ...],
        **others: Any,
    ) -> Any:
        request = SandboxRequest(
            name="",
            image=image,
            network=network,
            workspace=_full(workspace) if workspace else None,
            workspace_mode="rw" if rw else "ro",
            memory=asked_memory(memory),
            cpus=cpus,
            environment=_environment(names, os.environ),
        )
        return command(*arguments, request=request, **others)

    return functools.reduce(lambda decorated, option: option(decorated), reversed(OPTIONS), collecting)


def _full(workspace: Path) -> Path:
    try:
        return workspace.expanduser().absolute()
    except RuntimeError:
        raise UsageError(
            f"--workspace {workspace}: there is no such user's home directory. Nothing was started."
        ) from None


def _environment(names: tuple[str, ...], environ: Mapping[str, str]) -> dict[str, str]:
    chosen = {}
    for each in names:
        name, given, value = each.partition("=")
        if not given and name not in environ:
            raise UsageError(f"--env {name}: there is no such variable in this environment. Nothing was started.")
        chosen[name] = value if given else environ[name]
    return chosen
