"""What ended bridges knew of a kernel, copied by the one that connects to it now into its own journal.

The one rule: of an ended bridge's journal nothing is changed but the mark that somebody follows its running cell on, so
that of two heirs only one does. What cannot be read is passed over: the kernel is there all the same. Reading
takes a while, so it is for threads: each read has its own connection to the file. The copy is the event loop's.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from bridge.execution import Execution
from bridge.journal import Cell, Journal, Record
from bridge.journal_file import HELD_UP
from bridge.journals import UNREADABLE, Journals, Missing, Seen
from bridge.looking.questions import Standing
from bridge.outputs import Output, Stream

# Bridges that are looked at: to connect takes milliseconds.
NEWEST = 100
# Of what others ran as much as one answer tells of; of our own, more than a model remembers the numbers of.
OTHERS, OWN = 50, 200
# Bytes of output in all, the newest: copied in a tenth of a second.
ROOM = 16 * 2**20
# Seconds after which a cell that could not be left to somebody else, for a lock, is nobody's.
RELEASED = 60.0


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
        """Leave it to somebody else; behind a lock that another program holds, in a thread of its own."""
        statement = "UPDATE cells SET status = NULL, ended = ? WHERE id = ?"
        if not self._mark(statement, None):
            threading.Thread(target=self._mark, args=(statement, None, RELEASED), daemon=True).start()

    def _mark(self, statement: str, ended: float | None, wait: float = HELD_UP) -> bool:
        try:
            with contextlib.closing(sqlite3.connect(self.seen.file, timeout=wait, isolation_level=None)) as database:
                return database.execute(statement, [ended, self.cell.id]).rowcount == 1
        except sqlite3.Error:
            return False

    def kept(self) -> Kept:
        """Read what it had put out while its bridge lived."""
        gaps = list[int]()
        outputs = tuple(_bounded(_kept(self.seen, self.cell, gaps), gaps))
        return Kept(self.cell, outputs, sum(gaps), self.seen.question(self.cell))


@dataclass(frozen=True)
class Kept:
    """A cell of an ended bridge, as far as there is room for its output."""

    cell: Cell
    outputs: tuple[Output, ...]
    missing: int
    """Bytes of output that are not here."""
    asked: Standing | None = None
    """What it asked when its bridge ended."""

    def copied(self, journal: Journal, name: str) -> Record:
        """Copy it under the name that its kernel has here."""
        record = journal.copy(replace(self.cell, name=name), self.outputs)
        record.miss(self.missing)
        return record

    def handed_over(self, journal: Journal, name: str) -> tuple[Execution, Record]:
        """Copy it, and have it go on here."""
        record = self.copied(journal, name)
        execution = Execution(self.cell.number or 0, self.cell.msg_id, self.cell.code, record=record)
        execution.resume(self.cell.count, self.outputs)
        return execution, record


@contextlib.contextmanager
def claimed(found: Unended | None) -> Iterator[Unended | None]:
    """Claim a cell, for good where the block does not fail; None where that is not to be had."""
    if found is None or not found.claim():
        yield None
        return
    try:
        yield found
    except BaseException:
        found.release()
        raise


class Heritage:
    """What ended bridges' journals, the oldest first, have of the kernel whose connection file has a fingerprint."""

    def __init__(self, seen: Sequence[Seen] = (), fingerprint: str = "") -> None:
        self._seen = seen
        self._fingerprint = fingerprint

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

    def kept(self, process: str, username: str) -> list[Kept]:
        """Read what was run in a process and has ended, whoever ran it; what ran in this name keeps its number."""
        own, others = dict[int, tuple[Seen, Cell]](), dict[str, tuple[Seen, Cell]]()
        for seen in self._seen:
            with contextlib.suppress(*UNREADABLE):
                for cell in filter(lambda each: each.ended, seen.cells(process)):
                    if cell.number and cell.username == username:
                        own[cell.number] = (seen, cell)
                    else:
                        others[cell.msg_id] = (seen, replace(cell, number=None))
        chosen = [*sorted(own.values(), key=_began)[-OWN:], *sorted(others.values(), key=_began)[-OTHERS:]]
        return list(_within(sorted(chosen, key=_began)))


def given(kept: Iterable[Kept], journal: Journal, name: str) -> dict[int, Record]:
    """Copy cells; returns the records of those that have numbers, by these."""
    records = [(each.cell.number, each.copied(journal, name)) for each in kept]
    return {number: record for number, record in records if number}


def _within(chosen: list[tuple[Seen, Cell]]) -> Iterator[Kept]:
    """Yield each with its output, of which the newest has room."""
    sizes = [seen.size(cell) for seen, cell in chosen]
    room, first = ROOM - sum(sizes), 0
    while room < 0:
        room += sizes[first]
        first += 1
    for place, (seen, cell) in enumerate(chosen):
        gaps = [sizes[place]] if place < first else []
        outputs = () if place < first else tuple(_kept(seen, cell, gaps))
        yield Kept(cell, outputs, sum(gaps))


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
