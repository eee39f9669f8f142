"""What a kernelspec of ours holds: which kernel it leads to, how that is called, and what an IDE starts for it.

The one rule: what stands here is read by programs of many kinds, so it is written as all of them take it:

- Zed replaces only an element that is `{connection_file}` and nothing else.
- VS Code hides a kernelspec for Python whose program is called `python` where it does not know that Python, changes the
  arguments of one that runs a module with `ipykernel` in its name, and of two with the same display name and program it
  shows one. Ours starts our own command, and each has a name of its own.
- jupyter_client and VS Code replace `{…}` in arguments and `$…` in variables, so neither stands in a value.
- JupyterLab offers its debugger where `metadata.debugger` says so.
- Jupyter does not list one whose provisioner is not installed where Jupyter runs.

Format: https://jupyter-client.readthedocs.io/en/stable/kernels.html#kernel-specs
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bridge.connection import runtime_directory
from bridge.entry import Program, program
from bridge.errors import UsageError
from bridge.ide.configuration import host_kernel
from bridge.kernels.files import SANDBOX_PREFIX
from bridge.kernels.finder import Found
from bridge.launchers.docker.host import HOST_VARIABLES
from bridge.policy import SandboxRequest, format_size

MARK = "kernel-bridge"
"""Our object in `metadata`, by which a kernelspec is ours; also what our directories' names begin with."""
CONNECTION_FILE = "{connection_file}"
PROVISIONER = "kernel-bridge"
"""Our entry point's name in the group `jupyter_client.kernel_provisioners`."""
LONGEST = 100
"""Characters of a kernel's name in a directory's; a file's may have 255 with what stands around it."""
_POLICY, _ENGINE = ("--policy", "KERNEL_BRIDGE_POLICY"), ("--engine", *HOST_VARIABLES)
"""What tells a relay, first by argument, then by variable."""
_OF_THE_LISTING = ("JUPYTER_DATA_DIR", "XDG_DATA_HOME")
"""A program that has others does not see the kernelspec."""
_REPLACED = re.compile(r"\{(connection_file|prefix|resource_dir)\}")


@dataclass(frozen=True)
class Target:
    """The kernel that a kernelspec leads to."""

    kernel: str | None = None
    """A sandbox's name, or the full path of a connection file or a notebook; None for a new sandbox at each start."""
    label: str = ""
    """What a person calls it."""
    owner: bool = False
    """The IDE starts, restarts and ends it."""

    @property
    def is_sandbox(self) -> bool:
        """Whether it is a sandbox, which need not run yet."""
        return self.kernel is None or not self.kernel.startswith("/")

    @property
    def connection_file(self) -> Path | None:
        """The file by which clients attach that need no kernelspec; None where it is not known before it runs."""
        if self.kernel is None or self.kernel.endswith(".ipynb"):
            return None
        return runtime_directory() / f"{SANDBOX_PREFIX}{self.kernel}.json" if self.is_sandbox else Path(self.kernel)

    def names(self) -> Iterator[tuple[str, str]]:
        """Yield names of the directory and for the picker: the plain ones, and those for when these are another's.

        A directory's name has only what Jupyter allows there.
        """
        if self.kernel is None:
            yield MARK, "Sandbox"
            return
        kind = "Sandbox" if self.owner else "Shared"
        plain = f"{MARK}-{re.sub(r'[^a-z0-9._-]+', '-', self.label.lower())[:LONGEST]}"
        shown = f"{kind}: {''.join(each if each.isprintable() else '?' for each in self.label)}"
        yield plain, shown
        if not self.is_sandbox:
            digest = hashlib.sha256(os.fsencode(self.kernel)).hexdigest()[:8]
            yield f"{plain}-{digest}", f"{shown} in {Path(self.kernel).parent}"


def target_of(found: Found, which: str) -> Target:
    """Return what leads to a kernel that was found by what a person typed.

    A sandbox's name and a connection file outlive the kernel's restarts. Whoever names a notebook means the kernel that
    serves it, also when that is another one by then, so the notebook stays what is looked for.
    """
    if found.sandbox:
        return Target(found.sandbox.name, found.sandbox.name)
    notebook = found.file.notebook_named(which) if found.file else None
    if notebook and which.endswith(".ipynb") and notebook.startswith("/"):
        return Target(notebook, Path(notebook).name)
    # a sandbox that is known by its file only, as beside it in compose, is called as it is on the host
    is_sandbox = found.file is not None and found.file.info.supervised
    return Target(str(found.path), found.path.stem if is_sandbox else found.path.name)


def relay(
    target: Target,
    request: SandboxRequest,
    policy_file: Path | None,
    engine: str | None,
    environ: Mapping[str, str] = os.environ,
) -> Program:
    """Return what an IDE starts: the relay, by its full path, with what a bare environment lacks.

    Of variables for the sandbox only the names are arguments, which every user of the machine can read. Raises
    `UsageError` for what a kernelspec cannot hold.
    """
    words = ["--owner"] if target.owner and target.kernel else []
    words += ["--policy", str(policy_file)] if policy_file else []
    words += ["--engine", engine] if engine else []
    words += [*_options(request), *(["--kernel", target.kernel] if target.kernel else [])]
    made = program("relay", words, environ)
    variables = {**request.environment, **made.environment}
    for each in (made.command, *made.arguments):
        found = _REPLACED.search(each)
        if found:
            raise UsageError(f"{each!r} holds {found[0]}, which IDEs replace. Nothing was installed; rename it.")
    for name, value in variables.items():
        if "$" in value:
            raise UsageError(
                f"The value of {name} holds a '$', which IDEs replace by variables of theirs. Nothing was installed; "
                "give it another way."
            )
    return Program(made.command, made.arguments, variables)


def content(
    target: Target, display_name: str, started: Program, provisioner: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the content of kernel.json; `provisioner` is our provisioner's configuration, where it is wanted."""
    mark = {"kernel": target.kernel, "owner": target.owner, "version": version("kernel-bridge")}
    metadata: dict[str, Any] = {"debugger": True, MARK: mark}
    if provisioner is not None:
        metadata["kernel_provisioner"] = {"provisioner_name": PROVISIONER, "config": dict(provisioner)}
    return {
        "argv": [started.command, *started.arguments, CONNECTION_FILE],
        "display_name": display_name,
        "language": "python",
        # a signal would have to find its way from the relay into a container
        "interrupt_mode": "message",
        **({"env": dict(started.environment)} if started.environment else {}),
        "metadata": metadata,
    }


def provisioner_config(target: Target, request: SandboxRequest, started: Program) -> dict[str, Any]:
    """Return our provisioner's configuration, which says what the relay is told: by arguments, or by its variables.

    The provisioner has the variables of the program that uses it, so what changes which kernels there are cannot be
    told to it; raises `UsageError` for that, and `NotOurs` for a kernel on the host.
    """
    if not target.is_sandbox:
        raise host_kernel(target.label)
    told = {*_POLICY[1:], *_ENGINE[1:], *_OF_THE_LISTING, *request.environment}
    untold = sorted(set(started.environment) - told)
    if untold:
        raise UsageError(
            f"With --provisioner the kernel is looked for with the variables of the Jupyter that starts it, and this "
            f"shell has {', '.join(untold)}, by which it has other kernels. Nothing was installed; leave out "
            f"--provisioner, or the variables."
        )
    sandbox = {
        "image": request.image,
        "network": request.network,
        "workspace": str(request.workspace) if request.workspace else None,
        "workspace_mode": request.workspace_mode if request.workspace else None,
        "memory": request.memory,
        "cpus": request.cpus,
        "environment": list(request.environment) or None,
    }
    return {
        **({"kernel": target.kernel} if target.kernel else {}),
        "owner": target.owner,
        "policy": _told(started, *_POLICY),
        "engine": _told(started, *_ENGINE),
        "sandbox": {name: value for name, value in sandbox.items() if value is not None},
    }


def _told(started: Program, option: str, *variables: str) -> str | None:
    if option in started.arguments:
        return started.arguments[started.arguments.index(option) + 1]
    return next((started.environment[each] for each in variables if each in started.environment), None)


def _options(request: SandboxRequest) -> list[str]:
    """Return a request as the options that `request_options` reads."""
    given = {
        "--image": request.image,
        "--network": request.network,
        "--workspace": request.workspace,
        "--memory": None if request.memory is None else format_size(request.memory),
        "--cpus": None if request.cpus is None else f"{request.cpus:g}",
    }
    words = [word for option, value in given.items() if value is not None for word in (option, str(value))]
    words += ["--rw"] if request.workspace_mode == "rw" else []
    return words + [word for name in request.environment for word in ("--env", name)]
