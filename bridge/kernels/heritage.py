"""What ended bridges knew of a kernel, copied by the one that connects to it now into its own journal.

The one rule: of an ended bridge's journal nothing is changed but the mark that somebody follows its running cell on, so
that of two heirs only one does. What cannot be read is passed over: the kernel is there all the same.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from bridge.execution import Execution
from bridge.journal import Cell, Journal, Record
from bridge.journals import UNREADABLE, Journals, Missing, Seen
from bridge.outputs import Output, Stream

# Bridges that are looked at: to connect takes milliseconds.
NEWEST = 100
# Of what others ran as much as one answer tells of; of our own, more than a model remembers the numbers of.
OTHERS, OWN = 50, 200
# Bytes of output in all, the newest: copied in a tenth of a second.
ROOM = 16 * 2**20


@dataclass(frozen=True)
class Unended:
    """A cell of an ended bridge that may still run."""

    cell: Cell
    seen: Seen

    def claim(self) -> bool:
        """Take it over; False where somebody else has, or where that cannot be written down."""
        now = datetime.now(UTC).timestamp()
        return self._mark("UPDATE cells SET status = 'lost', ended = ? WHERE id = ? AND ended IS NULL", now)

    def release(self) -> None:
        """Leave it to somebody else."""
        self._mark("UPDATE cells SET status = NULL, ended = ? WHERE id = ?", None)

    def _mark(self, statement: str, ended: float | None) -> bool:
        try:
            with contextlib.closing(sqlite3.connect(self.seen.file, isolation_level=None)) as database:
                return database.execute(statement, [ended, self.cell.id]).rowcount == 1
        except sqlite3.Error:
            return False

    def handed_over(self, journal: Journal, name: str) -> tuple[Execution, Record]:
        """Copy it, with what it had put out while its bridge lived, under the name that its kernel has here."""
        cell, gaps = replace(self.cell, name=name), list[int]()
        outputs = list(_bounded(_kept(self.seen, self.cell, gaps), gaps))
        record = journal.copy(cell, outputs)
        record.miss(sum(gaps))
        execution = Execution(cell.number or 0, cell.msg_id, cell.code, record=record)
        execution.resume(cell.count, outputs)
        return execution, record


class Heritage:
    """What ended bridges' journals, the oldest first, have of the kernel whose connection file has a fingerprint."""

    def __init__(self, seen: Sequence[Seen] = (), fingerprint: str = "") -> None:
        self._seen = seen
        self._fingerprint = fingerprint

    @contextlib.contextmanager
    def claimed(self, username: str) -> Iterator[Unended | None]:
        """Claim what `unended` returns, for good where the block does not fail; None where that is not to be had."""
        found = self.unended(username)
        if found is None or not found.claim():
            yield None
            return
        try:
            yield found
        except BaseException:
            found.release()
            raise

    def unended(self, username: str) -> Unended | None:
        """Return the newest cell that a bridge ran in the name of an agent and of which nobody knows the end."""
        for seen in reversed(self._seen):
            with contextlib.suppress(*UNREADABLE):
                processes = {process for process, _, known, *_ in seen.processes if known == self._fingerprint}
                cells = [cell for process in processes for cell in seen.cells(process)]
                for cell in sorted(cells, key=lambda each: each.began, reverse=True):
                    if cell.username == username and cell.number and not cell.ended:
                        return Unended(cell, seen)
        return None

    def give(self, journal: Journal, name: str, process: str, username: str) -> dict[int, Record]:
        """Copy what was run in a process under the name that the kernel has here.

        Returns the records of what ran in the name of this agent, by their numbers.
        """
        own, others = dict[int, tuple[Seen, Cell]](), dict[str, tuple[Seen, Cell]]()
        for seen in self._seen:
            with contextlib.suppress(*UNREADABLE):
                for cell in filter(lambda each: each.ended, seen.cells(process)):
                    if cell.number and cell.username == username:
                        own[cell.number] = (seen, replace(cell, name=name))
                    else:
                        others[cell.msg_id] = (seen, replace(cell, name=name, number=None))
        chosen = [*sorted(own.values(), key=_began)[-OWN:], *sorted(others.values(), key=_began)[-OTHERS:]]
        records = dict[int, Record]()
        for cell, outputs, gaps in _within(sorted(chosen, key=_began)):
            record = journal.copy(cell, outputs)
            record.miss(sum(gaps))
            if cell.number:
                records[cell.number] = record
        return records


def _within(chosen: list[tuple[Seen, Cell]]) -> Iterator[tuple[Cell, Iterator[Output], list[int]]]:
    """Yield each with its output, of which the newest has room, and what turns out to be missing, in bytes."""
    sizes = [seen.size(cell) for seen, cell in chosen]
    room, first = ROOM - sum(sizes), 0
    while room < 0:
        room += sizes[first]
        first += 1
    for place, (seen, cell) in enumerate(chosen):
        gaps = [sizes[place]] if place < first else []
        yield cell, iter(()) if place < first else _kept(seen, cell, gaps), gaps


def read_heritage(directory: Path, fingerprint: str) -> Heritage:
    """Return what ended bridges have left in a directory of the kernel whose connection file has this fingerprint."""
    seen = [each for each in Journals(directory, NEWEST).readable if not each.is_living and _knows(each, fingerprint)]
    return Heritage(seen, fingerprint)


def _knows(seen: Seen, fingerprint: str) -> bool:
    return any(known == fingerprint for _, _, known, *_ in seen.processes)


def _kept(seen: Seen, cell: Cell, gaps: list[int]) -> Iterator[Output]:
    """Yield a cell's output; the bytes that are missing of it are noted in `gaps`."""
    for each in seen.outputs(cell):
        if isinstance(each, Missing):
            gaps.append(each.size)
        else:
            yield each


def _bounded(outputs: Iterator[Output], gaps: list[int]) -> Iterator[Output]:
    """Yield what there is room for; the bytes of the rest are noted in `gaps`."""
    room = ROOM
    for each in outputs:
        size = len(each.text) if isinstance(each, Stream) else len(repr(each))
        room -= size
        if room < 0:
            gaps.append(size)
        else:
            yield each


def _began(found: tuple[Seen, Cell]) -> datetime:
    return found[1].began
