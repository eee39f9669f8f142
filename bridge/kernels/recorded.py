"""What keeps the audit whole: a launcher whose acts are in it, and what has a call's refusal in it.

The one rule: nothing that reaches a sandbox through its launcher goes past the audit, whoever asks for it. Looking
needs no line; a sandbox that has ended by itself is swept without one.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from bridge.audit import Audit
from bridge.errors import BridgeError
from bridge.launchers import Launcher, Sandbox
from bridge.policy import SandboxRequest, SandboxSpec

if TYPE_CHECKING:
    from bridge.kernels.registry import Kernels

P = ParamSpec("P")
R = TypeVar("R")
Method = Callable[P, Coroutine[Any, Any, R]]


def recorded(launcher: Launcher, audit: Audit) -> Launcher:
    """Return a launcher that tells the audit what it does; the same one where there is none."""
    return cast("Launcher", _Recorded(launcher, audit)) if audit.is_on else launcher


class _Recorded:
    """Everything that is not here only looks or brings back, and goes to the launcher itself."""

    def __init__(self, launcher: Launcher, audit: Audit) -> None:
        self._launcher, self._audit = launcher, audit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._launcher, name)

    async def start(self, spec: SandboxSpec) -> Sandbox:
        workspace = spec.workspace and {"path": spec.workspace.path, "mode": spec.workspace.mode}
        with self._audit.action(
            "start",
            kernel=_sandbox(spec.name),
            image=spec.image,
            network=spec.network,
            workspace=workspace,
            memory=spec.limits.memory,
            cpus=spec.limits.cpus,
            environment=[name for name, _ in spec.environment] or None,
            egress=[_pair(each.host, each.port) for each in spec.egress] or None,
            upstream_proxy=spec.upstream_proxy,
            certificates=True if spec.certificates else None,
            gpus=spec.gpus or None,
            runtime=spec.runtime,
            idle_timeout=spec.idle_timeout if spec.idle_timeout_of_agents is None else spec.idle_timeout_of_agents,
            max_lifetime=spec.max_lifetime,
        ) as action:
            sandbox = await self._launcher.start(spec)
            action.tell(image_id=sandbox.image_id, container=sandbox.container)
            return sandbox

    async def stop(self, name: str, *, only: str | None = None) -> bool:
        with self._audit.action("stop", ending=True, kernel=_sandbox(name)) as action:
            was_there = await self._launcher.stop(name, only=only)
            if not was_there:
                action.end("not there")
            return was_there

    async def restart_kernel(self, name: str) -> None:
        with self._audit.action("restart", kernel=_sandbox(name)):
            await self._launcher.restart_kernel(name)

    async def interrupt_kernel(self, name: str) -> None:
        with self._audit.action("interrupt", ending=True, kernel=_sandbox(name)):
            await self._launcher.interrupt_kernel(name)


def refusals_of(event: str) -> Callable[[Method[P, R]], Method[P, R]]:
    """Have what keeps a method of `Kernels` from doing anything told in the audit, with what was asked for."""

    def decorate(method: Method[P, R]) -> Method[P, R]:
        asked_by = inspect.signature(method)

        @functools.wraps(method)
        async def told(*args: P.args, **kwargs: P.kwargs) -> R:
            asked = asked_by.bind(*args, **kwargs).arguments
            kernels: Kernels = asked["self"]
            if not kernels.audit.is_on:
                return await method(*args, **kwargs)
            # now: a kernel that turns out to be gone has no name any more
            only = kernels.the_only_one() if "name" in asked_by.parameters and not asked.get("name") else None
            try:
                return await method(*args, **kwargs)
            except BridgeError as error:
                kernels.audit.refused(event, error, **{"kernel": only} | _asked(kernels.audit, asked))
                raise

        return told

    return decorate


def _asked(audit: Audit, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return what was asked for, without what is never told: an answer's text, a variable's value."""
    request = arguments.get("request")
    if isinstance(request, SandboxRequest):
        workspace = request.workspace and {"path": request.workspace, "mode": request.workspace_mode}
        return {
            "kernel": _sandbox(request.name),
            "image": request.image,
            "network": request.network,
            "workspace": workspace,
            "memory": request.memory,
            "cpus": request.cpus,
            "environment": list(request.environment) or None,
        }
    which = arguments.get("name") or arguments.get("which")
    code = arguments.get("code") or arguments.get("of")
    return {
        **({"kernel": {"name": which}} if which else {}),
        "execution": arguments.get("execution"),
        "path": arguments.get("path"),
        **(audit.code(code) if code else {}),
    }


def _pair(host: str, port: int) -> str:
    """Return what may be reached as `status` tells it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _sandbox(name: str) -> dict[str, Any]:
    return {"name": name or None, "kind": "sandbox"}
