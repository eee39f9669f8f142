"""What is there: the engine's containers and volumes of ours, read from their labels.

The one rule: a listing is the only source of ids and names that are acted upon, and it holds only what carries our own
owner label; of others' sandboxes it knows no more than which connection files and socket directories they use.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bridge.launchers.docker import owner
from bridge.launchers.docker.engine import Engine, together
from bridge.launchers.docker.places import YOUNG

ENDED = frozenset(("exited", "dead"))


@dataclass(frozen=True)
class Container:
    """One container of a bridge, as the engine lists it."""

    id: str
    state: str
    """The engine's word: created, running, paused, restarting, removing, exited, dead."""
    created: float
    labels: Mapping[str, str]

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
        return Path(self.labels.get(owner.CONNECTION_FILE, ""))

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
        return int(self.labels.get(owner.UID) or 0)

    @property
    def ended(self) -> bool:
        """Whether it ran and does not any more."""
        return self.state in ENDED

    @property
    def abandoned(self) -> bool:
        """Whether it was created so long ago that nobody is about to start it any more."""
        return self.state == "created" and time.time() - self.created > YOUNG


@dataclass(frozen=True)
class Volume:
    """One volume of ours."""

    name: str
    sandbox: str
    start: str


@dataclass(frozen=True)
class Inventory:
    """All that one owner has in the engine."""

    containers: tuple[Container, ...]
    volumes: tuple[Volume, ...]
    others: tuple[Container, ...]
    """Of other owners on the same engine; never touched."""

    def kernels(self) -> list[Container]:
        """The sandboxes, each by its kernel's container."""
        return [each for each in self.containers if each.role == "kernel"]

    def kernel(self, name: str) -> Container | None:
        """The sandbox of that name."""
        return next((each for each in self.kernels() if each.name == name), None)

    def gateway(self, kernel: Container) -> Container | None:
        """The gateway that the same start made."""
        return next((each for each in self.containers if each.role == "gateway" and each.start == kernel.start), None)

    def running(self) -> list[Container]:
        """The sandboxes that count against `max_running`, those that are just being started included."""
        return [each for each in self.kernels() if not each.ended and not each.abandoned]

    def of(self, name: str) -> Inventory:
        """Everything of one sandbox's name, whichever start made it."""
        return Inventory(
            tuple(each for each in self.containers if each.name == name),
            tuple(each for each in self.volumes if each.sandbox == name),
            self.others,
        )

    def of_start(self, start: str) -> Inventory:
        """Everything that one start made."""
        return Inventory(
            tuple(each for each in self.containers if each.start == start),
            tuple(each for each in self.volumes if each.start == start),
            self.others,
        )

    def leftovers(self) -> Inventory:
        """What belongs to no sandbox: starts that were cut short, gateways and volumes without a kernel's container."""
        starts = {each.start for each in self.kernels() if not each.abandoned}
        return Inventory(
            tuple(each for each in self.containers if each.start not in starts),
            tuple(each for each in self.volumes if each.start not in starts),
            self.others,
        )

    def without(self, start: str) -> Inventory:
        """Everything but what one start made."""
        return Inventory(
            tuple(each for each in self.containers if each.start != start),
            tuple(each for each in self.volumes if each.start != start),
            self.others,
        )


async def look(engine: Engine, who: str, *, volumes: bool = True) -> Inventory:
    """List what there is. Without `volumes` one request is saved, and none are in the answer."""
    calls = [partial(engine.containers, owner.OWNER)]
    if volumes:
        calls.append(partial(engine.volumes, f"{owner.OWNER}={who}"))
    containers, *more = await together(*calls)
    return read(who, containers, more[0] if more else [])


def read(who: str, containers: Iterable[Mapping[str, Any]], volumes: Iterable[Mapping[str, Any]]) -> Inventory:
    """Read the engine's listings (GET /containers/json and /volumes)."""
    read_containers = [
        Container(
            id=each["Id"],
            state=each.get("State") or "",
            created=float(each.get("Created") or 0),
            labels=each.get("Labels") or {},
        )
        for each in containers
    ]
    ours = tuple(each for each in read_containers if each.labels.get(owner.OWNER) == who)
    others = tuple(each for each in read_containers if each.labels.get(owner.OWNER) != who)
    labelled = [(each["Name"], each.get("Labels") or {}) for each in volumes]
    return Inventory(
        ours,
        tuple(
            Volume(name, labels.get(owner.NAME, ""), labels.get(owner.START, ""))
            for name, labels in labelled
            if labels.get(owner.OWNER) == who
        ),
        others,
    )
