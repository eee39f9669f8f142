"""Launchers: how a sandbox kernel is started, found again and ended. A launcher knows no messages and no MCP.

The one rule: a launcher translates every field of the policy or refuses to start (`PolicyNotEnforceable`). Each one is
a module or package of its own and the only importer of its engine's library; `docker` is the first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, Protocol

from bridge.moments import Moment
from bridge.policy import SandboxSpec

State = Literal["running", "unreachable", "paused", "ended"]
COMPOSE_DIRECTORY = ".kernel-bridge"
"""In a docker compose project's own directory: the connection file of its kernel."""
Source = Literal["supervisor", "kernel", "gateway"]


@dataclass(frozen=True)
class End:
    """When a sandbox ends by itself, as far as that can be foreseen."""

    at: datetime
    notice: timedelta
    """How long before is near."""
    why: str
    foreseen: Moment = field(default_factory=Moment, compare=False)

    def near(self, now: datetime) -> str | None:
        """Tell of it, once it is near."""
        return self.told(now) if now >= self.at - self.notice else None

    def told(self, now: datetime) -> str:
        """Tell of it in one phrase."""
        seconds = max(0.0, (self.at - now).total_seconds())
        if seconds < 90:
            span = f"{seconds:.0f} s"
        else:
            span = f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"
        return f"ends in about {span}: {self.why}"


@dataclass(frozen=True)
class Sandbox:
    """One sandbox of this owner, as the engine knows it."""

    name: str
    state: State
    """`unreachable`: the kernel's container runs, but the gateway that publishes its ports does not."""
    image: str
    network: str
    connection_file: Path
    """On the host; there while the sandbox runs."""
    started_at: str
    """ISO 8601, UTC, from the engine."""
    workspace: str | None = None
    reaches: tuple[str, ...] = ()
    """The only hosts that it reaches, each with its port: `pypi.example.org:443`."""
    moved: bool = False
    """Its connection file does not lead to it: the engine has changed the ports, or the file is another's by now."""
    composed: bool = False
    """It belongs to a docker compose project: only compose starts and ends it."""
    image_id: str | None = None
    """What was started, whatever `image` means by now."""
    container: str | None = None
    """The engine's own id of the kernel's container."""
    ending: str | None = None
    """Once `ended`: one sentence about how, e.g. `killed: out of memory (2 GiB)`."""
    lasts: tuple[str, ...] = ()
    """By what it ends by itself, each as a phrase."""
    lifetime: End | None = None
    """Its end by age, where there is one."""
    unused: End | None = None
    """Its end as unused, where that is near."""
    over: str | None = None
    """Once `ended`: the policy's setting by which, `idle_timeout` or `max_lifetime`, if by one."""

    @property
    def end(self) -> End | None:
        """The nearer of the two."""
        return min((each for each in (self.lifetime, self.unused) if each), key=lambda each: each.at, default=None)


@dataclass(frozen=True)
class LogLine:
    """One line that a sandbox wrote: not what cells print, which goes to the kernel's clients."""

    time: str
    """ISO 8601, UTC, from the engine."""
    source: Source
    text: str


@dataclass(frozen=True)
class EngineFacts:
    """What an engine says of itself, as far as it decides which sandboxes can be started there."""

    address: str
    source: str
    """Where its address comes from: `named by …` an option, a variable or a context, or `found …`."""
    version: str
    api_version: str
    system: str
    maps_uids: str | None
    """`rootless` or `userns-remap`; None where a container's uids are the host's."""
    shares_sockets: bool
    """Whether Unix sockets in a directory of this host work in a container: what network none needs."""
    runtimes: tuple[str, ...]
    missing_limits: tuple[str, ...]
    """What it cannot limit, in words; no sandbox would start."""
    counts_sockets: bool
    """Whether what waits in a container's TCP and UDP sockets is in its memory."""
    warnings: tuple[str, ...]
    """The engine's own words."""
    clock_ahead: float
    """Seconds that its clock is ahead of this host's; negative where it is behind."""
    storage: Path
    free: int | None
    """Bytes where it keeps its images; None where that is on another machine, or not to be told."""


@dataclass(frozen=True)
class Leftovers:
    """What sandboxes of this owner have left behind, and the next sweep removes."""

    ended: tuple[str, ...]
    """Sandboxes that have ended."""
    objects: int
    """Gateways, volumes, networks and containers that belong to no sandbox."""
    directories: tuple[Path, ...]
    """Of sockets, on this host."""


class Launcher(Protocol):
    """Starts sandboxes, finds them again, ends them. Every method may raise `LaunchError`."""

    async def start(self, spec: SandboxSpec) -> Sandbox:
        """Start a sandbox and write its connection file; the kernel inside may still be starting.

        The name is claimed atomically (`NameTaken`). Everything is verified before the key is handed over. If a step
        fails or the call is cancelled, everything that was made is removed.
        """
        ...

    async def stop(self, name: str, *, only: str | None = None) -> bool:
        """End the sandbox and remove all that belongs to it; False where there is none of that name.

        With `only`, a `Sandbox.container`, another that has the name by now is left alone. Raises `NotOurs` for one
        that docker compose started.
        """
        ...

    async def sandboxes(self) -> list[Sandbox]:
        """Every sandbox of this owner, also those that have ended and were not removed yet."""
        ...

    async def sweep(self, *, leftovers: bool = True) -> list[Sandbox]:
        """Remove what has ended; returns the sandboxes that had.

        With `leftovers` also what belongs to none, among it connection files that lead nowhere: an engine that does not
        run just now may have the sandbox of one.
        """
        ...

    async def revive(self, name: str) -> None:
        """Bring back a lost gateway of a running kernel on exactly the ports it had."""
        ...

    async def restart_kernel(self, name: str) -> None:
        """End the kernel process; the supervisor starts another on the same ports with the same key."""
        ...

    async def interrupt_kernel(self, name: str) -> None:
        """Send the kernel process the interrupt signal, past its message channels."""
        ...

    async def restore_connection_file(self, name: str) -> None:
        """Write a running sandbox's connection file again, where it was lost or the engine has changed the ports."""
        ...

    async def until_ended(self, name: str) -> None:
        """Return when the sandbox has ended."""
        ...

    async def log(self, name: str) -> list[LogLine]:
        """Return what a sandbox wrote so far, also one that has ended, in the order of time."""
        ...

    async def follow_log(self, name: str, show: Callable[[LogLine], None]) -> None:
        """Show what a sandbox wrote so far and what it goes on to write, until it ends; `show` may be in any thread."""
        ...

    async def check(self) -> EngineFacts:
        """Ask the engine what it is and what it can do; nothing is changed."""
        ...

    async def check_image(self, reference: str) -> str:
        """Return the id of the image that would be started; raises where none could be. Nothing is changed."""
        ...

    async def check_leftovers(self) -> Leftovers:
        """Look what the next sweep would remove; nothing is changed."""
        ...

    def close(self) -> None:
        """Close the connections to the engine; sandboxes go on."""
        ...

    async def last_ending(self, name: str, since: datetime | None = None) -> str | None:
        """How the kernel process ended last, in one sentence; None where none has ended (after `since`)."""
        ...
