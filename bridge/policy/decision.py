"""What is started: a policy and a request → the settings of one sandbox, or every reason why not.

The one rule: what is asked for beyond the policy is refused with the ceiling named, never cut down in silence; so what
a `SandboxSpec` says was either asked for or is the policy's own value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Literal

from bridge.errors import PolicyNotEnforceable, PolicyRefused, UsageError
from bridge.policy import environment, images, places
from bridge.policy.limits import CPUS, MEMORY, Limits
from bridge.policy.model import NOT_YET, Policy, not_supported
from bridge.policy.units import Bounded, parse_size, shown
from bridge.policy.values import NETWORKS, Mode

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
"""Of sandboxes: safe as part of a file name, a label and a container's name, without any escaping."""


@dataclass(frozen=True)
class SandboxRequest:
    """What a person or an agent asks for; None means the policy's own value. Memory in bytes."""

    name: str
    image: str | None = None
    network: str | None = None
    workspace: Path | None = None
    workspace_mode: Mode = "ro"
    memory: int | None = None
    cpus: float | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Workspace:
    """A host directory, as it was when it was checked: the launcher compares device and inode from the inside."""

    path: Path
    """With symlinks resolved; the same path inside."""
    mode: Mode
    device: int
    inode: int


@dataclass(frozen=True)
class SandboxSpec:
    """The settings of one sandbox, all of them decided."""

    name: str
    image: str
    """The full reference: `docker.io/library/python:3.13` or `…@sha256:…`."""
    network: Literal["none", "isolated"]
    limits: Limits
    workspace: Workspace | None
    environment: tuple[tuple[str, str], ...]
    runtime: str | None
    max_running: int


def asked_memory(text: str | None) -> int | None:
    """Bytes of a size that was asked for, like `1GiB`; `UsageError` where it is none."""
    try:
        return None if text is None else parse_size(text)
    except ValueError as error:
        raise UsageError(f"memory {text!r} is not a size: {error}. Nothing was started.") from None


def allows_image(policy: Policy, reference: str) -> bool:
    """Whether a policy lets sandboxes be started from an image of this name."""
    try:
        return images.allows(policy.sandbox.images, images.parse(reference))
    except ValueError:
        return False


def decide(policy: Policy, request: SandboxRequest) -> SandboxSpec:
    """The sandbox that the policy makes of a request.

    Where less memory is asked for than the policy's home, tmp and shm need (together they are at most half of it),
    these three shrink in proportion, so that the rule holds for every sandbox; nothing else follows from another value.

    PolicyRefused with every reason and what is allowed instead; PolicyNotEnforceable where only what this version does
    not support yet stands in the way, or where the policy itself has such a setting.
    """
    _require_enforceable(policy)
    reasons: list[str] = []
    allowed = policy.sandbox
    _name(policy, request.name, reasons)
    image = _image(policy, request.image, reasons)
    network = _network(policy, request.network, reasons)
    memory = _amount("memory", request.memory, MEMORY, allowed.limits.memory, reasons)
    cpus = _amount("cpus", request.cpus, CPUS, allowed.limits.cpus, reasons)
    workspace = _workspace(policy, request.workspace, request.workspace_mode, reasons)
    variables = _environment(policy, request.environment, reasons)
    if reasons or image is None:
        only_unsupported = request.network == "open" and len(reasons) == 1
        error = PolicyNotEnforceable if only_unsupported else PolicyRefused
        listed = "\n".join(f"  {reason}" for reason in reasons)
        raise error(f"not allowed by {_named(policy)}, so nothing was started:\n{listed}")
    return SandboxSpec(
        name=request.name,
        image=str(image),
        network=network,
        limits=allowed.limits.within(int(memory), cpus),
        workspace=workspace,
        environment=variables,
        runtime=allowed.runtime,
        max_running=allowed.max_running,
    )


def _named(policy: Policy) -> str:
    return f"the policy {policy.origin}" if policy.origin.startswith("/") else policy.origin


def _require_enforceable(policy: Policy) -> None:
    """The model refuses such settings already; this holds for policies that were made past its checks."""
    found = [(setting, not_supported(setting, attrgetter(setting)(policy))) for setting in NOT_YET]
    lines = [f"  {setting}: {text}" for setting, text in found if text]
    if lines:
        raise PolicyNotEnforceable("\n".join([f"{_named(policy)} cannot be enforced, so nothing was started:", *lines]))


def _name(policy: Policy, name: object, reasons: list[str]) -> None:
    if not policy.sandbox.max_running:
        reasons.append("sandbox: the policy allows no sandboxes at all (max_running: 0)")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        reasons.append(
            f"name: {shown(name)} cannot be one; allowed are 1 to 32 of a-z, 0-9 and '-', not starting with '-'"
        )


def _image(policy: Policy, asked: str | None, reasons: list[str]) -> images.Reference | None:
    rules = policy.sandbox.images
    try:
        reference = images.parse(policy.sandbox.default_image if asked is None else asked)
    except ValueError as error:
        reasons.append(f"image: {error}")
        return None
    if not images.allows(rules, reference):
        reasons.append(f"image: {reference} is not among the policy's; allowed are {images.describe(rules)}")
    return reference


def _network(policy: Policy, asked: str | None, reasons: list[str]) -> Literal["none", "isolated"]:
    supported: tuple[Literal["none", "isolated"], ...] = ("none", "isolated")
    allowed = supported[: NETWORKS.index(policy.sandbox.network) + 1]
    if asked is None:
        return allowed[-1]
    for network in allowed:
        if asked == network:
            return network
    what = "open is not supported yet by this version" if asked == "open" else f"{shown(asked)} is not allowed"
    reasons.append(f"network: {what}; allowed are {' and '.join(allowed)}")
    return "none"


def _amount(what: str, asked: object, bounds: Bounded, ceiling: float, reasons: list[str]) -> float:
    if asked is None:
        return ceiling
    allowed = f"allowed is {bounds.kind} from {bounds.show(bounds.low)} to {bounds.show(ceiling)}"
    try:
        number = bounds.read(asked, False)  # noqa: FBT003 - not from a policy's text
    except (ValueError, TypeError, OverflowError):
        reasons.append(f"{what}: {shown(asked)} cannot be used; {allowed}")
        return ceiling
    if not bounds.low <= number <= ceiling:
        reasons.append(f"{what}: {bounds.show(number)} is out of bounds; {allowed}")
        return ceiling
    return number


def _workspace(policy: Policy, asked: Path | None, mode: Mode, reasons: list[str]) -> Workspace | None:
    if asked is None:
        return None
    if mode not in {"ro", "rw"}:
        reasons.append(f"workspace: the mode {shown(mode)} does not exist; allowed are ro and rw")
        return None
    try:
        real = places.real_directory(asked)
        status = real.lstat()
        places.refuse_workspace(real)
        _require_mount(policy, real, mode)
    except (ValueError, OSError) as error:
        reasons.append(f"workspace: {error}")
        return None
    return Workspace(real, mode, status.st_dev, status.st_ino)


def _require_mount(policy: Policy, real: Path, mode: Mode) -> None:
    mounts = [mount for mount in policy.sandbox.mounts if real.is_relative_to(mount.source)]
    listed = ", ".join(f"{mount.source} {mount.mode}" for mount in policy.sandbox.mounts)
    allowed = f"allowed are directories in {listed}" if listed else "the policy allows none"
    if not mounts:
        raise ValueError(f"{str(real)!r} is not in a directory of the policy's mounts; {allowed}")
    if mode == "ro":
        return
    if not any(mount.mode == "rw" for mount in mounts):
        raise ValueError(f"{str(real)!r} may only be mounted ro; {allowed}")
    file = Path(policy.origin)  # a symlink to the policy could be replaced, so both ends of it count
    if file.is_absolute() and (file.is_relative_to(real) or file.resolve().is_relative_to(real)):
        raise ValueError(
            f"{str(real)!r} holds the policy in force, which a sandbox must not be able to change; "
            "mount it ro, or move the policy elsewhere"
        )


def _environment(policy: Policy, asked: Mapping[str, str], reasons: list[str]) -> tuple[tuple[str, str], ...]:
    names = policy.sandbox.environment
    for name, value in asked.items():
        if name not in names:
            reasons.append(f"environment: {shown(name)} may not be passed; allowed are {', '.join(names) or 'none'}")
            continue
        why_not = environment.why_not_value(value)
        if why_not:
            reasons.append(f"environment: {name}: {why_not}")
    return tuple(sorted(asked.items())) if not reasons else ()
