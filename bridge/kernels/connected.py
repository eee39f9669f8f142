"""The kernels that are connected: what is known of each, and which of them a call means.

The one rule: a call means exactly one of them, or is told which there are. Nothing is asked of a kernel here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bridge.audit import Action, Audit
from bridge.errors import AmbiguousKernel, NoSuchKernel, UsageError
from bridge.kernels.listing import Status
from bridge.launchers import End
from bridge.looking.names import Names
from bridge.moments import Moment
from bridge.session import KernelSession


@dataclass
class Connected:
    """One kernel, whichever process it is by now; what is done with it is told in the audit."""

    name: str
    path: Path
    session: KernelSession
    kernel: str
    sandbox: str | None
    """Its name as a sandbox, for the launcher; None for a kernel that is known by its file only."""
    supervised: bool
    """It is started again after every end: a sandbox of the launcher's, or one that is reached by its file."""
    audit: Audit
    epoch: int = 1
    opened: Moment = field(default_factory=Moment)
    """When its session was."""
    notices: list[str] = field(default_factory=list)
    """What the next result must say first; kept until one does."""
    reopening: asyncio.Lock = field(default_factory=asyncio.Lock)
    processes: dict[str, int] = field(default_factory=dict)
    """The epoch of each process that it was, by the process's own id."""
    names: Names | None = None
    """As they were at the last look, in the process that it is now."""
    end: End | None = None
    """Of a sandbox that ends while it is connected; None once that was said."""

    def status(self) -> Status:
        """Return what is known of it now, without asking it."""
        seen = self.session.state()
        return Status(
            name=self.name,
            kind="sandbox" if self.supervised else "host",
            state=seen.state,
            running=seen.running,
            epoch=self.epoch,
            language=self.session.banner,
            connection_file=str(self.path),
            reason=self.session.reason or None,
        )

    def about(self) -> dict[str, Any]:
        """Return how the audit names it."""
        return about(self.name, self.path, supervised=self.supervised, process=self.session.kernel)

    def act(self, event: str, **told: Any) -> AbstractContextManager[Action]:
        """Tell the audit what is done with it in a block: see `Audit.action`."""
        return self.audit.action(event, kernel=self.about(), **told)

    def take_notices(self) -> tuple[str, ...]:
        """Return what must be said first; whoever takes it says it."""
        if self.end and (near := self.end.near(self.end.foreseen.now())):
            self.notices.append(f"Sandbox {self.name} {near}. All its variables are lost then; save what is needed.")
            self.end = None
        taken, self.notices = tuple(self.notices), []
        return taken


class ConnectedKernels(Mapping[str, Connected]):
    """All of one bridge's, by name.

    `must_name`: none is ever meant without being named. `homeless` tells, with a space before it, why the one is not
    here that should be without being asked for. `on_change` is called when one was added or removed.
    """

    def __init__(self, *, must_name: bool, homeless: Callable[[], str], on_change: Callable[[], None]) -> None:
        self._must_name = must_name
        self._homeless = homeless
        self._on_change = on_change
        self._by_name: dict[str, Connected] = {}

    def __getitem__(self, name: str) -> Connected:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def one(self, name: str | None) -> Connected:
        """Return the one that is meant; raises `NoSuchKernel`, `AmbiguousKernel`."""
        if name is not None:
            if name in self:
                return self[name]
            known = ", ".join(self) or "none"
            raise NoSuchKernel(
                f"{name!r} is not connected; connected are: {known}. connect_to_kernel connects to it."
                f"{self._homeless()}"
            )
        if not self:
            raise NoSuchKernel(
                "No kernel is connected: connect_to_kernel joins a running one, start_sandbox starts one."
                f"{self._homeless()}"
            )
        if self._must_name:
            raise AmbiguousKernel(
                f"Several clients share this server, so name the kernel as `kernel`: {', '.join(self)}."
            )
        if len(self) == 1:
            return next(iter(self.values()))
        raise AmbiguousKernel(f"Several kernels are connected, so name one as `kernel`: {', '.join(self)}.")

    def only(self) -> dict[str, Any] | None:
        """Return how the audit names the one that is meant where none is named; None where that is none."""
        with contextlib.suppress(UsageError):
            return self.one(None).about()
        return None

    def at(self, path: Path) -> Connected | None:
        """Return the one with that connection file."""
        return next((each for each in self.values() if each.path == path), None)

    def of_sandbox(self, sandbox: str) -> list[Connected]:
        """Return those that are that sandbox of the launcher's."""
        return [each for each in self.values() if each.sandbox == sandbox]

    def has(self, connected: Connected) -> bool:
        """Tell whether it is still connected: another one may have taken its name."""
        return self.get(connected.name) is connected

    def add(self, connected: Connected) -> None:
        """Take one in, under a name that is free."""
        self._by_name[connected.name] = connected
        self._on_change()

    def remove(self, connected: Connected) -> None:
        """Forget one, if it is still here."""
        if self.has(connected):
            del self._by_name[connected.name]
            self._on_change()

    def take_all(self) -> list[Connected]:
        """Forget all of them, untold, and return them."""
        taken = list(self.values())
        self._by_name.clear()
        return taken


def about(name: str, path: Path, *, supervised: bool, process: str | None = None) -> dict[str, Any]:
    """Return how the audit names a kernel, also one that is not connected."""
    return {"name": name, "kind": "sandbox" if supervised else "host", "file": path, "process": process}


def free_name(name: str, taken: Container[str]) -> str:
    """Return the name, or the first with a number behind it that is not taken."""
    if name not in taken:
        return name
    return next(each for number in range(2, 10_000) if (each := f"{name}-{number}") not in taken)
