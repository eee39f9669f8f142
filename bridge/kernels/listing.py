"""What the bridge tells of kernels: frozen values that cost nothing to import.

The one rule: no key and nothing else secret is ever in one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bridge.outputs import Result

Kind = Literal["host", "sandbox"]


@dataclass(frozen=True)
class Listing:
    """One kernel that the bridge can see."""

    name: str
    kind: Kind
    state: str
    """`alive`, `not answering: …`, `ended: …`, `unreachable: …` or `paused: …`."""
    connection_file: str
    connected: bool
    notebook: str | None = None
    image: str | None = None
    network: str | None = None
    workspace: str | None = None
    ends: str | None = None
    """Of a sandbox that is near its end by a limit: `ends in about 8 min: …`."""
    remark: str | None = None
    """What was done to it that its user should know of."""


@dataclass(frozen=True)
class Status:
    """One connected kernel."""

    name: str
    kind: Kind
    state: Literal["idle", "busy", "unknown", "lost"]
    """`unknown` until the kernel has answered in turn once: then it was busy when it was connected to."""
    running: tuple[str, ...]
    """What runs in it, each as a phrase: whose, what, since when."""
    epoch: int
    """1 for the process that was connected to first, one more for each that took its place."""
    language: str
    connection_file: str
    reason: str | None = None
    """Once `lost`: what happened, in one sentence; the next call connects anew where that can be."""


@dataclass(frozen=True)
class Outcome:
    """What an action on a kernel came to."""

    kernel: str
    notices: tuple[str, ...] = ()
    """What must be said before anything else: about the variables and the connection."""
    result: Result | None = None
