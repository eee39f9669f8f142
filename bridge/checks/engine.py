"""The container engine: is it there, can it do what a sandbox needs, and what has been left in it.

The one rule: the launcher looks, this only judges; without an engine there is one finding, not one for each thing that
could not be asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import anyio

from bridge.checks import Finding, size
from bridge.errors import ImageNotFound, LaunchError
from bridge.launchers import EngineFacts, Launcher
from bridge.launchers.docker.capabilities import FOUND_BY_NAME
from bridge.policy import SandboxSpec

LITTLE_STORAGE = 2**30
"""Bytes. The image has a fifth of that; building it needs twice its size."""
CLOCK_TOLERANCE = 2.0
"""Seconds. An ending is looked for since a time of ours, and what is young is not swept."""
NO_ENGINE = (
    "start the engine, or name its socket: export KERNEL_BRIDGE_DOCKER_HOST=unix:///path/to/docker.sock    (until then "
    "only attaching to kernels on the host works)"
)


def engine(make_launcher: Callable[[], Launcher], spec: SandboxSpec | None) -> Iterator[Finding]:
    """Look at the engine and, where it answers, at all that is in it; `spec` is what a plain `up` would start."""
    launcher = make_launcher()
    try:
        facts = anyio.run(launcher.check)
    except LaunchError as error:
        yield Finding("engine", "fail", str(error), NO_ENGINE)
        return
    yield from judged(facts, spec)
    if spec is not None:
        yield from _image(launcher, spec)
    yield from _leftovers(launcher)


def judged(facts: EngineFacts, spec: SandboxSpec | None) -> Iterator[Finding]:
    """Tell what an engine's own words mean for sandboxes."""
    about = ", ".join(filter(None, (f"API {facts.api_version}", facts.system, facts.maps_uids)))
    yield Finding(
        "engine",
        "ok",
        f"{facts.version} at {facts.address}, {facts.source} ({about})",
    )
    if facts.missing_limits:
        yield Finding(
            "limits",
            "fail",
            f"the engine cannot limit {', '.join(facts.missing_limits)}, and nothing starts without its limits",
            "swap: boot with swapaccount=1; a rootless engine: cgroup v2, with cpu, memory and pids delegated to you",
        )
    elif not facts.counts_sockets:
        yield Finding(
            "limits",
            "warn",
            "memory, swap, pids and cpus are enforced, but with cgroup v1 what waits in TCP and UDP sockets is not in "
            "the memory: a sandbox can hold more than its policy says",
            "boot the engine's machine with cgroup v2: systemd.unified_cgroup_hierarchy=1",
        )
    else:
        yield Finding("limits", "ok", "memory, swap, pids and cpus are enforced")
    if facts.warnings:
        yield Finding("engine warns", "warn", "; ".join(facts.warnings), "docker info    (its last lines)")
    if facts.free is None:
        yield Finding("image storage", "ok", f"{facts.storage}, on a machine that cannot be looked at from here")
    else:
        text = f"{size(facts.free)} free where {facts.storage} is"
        little = facts.free < LITTLE_STORAGE
        cure = "docker system df    (shows what may be removed)" if little else None
        yield Finding("image storage", "warn" if little else "ok", text, cure)
    if abs(facts.clock_ahead) > CLOCK_TOLERANCE:
        where = "ahead of" if facts.clock_ahead > 0 else "behind"
        yield Finding(
            "clock",
            "warn",
            f"the engine's is {abs(facts.clock_ahead):.0f} s {where} this host's, so ages and endings are told wrongly",
            "set both by NTP; Docker Desktop and WSL: restart the virtual machine",
        )
    else:
        yield Finding("clock", "ok", "the engine's and this host's agree")
    if spec is not None:
        yield from _unable(facts, spec)


def _unable(facts: EngineFacts, spec: SandboxSpec) -> Iterator[Finding]:
    """Tell what of the policy this engine cannot do, or does not tell of; nothing where it can do all."""
    if spec.runtime and spec.runtime.startswith(FOUND_BY_NAME) and spec.runtime not in facts.runtimes:
        yield Finding(
            "runtime",
            "warn",
            f"the policy's runtime {spec.runtime} is found by its name; an engine tells only at a start if it is not",
            "kernel-bridge up    (refused with the engine's words where it is not there)",
        )
    elif spec.runtime and spec.runtime not in facts.runtimes:
        yield Finding(
            "runtime",
            "fail",
            f"the policy's runtime {spec.runtime} is not known to the engine, which has {', '.join(facts.runtimes)}",
            "configure it in the engine, or change sandbox.runtime in the policy",
        )
    if spec.gpus:
        yield Finding(
            "gpus",
            "warn",
            f"the policy gives every sandbox {spec.gpus} of them, and an engine tells only at a start if it has none",
            "kernel-bridge up    (refused with the engine's words where it has none)",
        )
    if spec.network == "none" and not facts.shares_sockets:
        yield Finding(
            "network",
            "fail",
            "the policy's network none needs Unix sockets shared with the engine, which this one cannot do",
            "write network: isolated in the policy; a kernel has no network device there either",
        )


def _image(launcher: Launcher, spec: SandboxSpec) -> Iterator[Finding]:
    short = spec.image.removeprefix("docker.io/").removeprefix("library/")
    ours = short.startswith("kernel-bridge/")
    try:
        number = anyio.run(partial(launcher.check_image, spec.image))
    except ImageNotFound:
        cure = "kernel-bridge image build" if ours else f"docker pull {short}"
        yield Finding("image", "fail", f"the engine has no image {short}, and a start never pulls or builds", cure)
    except LaunchError as error:
        cure = "kernel-bridge image build" if ours else "change sandbox.default_image in the policy"
        yield Finding("image", "fail", str(error), cure)
    else:
        yield Finding("image", "ok", f"{short} is there ({number.removeprefix('sha256:')[:12]})")


def _leftovers(launcher: Launcher) -> Iterator[Finding]:
    try:
        left = anyio.run(launcher.check_leftovers)
    except LaunchError as error:
        yield Finding("leftovers", "warn", str(error), "kernel-bridge ls")
        return
    parts = [
        f"sandboxes that have ended ({', '.join(left.ended)})" if left.ended else "",
        f"{left.objects} containers, volumes and networks without a sandbox" if left.objects else "",
        f"{len(left.directories)} socket directories" if left.directories else "",
    ]
    told = ", ".join(each for each in parts if each)
    yield Finding("leftovers", "warn" if told else "ok", told or "none", "kernel-bridge gc" if told else None)
