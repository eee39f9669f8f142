"""What all bridges of this user saw, read from their journals: of those that live and of those that have ended.

The one rule: nothing is changed and no bridge is held up; what cannot be read is named in a sentence and passed over.
There may be thousands of journals, so none is open for longer than something is read of it.

Several bridges may have seen one kernel. Its cells are told apart by Jupyter's message id, and of a cell that several
saw each thing is taken from the record that knows most of it: one may have seen its begin, another one its end.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import stat
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bridge.journal import COLUMNS, Cell, decoded, read_cell, unpacked
from bridge.journal_file import FILE, is_held
from bridge.looking.questions import Standing
from bridge.outputs import Output

# What reading a file raises that is damaged or gone, or that something else wrote.
UNREADABLE = (OSError, sqlite3.Error, ValueError, TypeError, AttributeError, OverflowError, RecursionError)
_ENDED = ("ok", "error", "aborted")
_PROCESSES = """
SELECT cells.kernel, name, coalesce(fingerprint, ''), coalesce(spec, ''), coalesce(language, '{}'), min(began),
    max(began), count(*) FROM cells LEFT JOIN kernels ON kernels.id = cells.kernel GROUP BY cells.kernel, name
"""
_OUTPUTS = "SELECT place, pieces, start, kind, body FROM outputs WHERE cell = ? ORDER BY place"


@dataclass(frozen=True)
class Missing:
    """Output that is not kept, in the place where it was."""

    size: int
    """Bytes of it; 0 where that is not known."""


@dataclass
class History:
    """What is known of one kernel through all its restarts: they have the key of its connection file in common."""

    fingerprint: str
    """Of that key."""
    last: datetime
    """When the last cell began."""
    names: set[str] = field(default_factory=set)
    processes: dict[str, datetime] = field(default_factory=dict)
    """Each process's own id, and when its first cell began."""
    spec: str = ""
    """The kernelspec's name, where the connection file had one."""
    language: Mapping[str, Any] = field(default_factory=dict)
    """Jupyter's `language_info`."""

    @property
    def name(self) -> str:
        """What it is called; where bridges called it differently, the shortest."""
        return min(self.names, key=lambda each: (len(each), each))

    @property
    def first(self) -> datetime:
        """When the first cell began."""
        return min(self.processes.values())


@dataclass(frozen=True)
class Entry:
    """A cell, as one bridge recorded it or as several did together."""

    cell: Cell
    seen: Seen
    """Of the bridge whose record of the output it is."""
    is_going_on: bool
    """A bridge that lives still waits for its end."""

    @property
    def has_begin(self) -> bool:
        """It was seen from its begin; a bridge that came later knows neither its code nor its `In [n]`."""
        return bool(self.cell.code) or self.cell.number is not None or self.cell.count is not None

    def outputs(self) -> Iterator[Output | Missing]:
        """Yield its output, one after the other from the disk."""
        return self.seen.outputs(self.cell)


class Seen:
    """One bridge's journal; raises one of `UNREADABLE` where it cannot be read."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.is_living = is_held(file.parent)
        with self._opened() as database:
            self.processes = list(database.execute(_PROCESSES))
            self.has_forgotten = (database.execute("SELECT min(id) FROM cells").fetchone()[0] or 1) > 1
            """The oldest cells have made room for newer ones."""

    def cells(self, process: str) -> list[Cell]:
        """Return the cells that a kernel process ran."""
        with self._opened() as database:
            return [read_cell(row) for row in database.execute(_select("kernel = ?"), [process])]

    def size(self, cell: Cell) -> int:
        """Return how many bytes of output are kept of a cell."""
        try:
            with self._opened() as database:
                rows = database.execute("SELECT sum(length(body)) FROM outputs WHERE cell = ?", [cell.id])
                return int(rows.fetchone()[0] or 0)
        except UNREADABLE:
            return 0

    def question(self, cell: Cell) -> Standing | None:
        """Return what a cell asked when its bridge ended."""
        try:
            with self._opened() as database:
                row = database.execute("SELECT prompt FROM questions WHERE cell = ?", [cell.id]).fetchone()
        except UNREADABLE:  # an earlier version wrote none
            return None
        return row and Standing(cell.msg_id, None if row[0] is None else decoded(row[0]))

    def outputs(self, cell: Cell) -> Iterator[Output | Missing]:
        """Yield a cell's output in order, and what is missing of it; all of it where the cell was forgotten since."""
        try:
            with self._opened() as database:
                # one state of the file, for as long as one cell takes; over all of them would let it grow
                database.execute("BEGIN")
                yield from self._outputs(database, cell)
        except UNREADABLE:
            yield Missing(0)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        # without its log nobody has it open, and SQLite would leave files of its own beside it
        alone = "" if self.file.with_name(f"{self.file.name}-wal").exists() else "&immutable=1"
        uri = f"{self.file.absolute().as_uri()}?mode=ro{alone}"
        with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as database:
            yield database

    def _outputs(self, database: sqlite3.Connection, cell: Cell) -> Iterator[Output | Missing]:
        # the number of a cell that was never sent is given to another
        known = database.execute("SELECT missing FROM cells WHERE id = ? AND msg_id = ?", [cell.id, cell.msg_id])
        row = known.fetchone()
        if row is None:
            yield Missing(0)
            return
        lost, told, after, end = int(row[0] or 0), 0, None, 0
        for place, pieces, start, kind, body in database.execute(_OUTPUTS, [cell.id]):
            if after is not None and place > after:
                told += max(0, start - end)
                yield Missing(max(0, start - end))
            after, end = place + pieces, start + len(body)
            yield unpacked(kind, body)
        if lost > told:
            yield Missing(lost - told)


class Journals:
    """All journals in a directory, or so many of the newest ones."""

    def __init__(self, directory: Path, newest: int = 0) -> None:
        self.troubles: list[str] = []
        """A sentence about each thing there that could not be read."""
        self.readable: list[Seen] = []
        """The oldest first."""
        try:
            places = sorted(directory.iterdir())[-newest:] if directory.exists() else []
        except OSError as error:
            self.troubles.append(f"{directory} cannot be looked into ({error.strerror}), so nothing of it is known.")
            return
        for each in places:
            try:
                self._read(each)
            except UNREADABLE as error:
                self._pass_over(each, error)

    def histories(self) -> list[History]:
        """Return what kernels were seen, the one that ran a cell last first."""
        found: dict[str, History] = {}
        for seen in self.readable:
            for kernel, name, fingerprint, spec, language, first, last, _ in seen.processes:
                began, last_began = (datetime.fromtimestamp(each, UTC) for each in (first, last))
                history = found.setdefault(fingerprint or kernel, History(fingerprint or kernel, last_began))
                history.names.add(name)
                history.processes[kernel] = min(began, history.processes.get(kernel, began))
                history.last = max(history.last, last_began)
                history.spec = spec or history.spec
                history.language = _language(language) or history.language
        return sorted(found.values(), key=lambda each: each.last, reverse=True)

    def entries(self, history: History) -> list[Entry]:
        """Return the cells of a kernel in the order in which they began, each once."""
        return [
            entry
            for process in sorted(history.processes, key=lambda each: history.processes[each])
            for entry in self._entries(process)
        ]

    def has_forgotten(self, history: History) -> bool:
        """Tell whether a bridge that saw this kernel may have forgotten some of its cells."""
        return any(
            each.has_forgotten for each in self.readable if {row[0] for row in each.processes} & set(history.processes)
        )

    def _entries(self, process: str) -> list[Entry]:
        records = defaultdict(list)
        for seen in self.readable:
            if process not in {row[0] for row in seen.processes}:
                continue
            try:
                for cell in seen.cells(process):
                    records[cell.msg_id].append(Entry(cell, seen, cell.ended is None and seen.is_living))
            except UNREADABLE as error:
                self._pass_over(seen.file.parent, error)
        return sorted(map(_fullest, records.values()), key=lambda each: (each.cell.began, each.cell.count or 0))

    def _read(self, place: Path) -> None:
        file = place / FILE
        about = place.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
            raise ValueError("no bridge of yours made it")
        if not stat.S_ISREG(file.lstat().st_mode):
            raise ValueError(f"its {FILE} is no file")
        self.readable.append(Seen(file))

    def _pass_over(self, place: Path, error: Exception) -> None:
        why = error.strerror if isinstance(error, OSError) else error
        self.troubles.append(f"{place} cannot be read ({why}), so what it may hold is left out.")


def _fullest(records: Sequence[Entry]) -> Entry:
    """Return what several bridges' records tell of one cell together: its begin, its end and the most output."""
    if len(records) == 1:
        return records[0]
    by_begin = sorted(records, key=lambda each: (not each.has_begin, not each.cell.code, each.cell.began))
    begin = by_begin[0].cell
    end = max(records, key=_knows_end)
    fullest = max(records, key=lambda each: (each.seen.size(each.cell), *_knows_end(each)))
    cell = replace(
        begin,
        id=fullest.cell.id,  # by which the output is found
        number=next((each.cell.number for each in by_begin if each.cell.number is not None), None),
        count=next((each.cell.count for each in by_begin if each.cell.count is not None), None),
        ended=end.cell.ended,
        status=end.cell.status,
    )
    return Entry(cell, fullest.seen, end.is_going_on)


def _knows_end(entry: Entry) -> tuple[bool, bool, bool]:
    """Order records by what they know of the end: whoever lost the kernel knows less than whoever still waits."""
    return entry.cell.status in _ENDED, entry.is_going_on, entry.cell.ended is not None


def _select(condition: str) -> str:
    return f"SELECT {COLUMNS} FROM cells WHERE {condition} ORDER BY id"  # noqa: S608 - of our own words


def _language(written: str) -> Mapping[str, Any]:
    try:
        content = json.loads(written)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
