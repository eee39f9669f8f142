"""What is started: a policy and a request → the settings of one sandbox, or every reason why not.

The one rule: what is asked for beyond the policy is refused with the ceiling, the rule and its line named, never cut
down in silence; so what a `SandboxSpec` says was either asked for or is the policy's own value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bridge.errors import PolicyRefused, UsageError
from bridge.policy import certificates, environment, images, places
from bridge.policy.limits import CPUS, MEMORY, Limits
from bridge.policy.model import Egress, Policy
from bridge.policy.units import Bounded, parse_size, shown
from bridge.policy.values import IDLE_OF_AGENTS, NETWORKS, RUNTIME_DIRECTORY, Mode, Network

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
    by_agent: bool = False
    """Agents forget what they started: until a person was there, it may be unused for less long."""


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
    network: Network
    limits: Limits
    workspace: Workspace | None
    environment: tuple[tuple[str, str], ...]
    gpus: int
    runtime: str | None
    max_running: int
    egress: tuple[Egress, ...] = ()
    """What may be reached through the gateway, and nothing else may."""
    upstream_proxy: str | None = None
    certificates: str = field(default="", repr=False)
    """What its programs are to trust, in PEM; empty leaves that to them."""
    idle_timeout: float | None = None
    """Seconds in which nobody is connected and nothing runs, after which it ends; None sets no limit."""
    idle_timeout_of_agents: float | None = None
    """In its place until a person was there."""
    max_lifetime: float | None = None


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

    PolicyRefused with every reason and what is allowed instead.
    """
    reasons: list[str] = []
    allowed = policy.sandbox
    _name(policy, request.name, reasons)
    image = _image(policy, request.image, reasons)
    network = _network(policy, request.network, reasons)
    memory = _amount(policy, "memory", request.memory, MEMORY, reasons)
    cpus = _amount(policy, "cpus", request.cpus, CPUS, reasons)
    workspace = _workspace(policy, request.workspace, request.workspace_mode, reasons)
    variables = _environment(policy, request.environment, reasons)
    trusted = _certificates(policy, network, reasons)
    if reasons or image is None:
        listed = "\n".join(f"  {reason}" for reason in reasons)
        raise PolicyRefused(f"not allowed by {_named(policy)}, so nothing was started:\n{listed}")
    return SandboxSpec(
        name=request.name,
        image=str(image),
        network=network,
        limits=allowed.limits.within(int(memory), cpus),
        workspace=workspace,
        environment=variables,
        gpus=allowed.gpus,
        runtime=allowed.runtime,
        max_running=allowed.max_running,
        egress=allowed.egress if network == "isolated" else (),
        upstream_proxy=allowed.upstream_proxy if network == "isolated" and allowed.egress else None,
        certificates=trusted,
        idle_timeout=allowed.idle_timeout,
        idle_timeout_of_agents=_of_agents(allowed.idle_timeout) if request.by_agent else None,
        max_lifetime=allowed.max_lifetime,
    )


def _named(policy: Policy) -> str:
    return f"the policy {policy.origin}" if policy.origin.startswith("/") else policy.origin


def _of_agents(idle_timeout: float | None) -> float | None:
    return None if idle_timeout is None else min(idle_timeout, IDLE_OF_AGENTS)


def _name(policy: Policy, name: object, reasons: list[str]) -> None:
    if not policy.sandbox.max_running:
        rule = policy.rule("sandbox.max_running")
        reasons.append(f"sandbox: the policy allows no sandboxes at all; max_running is 0 {rule}")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        reasons.append(
            f"name: {shown(name)} cannot be one; allowed are 1 to 32 of a-z, 0-9 and '-', not starting with '-'"
        )


def _image(policy: Policy, asked: str | None, reasons: list[str]) -> images.Reference | None:
    rules = policy.sandbox.images
    allowed = f"allowed are {images.describe(rules)} {policy.rule('sandbox.images')}"
    if not isinstance(asked, str | None):
        reasons.append(f"image: {shown(asked)} cannot be used; {allowed}")
        return None
    try:
        reference = images.parse(policy.sandbox.default_image if asked is None else asked)
    except ValueError as error:
        reasons.append(f"image: {error}; {allowed}")
        return None
    if not images.allows(rules, reference):
        reasons.append(f"image: {reference} is not among the policy's; {allowed}")
    return reference


def _network(policy: Policy, asked: str | None, reasons: list[str]) -> Network:
    allowed = NETWORKS[: NETWORKS.index(policy.sandbox.network) + 1]
    if asked is None:
        return allowed[-1]
    for network in allowed:
        if asked == network:
            return network
    listed = " and ".join(filter(None, (", ".join(allowed[:-1]), allowed[-1])))
    reasons.append(f"network: {shown(asked)} is not allowed; allowed are {listed} {policy.rule('sandbox.network')}")
    return "none"


def _amount(policy: Policy, what: str, asked: object, bounds: Bounded, reasons: list[str]) -> float:
    ceiling: float = getattr(policy.sandbox.limits, what)
    if asked is None:
        return ceiling
    rule = policy.rule(f"sandbox.limits.{what}")
    allowed = f"allowed is {bounds.kind} from {bounds.show(bounds.low)} to {bounds.show(ceiling)} {rule}"
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
        _refuse_keys(policy, real)
        _require_mount(policy, real, mode)
    except (ValueError, OSError) as error:
        listed = ", ".join(f"{mount.source} {mount.mode}" for mount in policy.sandbox.mounts)
        allowed = f"allowed are directories in {listed}" if listed else "the policy allows none"
        reasons.append(f"workspace: {error}; {allowed} {policy.rule('sandbox.mounts')}")
        return None
    return Workspace(real, mode, status.st_dev, status.st_ino)


def _require_mount(policy: Policy, real: Path, mode: Mode) -> None:
    mounts = [mount for mount in policy.sandbox.mounts if real.is_relative_to(mount.source)]
    if not mounts:
        raise ValueError(f"{str(real)!r} is not in a directory of the policy's mounts")
    if mode == "ro":
        return
    if not any(mount.mode == "rw" for mount in mounts):
        raise ValueError(f"{str(real)!r} may only be mounted ro")
    in_force = Path(policy.origin)
    files = {places.user_policy(): "the user's policy", places.SYSTEM_POLICY: "this machine's policy"}
    if in_force.is_absolute():
        files[in_force] = "the policy in force"
    if policy.audit.file is not None:
        files[policy.audit.file] = f"the audit {policy.rule('audit.file')}"
    if policy.sandbox.ca_bundle:
        files[policy.sandbox.ca_bundle] = "the policy's certificates"
    for file, what in files.items():
        if places.holds(real, file):
            raise ValueError(
                f"{str(real)!r} holds {what}, {file}, or a link to it, which a sandbox must not be able to change; "
                "mount it ro, or move that elsewhere"
            )


def _refuse_keys(policy: Policy, real: Path) -> None:
    """Connection files hold the keys of kernels; and those that a sandbox wrote would be attached to."""
    for directory in policy.attach.directories if policy.attach.allowed else ():
        if directory != RUNTIME_DIRECTORY and places.related(real, Path(directory)):
            raise ValueError(
                f"{str(real)!r} is, holds or lies in {directory}, where the keys of kernels are "
                f"{policy.rule('attach.directories')}; ask for a directory without it"
            )


def _certificates(policy: Policy, network: str, reasons: list[str]) -> str:
    """Read them again: the file may have changed since the policy was read."""
    file = policy.sandbox.ca_bundle
    if file is None or network == "none":
        return ""
    try:
        return certificates.read(file)
    except ValueError as error:
        reasons.append(f"ca_bundle: {error} {policy.rule('sandbox.ca_bundle')}")
        return ""


def _environment(policy: Policy, asked: Mapping[str, str], reasons: list[str]) -> tuple[tuple[str, str], ...]:
    names = policy.sandbox.environment
    for name, value in asked.items():
        if name not in names:
            allowed = f"allowed are {', '.join(names) or 'none'} {policy.rule('sandbox.environment')}"
            reasons.append(f"environment: {shown(name)} may not be passed; {allowed}")
            continue
        why_not = environment.why_not_value(value)
        if why_not:
            reasons.append(f"environment: {name}: {why_not}")
    return tuple(sorted(asked.items())) if not reasons else ()
