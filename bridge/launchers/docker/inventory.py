"""What is there: the engine's containers, volumes and networks of ours, read from their labels.

The one rule: a listing is the only source of ids and names that are acted upon, and it holds only what carries our own
owner label; of others' sandboxes it knows no more than which connection files and socket directories they use.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread

from bridge.launchers.docker import composed, owner, underway
from bridge.launchers.docker.engine import Engine, together
from bridge.locks import is_locked

ENDED = frozenset(("exited", "dead"))
_START, _UID = re.compile(r"[0-9a-f]{16}"), re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True)
class Container:
    """One container of a bridge, as the engine lists it."""

    id: str
    state: str
    """The engine's word: created, running, paused, restarting, removing, exited, dead."""
    created: float
    """Seconds since the epoch, by the engine's clock."""
    labels: Mapping[str, str]
    ports: tuple[int, ...] = ()
    """Published on the host, in the order of those inside."""
    under_way: bool = False
    """Its start goes on, in this process or another: it is no sandbox yet."""
    cut_short: bool = False
    """Its start was cut short: nobody goes on with it."""

    @property
    def name(self) -> str:
        """The sandbox's name."""
        return self.labels.get(owner.NAME, "")

    @property
    def role(self) -> str:
        """`kernel` or `gateway`."""
        return self.labels.get(owner.ROLE, "")

    @property
    def start(self) -> str:
        """Which start made it."""
        return self.labels.get(owner.START, "")

    @property
    def connection_file(self) -> Path:
        """Its connection file on the host."""
        if self.is_composed:
            return composed.connection_file(self.labels, self.name)
        return Path(self.labels.get(owner.CONNECTION_FILE, ""))

    @property
    def has_file(self) -> bool:
        """Whether its connection file is known, and which start it is of.

        Anybody who may ask the engine can make containers with our labels.
        """
        file = self.connection_file
        return bool(file.name and "\0" not in str(file) and _START.fullmatch(self.start))

    @property
    def is_composed(self) -> bool:
        """Whether docker compose started it."""
        return composed.is_composed(self.labels)

    @property
    def socket_directory(self) -> Path | None:
        """Its directory on the host, with network none."""
        text = self.labels.get(owner.SOCKETS, "")
        return Path(text) if text else None

    @property
    def written_workspace(self) -> Path | None:
        """The host directory that it was given to write to."""
        return Path(self.labels[owner.WORKSPACE]) if self.labels.get(owner.WORKSPACE_MODE) == "rw" else None

    @property
    def uid(self) -> int:
        """Whom it runs as."""
        written = self.labels.get(owner.UID, "")
        return int(written) if _UID.fullmatch(written) else 0

    @property
    def ended(self) -> bool:
        """Whether it ran and does not any more."""
        return self.state in ENDED

    def is_young(self, now: float) -> bool:
        """Whether who made it may still be at it; `now` is the engine's `clock`, which made the other time too."""
        return abs(now - self.created) <= underway.YOUNG


@dataclass(frozen=True)
class Volume:
    """One volume of ours."""

    name: str
    sandbox: str
    start: str


@dataclass(frozen=True)
class Network:
    """One network of ours, of a kernel with network open."""

    id: str
    sandbox: str
    start: str


@dataclass(frozen=True)
class Inventory:
    """All that one owner has in the engine."""

    containers: tuple[Container, ...]
    volumes: tuple[Volume, ...]
    networks: tuple[Network, ...]
    composed: tuple[Container, ...]
    """Of this owner's docker compose projects; only compose starts and ends them."""
    others: tuple[Container, ...]
    """Of other owners on the same engine; never touched."""

    def kernels(self) -> list[Container]:
        """The sandboxes, each by its kernel's container."""
        return [each for each in self.containers if each.role == "kernel"]

    def kernel(self, name: str) -> Container | None:
        """The sandbox of that name."""
        return next((each for each in self.kernels() if each.name == name), None)

    def all_kernels(self) -> list[Container]:
        """The sandboxes, and compose projects' kernels."""
        return [*self.kernels(), *(each for each in self.composed if each.role == "kernel")]

    def gateway(self, kernel: Container) -> Container | None:
        """The gateway that the same start made."""
        those = self.composed if kernel.is_composed else self.containers
        return next((each for each in those if each.role == "gateway" and each.start == kernel.start), None)

    def running(self) -> list[Container]:
        """The sandboxes that count against `max_running`, those that are just being started included."""
        return [each for each in self.kernels() if not each.ended and not each.cut_short]

    def of(self, name: str) -> Inventory:
        """Everything of one sandbox's name, whichever start made it."""
        return replace(
            self,
            containers=tuple(each for each in self.containers if each.name == name),
            volumes=tuple(each for each in self.volumes if each.sandbox == name),
            networks=tuple(each for each in self.networks if each.sandbox == name),
        )

    def of_start(self, start: str) -> Inventory:
        """Everything that one start made."""
        return replace(
            self,
            containers=tuple(each for each in self.containers if each.start == start),
            volumes=tuple(each for each in self.volumes if each.start == start),
            networks=tuple(each for each in self.networks if each.start == start),
        )

    def leftovers(self) -> Inventory:
        """What has no kernel's container."""
        starts = {each.start for each in self.kernels()}
        return replace(
            self,
            containers=tuple(each for each in self.containers if each.start not in starts),
            volumes=tuple(each for each in self.volumes if each.start not in starts),
            networks=tuple(each for each in self.networks if each.start not in starts),
        )

    def without(self, start: str) -> Inventory:
        """Everything but what one start made."""
        return replace(
            self,
            containers=tuple(each for each in self.containers if each.start != start),
            volumes=tuple(each for each in self.volumes if each.start != start),
            networks=tuple(each for each in self.networks if each.start != start),
        )


async def look(engine: Engine, who: str, *, volumes: bool = True) -> Inventory:
    """List what there is. Without `volumes` two requests are saved, and neither they nor networks are in the answer."""
    ours = f"{owner.OWNER}={who}"
    calls = (partial(engine.volumes, ours), partial(engine.networks, ours)) if volumes else ()
    # A start makes its container before the rest. Listed after the rest it is there; before, the rest would seem left.
    beside = await together(*calls)
    there = read(who, await engine.containers(owner.OWNER), *beside)
    # A start's lock is there before its container. Looked for after the listing and not found, the start is over.
    kernels = there.kernels()
    held = await anyio.to_thread.run_sync(_held, kernels, abandon_on_cancel=True)
    if any(held[each.start] is None and each.state == "created" for each in kernels):
        now = clock(await engine.info())
    else:
        now = 0.0
    return judged(there, held, now)


def judged(there: Inventory, held: Mapping[str, bool | None], now: float) -> Inventory:
    """Say of each kernel's container whether its start goes on or was cut short.

    `held` tells of each start whether its lock is held, or None where there is none to be seen: as where the start is
    over, or another container's, whose files are its own. `now` is the engine's clock.
    """

    def judge(each: Container) -> Container:
        if each.role != "kernel":
            return each
        lock = held[each.start]
        old = each.state == "created" and not each.is_young(now)
        return replace(each, under_way=lock is True, cut_short=lock is False or (lock is None and old))

    return replace(there, containers=tuple(map(judge, there.containers)))


def read(
    who: str,
    containers: Iterable[Mapping[str, Any]],
    volumes: Iterable[Mapping[str, Any]] = (),
    networks: Iterable[Mapping[str, Any]] = (),
) -> Inventory:
    """Read the engine's listings (GET /containers/json, /volumes and /networks)."""
    read_containers = [
        Container(
            id=each["Id"],
            state=each.get("State") or "",
            created=float(each.get("Created") or 0),
            labels=each.get("Labels") or {},
            ports=_published(each.get("Ports") or ()),
        )
        for each in containers
    ]
    ours = tuple(each for each in read_containers if each.labels.get(owner.OWNER) == who)
    projects = tuple(each for each in read_containers if composed.is_ours(each.labels, each.connection_file))
    others = tuple(each for each in read_containers if each not in ours and each not in projects)
    volumes = [each for each in volumes if _labels(each).get(owner.OWNER) == who]
    networks = [each for each in networks if _labels(each).get(owner.OWNER) == who]
    return Inventory(
        ours,
        tuple(
            Volume(each["Name"], _labels(each).get(owner.NAME, ""), _labels(each).get(owner.START, ""))
            for each in volumes
        ),
        tuple(
            Network(each["Id"], _labels(each).get(owner.NAME, ""), _labels(each).get(owner.START, ""))
            for each in networks
        ),
        projects,
        others,
    )


def _published(ports: Iterable[Mapping[str, Any]]) -> tuple[int, ...]:
    published = {each["PrivatePort"]: int(each["PublicPort"]) for each in ports if each.get("PublicPort")}
    return tuple(published[each] for each in sorted(published))


def _held(kernels: Iterable[Container]) -> dict[str, bool | None]:
    return {
        each.start: is_locked(underway.path(each.connection_file, each.start)) if each.has_file else None
        for each in kernels
    }


def clock(info: Mapping[str, Any]) -> float:
    """Return what the engine's clock says (GET /info), in seconds: it may be in a virtual machine that was asleep."""
    try:
        return datetime.fromisoformat(str(info.get("SystemTime"))).timestamp()
    except ValueError:
        return time.time()


def _labels(listed: Mapping[str, Any]) -> Mapping[str, str]:
    return listed.get("Labels") or {}
