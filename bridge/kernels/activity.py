"""What the bridge tells of the others' work in a kernel: frozen values that cost nothing to import.

The one rule: what is not known is said to be so, and what is left out is counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from pydantic import Field


@dataclass(frozen=True)
class OthersCell:
    """A cell that was not run by you."""

    cell: Annotated[int, Field(description="This server's own number of it.")]
    count: Annotated[int | None, Field(description="The kernel's `In [n]`, which the user sees; null: none is known.")]
    username: str
    session: Annotated[str, Field(description="Differs between two clients of one user.")]
    client: Annotated[str, Field(description="The program, if known.")]
    epoch: int
    began: datetime
    seconds: float
    code: Annotated[str | None, Field(description="null: began before the bridge watched.")]
    outcome: str
    output: str


@dataclass(frozen=True)
class Activity:
    """What the others do and did in one kernel."""

    kernel: str
    watched_since: datetime
    """Without a break; of what ran before only that is known which an earlier connection saw."""
    busy_with: tuple[str, ...]
    """All that keeps the kernel busy, each as a phrase: ours too, and requests that are no cells."""
    running: tuple[OthersCell, ...]
    cells: tuple[OthersCell, ...]
    """Those that have ended, the oldest first."""
    left_out: int
    """How many more have ended: after these where a time was asked for, else before them."""
    cursor: str
    """The `since` that goes on after these."""
    names: dict[str, tuple[str, ...]] | None
    """Those `bound`, `rebound` and `deleted` since the last look, by anyone; None where there is nothing to compare."""
    notes: tuple[str, ...]
