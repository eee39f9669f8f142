"""What ended bridges knew of a kernel, taken over by the one that connects to it now.

The one rule: of an ended bridge's journal nothing is changed but the mark that somebody follows its running cell on, so
that of two heirs only one does. What cannot be read is passed over: the kernel is there all the same.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from bridge.journal import Cell, Journal, Record
from bridge.journals import UNREADABLE, Journals, Missing, Seen
from bridge.outputs import Output

# Of what others ran: as much as one answer tells of.
OTHERS = 50
# Outputs of each, which are told in short.
OUTPUTS = 100


@dataclass(frozen=True)
class Unended:
    """A cell of an ended bridge that may still run."""

    cell: Cell
    seen: Seen

    def claim(self) -> bool:
        """Take it over; False where somebody else has, or where that cannot be written down."""
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(self.seen.file)) as database:
            now = datetime.now(UTC).timestamp()
            with database:
                changed = database.execute(
                    "UPDATE cells SET status = 'lost', ended = ? WHERE id = ? AND ended IS NULL", [now, self.cell.id]
                )
                return changed.rowcount == 1
        return False

    def outputs(self) -> Iterator[Output]:
        """Yield what it had put out while its bridge lived."""
        return _kept(self.seen, self.cell)


class Heritage:
    """What ended bridges have left of the kernel whose connection file has this fingerprint, in a directory."""

    def __init__(self, directory: Path, fingerprint: str) -> None:
        # the oldest first
        self._seen = [each for each in Journals(directory).readable if not each.is_living and _knows(each, fingerprint)]
        self._opened: list[Journal] = []

    def close(self) -> None:
        """Read no more of what `executions` has returned."""
        for each in self._opened:
            each.close()

    def executions(self, process: str, username: str) -> dict[int, Record]:
        """Return the ended cells that bridges ran in a process in the name of an agent, by their numbers."""
        found: dict[int, Record] = {}
        for seen in self._seen:
            with contextlib.suppress(*UNREADABLE):
                numbered = {
                    each.number: each.id
                    for each in seen.cells(process)
                    if each.number and each.ended and each.username == username
                }
                if numbered:
                    self._opened.append(Journal.of_ended(seen.file))
                    found |= {number: Record(self._opened[-1], cell) for number, cell in numbered.items()}
        return found

    def unended(self, username: str) -> Unended | None:
        """Return the newest cell that a bridge ran in the name of an agent and of which nobody knows the end."""
        for seen in reversed(self._seen):
            with contextlib.suppress(*UNREADABLE):
                for process, *_ in seen.processes:
                    for cell in reversed(seen.cells(process)):
                        if cell.username == username and cell.number and not cell.ended:
                            return Unended(cell, seen)
        return None

    def give_others(self, journal: Journal, name: str, process: str, username: str) -> None:
        """Copy the newest cells of others in a process, where that is not this agent, into a journal."""
        found: dict[str, tuple[Seen, Cell]] = {}
        for seen in self._seen:
            with contextlib.suppress(*UNREADABLE):
                for cell in seen.cells(process):
                    if cell.ended and not (cell.number and cell.username == username):
                        found[cell.msg_id] = (seen, cell)
        for seen, cell in sorted(found.values(), key=_ended)[-OTHERS:]:
            journal.copy(cell, name, islice(_kept(seen, cell), OUTPUTS))


def _knows(seen: Seen, fingerprint: str) -> bool:
    return any(known == fingerprint for _, _, known, *_ in seen.processes)


def _kept(seen: Seen, cell: Cell) -> Iterator[Output]:
    return (each for each in seen.outputs(cell) if not isinstance(each, Missing))


def _ended(found: tuple[Seen, Cell]) -> datetime:
    return found[1].ended or found[1].began
