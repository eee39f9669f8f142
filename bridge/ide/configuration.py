"""What a kernelspec's `metadata.kernel_provisioner.config` may say, and the request that it makes.

The one rule: what is not understood is refused by its name. A word that was misspelt must not start a sandbox with less
than was asked for, or share one that was meant to be owned. What is allowed is the policy's to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bridge.errors import NotOurs, UsageError
from bridge.policy import SandboxRequest, asked_memory

FIELDS = ("image", "network", "workspace", "workspace_mode", "memory", "cpus", "environment")
"""Of `sandbox`; `SandboxRequest` says what each means."""


def refuse_unknown(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise `UsageError` where something is given that is not known."""
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise UsageError(
            f"The kernelspec's {where} has {', '.join(map(repr, unknown))}, which is not known there; known are "
            f"{', '.join(known)}. Nothing was started."
        )


def host_kernel(name: str) -> NotOurs:
    """Return why our provisioner takes no kernel on the host."""
    return NotOurs(
        f"{name} is a kernel on the host, which `exit` in a cell would end for everybody if no relay were between. "
        "Install it without --provisioner."
    )


def requested(name: str, sandbox: Mapping[str, Any], directory: Path, environ: Mapping[str, str]) -> SandboxRequest:
    """Return the request that `sandbox` makes, for a kernel that is started in `directory` on the host.

    A relative workspace is relative to it: "." is the notebook's own directory, or papermill's `--cwd`. Of variables
    `sandbox` has the names, `environ` the values. Raises `UsageError` for what cannot be one.
    """
    refuse_unknown(sandbox, FIELDS, "kernel_provisioner.config.sandbox")
    asked = {field: value for field, value in sandbox.items() if value is not None}
    for field in ("image", "network", "workspace", "workspace_mode"):
        if not isinstance(asked.get(field, ""), str):
            raise _wrong(field, "text")
    if not isinstance(asked.get("memory", ""), str | int) or isinstance(asked.get("memory"), bool):
        raise _wrong("memory", 'a size like "1GiB", or a number of bytes')
    if isinstance(asked.get("memory"), str):
        asked["memory"] = asked_memory(asked["memory"])
    names = asked.get("environment", [])
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        raise _wrong("environment", "a list of names")
    missing = sorted(set(names) - set(environ))
    if missing:
        raise UsageError(
            f"The kernelspec names {', '.join(missing)} for the sandbox, and there is no such variable in its `env` or "
            "where it is started. Nothing was started."
        )
    asked["environment"] = {each: environ[each] for each in names}
    if "workspace" in asked:
        asked["workspace"] = _directory(asked["workspace"], directory)
    return SandboxRequest(name=name, **asked)


def working_directory(request: SandboxRequest, directory: Path) -> Path | None:
    """Return where in its workspace a kernel is to work: where it is started on the host, if that is inside of it."""
    if request.workspace is None:
        return None
    directory = directory.resolve()
    return directory if directory.is_relative_to(request.workspace.resolve()) else None


def _directory(workspace: str, directory: Path) -> Path:
    try:
        return (directory / Path(workspace).expanduser()).absolute()
    except RuntimeError:
        raise _wrong("workspace", "in any user's home directory: there is no such user") from None


def _wrong(field: str, what: str) -> UsageError:
    return UsageError(
        f"In the kernelspec's kernel_provisioner.config.sandbox the field {field!r} is not {what}. Nothing was started."
    )
