"""What the engine can do: its own account of itself and its machine (GET /info), read before anything is made.

The one rule: what a start needs and the engine says that it lacks is refused here, with the reason; an engine that
discards a limit without a word, as a rootless one may, never gets that far.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bridge.errors import PolicyNotEnforceable
from bridge.policy import SandboxSpec

# The fields of the Engine API's SystemInfo, and what a sandbox could do without bounds where they are false.
_LIMITS = {
    "MemoryLimit": "memory",
    "SwapLimit": "swap",
    "CpuCfsQuota": "processor time",
    "PidsLimit": "the number of processes",
}
FOUND_BY_NAME = "io.containerd."
"""What the names of runtimes begin with that need no entry in the engine's configuration."""
_REMAPPED_ROOT = re.compile(r"/(\d+)\.(\d+)/?\Z")


@dataclass(frozen=True)
class Capabilities:
    """One engine's, as far as a start depends on them."""

    cpus: int
    release: str
    """Of its operating system, as /proc/sys/kernel/osrelease has it; empty where it does not tell."""
    runtimes: tuple[str, ...]
    unlimited: tuple[str, ...]
    """What it cannot limit."""
    virtual: bool
    """It runs in a virtual machine: a socket in a directory of this host is none there."""
    rootless: bool
    mapped: bool
    """The uids inside a container are others outside: rootless, or userns-remap."""
    shift: tuple[int, int] | None
    """What makes a uid and a gid inside those that the daemon mounts a volume with; None where it cannot be told."""


def read(info: Mapping[str, Any]) -> Capabilities:
    """Return what an engine's info says."""
    options = [str(each) for each in info.get("SecurityOptions") or []]
    remapped = any(each.startswith("name=userns") for each in options)
    rootless = any(each.startswith("name=rootless") for each in options)
    return Capabilities(
        cpus=int(info.get("NCPU") or 1),
        release=str(info.get("KernelVersion") or ""),
        runtimes=tuple(sorted(info.get("Runtimes") or {})),
        unlimited=tuple(what for field, what in _LIMITS.items() if not info.get(field)),
        virtual=sys.platform != "linux" or "Docker Desktop" in str(info.get("OperatingSystem")),
        rootless=rootless,
        mapped=remapped or rootless,
        # a rootless daemon mounts from inside the mapping, a remapping one from outside
        shift=_shift(str(info.get("DockerRootDir"))) if remapped else (0, 0),
    )


def _shift(root: str) -> tuple[int, int] | None:
    """Return the first uid and gid of a remapping daemon, after which it names its data directory."""
    found = _REMAPPED_ROOT.search(root)
    return (int(found[1]), int(found[2])) if found else None


def refuse(spec: SandboxSpec, able: Capabilities) -> None:
    """Raise `PolicyNotEnforceable` where the engine cannot do what the spec needs."""
    if able.unlimited:
        raise PolicyNotEnforceable(
            f"This engine cannot limit {_listed(able.unlimited)} of a container, and says nothing when it is asked to, "
            f"so a sandbox could take the whole machine. Nothing was started. {_how_to_limit(able)}"
        )
    # what has such a name is a program that containerd looks for, and newer engines do not list
    if spec.runtime and spec.runtime not in able.runtimes and not spec.runtime.startswith(FOUND_BY_NAME):
        raise PolicyNotEnforceable(
            f"The policy's runtime {spec.runtime!r} is not known to the engine, which has {', '.join(able.runtimes)}. "
            "Nothing was started. Configure it in the engine, or change the policy."
        )
    if spec.network == "none" and (able.virtual or able.mapped):
        why = "runs in a virtual machine" if able.virtual else f"maps the uids of its containers ({_mapping(able)})"
        raise PolicyNotEnforceable(
            f"Network none needs Unix sockets shared between this host and the container, and this engine {why}. "
            "Nothing was started. Use network isolated: the kernel has no network device there either."
        )
    if spec.workspace and spec.workspace.mode == "rw" and able.mapped:
        raise PolicyNotEnforceable(
            f"The workspace {spec.workspace.path} cannot be given for writing: this engine maps the uids of its "
            f"containers ({_mapping(able)}), so the kernel could not write your files, and what it made would not be "
            "yours. Nothing was started. Ask for it read-only, or use an engine that does not map uids."
        )
    if spec.network != "none" and able.shift is None:
        raise PolicyNotEnforceable(
            "This engine maps the uids of its containers (userns-remap), but its data directory does not tell how, so "
            "the kernel's sockets cannot be made its own. Nothing was started. Use an engine that does not map uids."
        )


def without_gpus(spec: SandboxSpec, detail: str) -> PolicyNotEnforceable | None:
    """Return the error for an engine's own words where it found no GPUs; its info does not tell of them before."""
    if not spec.gpus or "could not select device driver" not in detail:
        return None
    return PolicyNotEnforceable(
        f"Sandbox {spec.name} was not started: the policy gives every sandbox {spec.gpus} GPU{'s' * (spec.gpus > 1)} "
        f"(sandbox.gpus), and this engine has none to give ({detail}). Everything of it was removed. Install the "
        "container toolkit of the GPU's maker on the engine's machine and start the engine again, or write gpus: 0."
    )


def _mapping(able: Capabilities) -> str:
    return "it is rootless" if able.rootless else "userns-remap"


def _how_to_limit(able: Capabilities) -> str:
    if able.rootless:
        return (
            "A rootless engine needs cgroup v2, with the controllers cpu, memory and pids delegated to your user "
            "(systemd: Delegate=cpu cpuset io memory pids for user@.service), and systemd as its cgroup driver."
        )
    if able.unlimited == (_LIMITS["SwapLimit"],):
        return "Boot the machine with swapaccount=1, or with cgroup v2."
    return "Mount those cgroup controllers on the engine's machine, and start the engine again."


def _listed(words: tuple[str, ...]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
