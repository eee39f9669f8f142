"""Why a sandbox would be as it would be: each setting of a decided spec, and whose word it is.

The one rule: it explains what `decide` has decided and decides nothing itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from bridge.policy import images
from bridge.policy.decision import SandboxRequest, SandboxSpec
from bridge.policy.limits import CPUS, MEMORY, PIDS, TMPFS
from bridge.policy.model import Policy
from bridge.policy.values import ENDING, GPUS, IDLE_OF_AGENTS, OPEN_NETWORK


@dataclass(frozen=True)
class Reason:
    """One setting of a sandbox."""

    setting: str
    value: str
    why: str


def explain(policy: Policy, request: SandboxRequest, spec: SandboxSpec) -> list[Reason]:
    """Return the settings of the sandbox that `decide` made of a request, each with its reason."""
    allowed, limits = policy.sandbox, spec.limits
    rows = [
        Reason("image", spec.image, _asked(request.image, f"allowed are {images.describe(allowed.images)}")),
        Reason("network", spec.network, _network(request, spec, allowed.network)),
        Reason("reaches", reachable(spec), _why_reachable(policy, spec)),
        Reason("memory", MEMORY.show(limits.memory), _asked(request.memory, _most(MEMORY.show(allowed.limits.memory)))),
        Reason("cpus", CPUS.show(limits.cpus), _asked(request.cpus, _most(CPUS.show(allowed.limits.cpus)))),
        Reason("pids", PIDS.show(limits.pids), "the policy's limit"),
    ]
    for name in ("home", "tmp", "shm"):
        mine, theirs = getattr(limits, name), getattr(allowed.limits, name)
        shrunk = f"the policy's {TMPFS.show(theirs)}, shrunk to stay within half of the memory"
        rows.append(Reason(name, TMPFS.show(mine), "the policy's limit" if mine == theirs else shrunk))
    if spec.workspace:
        mounts = (
            f"{each.source} {each.mode}" for each in allowed.mounts if spec.workspace.path.is_relative_to(each.source)
        )
        where = f"{spec.workspace.path} {spec.workspace.mode}"
        rows.append(Reason("workspace", where, f"asked for; the policy's mounts have {', '.join(mounts)}"))
    else:
        rows.append(Reason("workspace", "none", "none was asked for"))
    for name, _ in spec.environment:
        rows.append(Reason("environment", name, "asked for; the policy lets it through"))
    rows.append(Reason("gpus", GPUS.show(spec.gpus), "the policy's, for every sandbox"))
    rows.append(Reason("runtime", spec.runtime or "the engine's own", "the policy's"))
    rows += _ends(policy, spec)
    return rows


def _ends(policy: Policy, spec: SandboxSpec) -> list[Reason]:
    """Return when it would end by itself."""
    idle, agents = spec.idle_timeout, ""
    if idle is not None and idle > IDLE_OF_AGENTS:
        agents = f"; {ENDING.show(IDLE_OF_AGENTS)} where an agent started it and no person ever was there"
    return [
        Reason("idle_timeout", _shown(idle), f"the policy's {policy.rule('sandbox.idle_timeout')}{agents}"),
        Reason("max_lifetime", _shown(spec.max_lifetime), f"the policy's {policy.rule('sandbox.max_lifetime')}"),
    ]


def _shown(seconds: float | None) -> str:
    return "none" if seconds is None else ENDING.show(seconds)


def _network(request: SandboxRequest, spec: SandboxSpec, most: str) -> str:
    why = _asked(request.network, f"the most is {most}")
    return f"{why}: {OPEN_NETWORK}" if spec.network == "open" else why


def reachable(spec: SandboxSpec) -> str:
    """What can be reached from a sandbox, in words."""
    if spec.network == "open":
        return "what this machine reaches"
    return ", ".join(f"{each.host} {each.port}" for each in spec.egress) or "nothing"


def _why_reachable(policy: Policy, spec: SandboxSpec) -> str:
    if spec.network == "open":
        return f"network open {policy.rule('sandbox.network')}, whatever egress lists"
    rule = policy.rule("sandbox.egress")
    if spec.upstream_proxy:
        return f"the policy's egress {rule}, through {spec.upstream_proxy}, which resolves the names"
    if policy.sandbox.egress and not spec.egress:
        return f"network {spec.network} has no way out, whatever egress lists {rule}"
    return f"the policy's egress {rule}"


def _asked(asked: object, ceiling: str) -> str:
    return "the policy's" if asked is None else f"asked for; {ceiling}"


def _most(ceiling: str) -> str:
    return f"the most is {ceiling}"
