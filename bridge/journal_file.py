"""The SQLite file of a journal: where it is, who may read it, and how it is written where something keeps it from that.

The one rule: nothing waits for it. A lock that another program holds is waited for a moment, once; small changes are
owed until it is gone, in order, and what cannot be written at all is said in `problem`.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bridge.locks import is_locked

# Where nothing may be written to disk, what is kept lies in memory instead.
IN_MEMORY = 16 * 1024 * 1024
# Seconds that a write may wait for a lock that another program holds on the file; meanwhile nothing else is done.
HELD_UP = 0.2
# Small changes that wait for the end of such a lock; what is more than that cannot be written.
OWED = 10_000
LOCKED = "another program held a lock on the file"

# So many ended bridges' directories are left, however small: each start of a bridge and each export looks into all.
ENDED = 1000

# In each bridge's own directory.
FILE = "cells.sqlite"

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE cells (
    id INTEGER PRIMARY KEY, kernel TEXT, name TEXT, msg_id TEXT, number INTEGER, client TEXT, username TEXT, code BLOB,
    count INTEGER, began REAL, ended REAL, status TEXT, missing INTEGER DEFAULT 0
);
CREATE TABLE kernels (id TEXT PRIMARY KEY, fingerprint TEXT, spec TEXT, language TEXT);
CREATE TABLE outputs (
    cell INTEGER, place INTEGER, pieces INTEGER, start INTEGER, text INTEGER, kind TEXT, display TEXT, body BLOB
);
CREATE TABLE questions (cell INTEGER PRIMARY KEY, prompt BLOB);
CREATE UNIQUE INDEX places ON outputs (cell, place);
CREATE INDEX displays ON outputs (display) WHERE display IS NOT NULL;
CREATE INDEX endings ON cells (ended);
"""
# Whole entries fit a page of that size. What a power cut leaves of it matters less than that no write waits for a disk.
_SETTINGS = """
PRAGMA page_size = 32768; PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 64; PRAGMA synchronous = OFF;
"""


class JournalFile:
    """The file, which is made with the first thing that is written or read; at most `limit` bytes of it are to be used.

    `parent` is where all bridges' own directories are; None keeps little, and in memory. `on_paid` is called when what
    was owed has been written.
    """

    def __init__(self, parent: Path | None, limit: int, *, on_paid: Callable[[], None]) -> None:
        self.limit = limit
        self.problem: str | None = None
        """Why something could not be written, the last time that this happened; `LOCKED` for a lock."""
        self._parent = parent
        self._on_paid = on_paid
        self._place: _Place | None = None
        self._opened: sqlite3.Connection | None = None
        self._is_held = False
        self._owed: deque[tuple[str, tuple[Any, ...]]] = deque()

    @property
    def owes(self) -> bool:
        """Something waits for the end of a lock."""
        return bool(self._owed)

    def close(self, count: str) -> None:
        """Let others read it, or remove it where nothing is in it, as a query that counts says."""
        if self._opened is None:
            return
        self._hold(is_held=False)  # which waits for a lock once more
        try:
            with self._in_turn():
                pass  # what is owed
        except sqlite3.Error as error:
            self.trouble(error)
        is_empty = self.scalar(count) == 0
        self._opened.close()
        self._opened = None
        if self._place:
            self._place.leave(remove=is_empty)

    def database(self) -> sqlite3.Connection:
        """Return the connection; where no file can be made, to memory."""
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def _open(self) -> sqlite3.Connection:
        if self._parent is not None:
            try:
                self._place = _Place(self._parent, self.limit)
                return _prepared(self._place.file)
            except (OSError, sqlite3.Error) as error:
                self.trouble(error)
                self._place = None
        self.limit = min(self.limit, IN_MEMORY)
        return _prepared(":memory:")

    def write(self, statement: str, *values: Any) -> sqlite3.Cursor | None:
        """Write now; None where that cannot be."""
        try:
            with self._in_turn() as database:
                return database.execute(statement, values)
        except (sqlite3.Error, OverflowError) as error:
            self.trouble(error)
            return None

    def write_all(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> Exception | None:
        """Write all or nothing; returns why it was nothing."""
        try:
            with self._in_turn() as database, database:  # commits, or takes all of it back
                database.execute("BEGIN")
                database.executemany(statement, rows)
        except (sqlite3.Error, OverflowError) as error:
            return error
        return None

    def change(self, statement: str, *values: Any) -> bool:
        """Write what is small, behind a lock with the next write after it; returns whether that is done or will be."""
        try:
            with self._in_turn() as database:
                database.execute(statement, values)
        except (sqlite3.Error, OverflowError) as error:
            if _is_busy(error) and len(self._owed) < OWED:
                self._owed.append((statement, values))
                return True
            self.trouble(error)
            return False
        return True

    @contextlib.contextmanager
    def _in_turn(self) -> Iterator[sqlite3.Connection]:
        """Write, behind all that is owed. A lock is waited for once, and then only looked at until it is gone."""
        database = self.database()
        try:
            if self._owed:
                self._pay(database)
            yield database
        except sqlite3.Error as error:
            self._hold(is_held=_is_busy(error))
            raise
        self._hold(is_held=False)

    def _pay(self, database: sqlite3.Connection) -> None:
        """Write what is owed; what cannot be written though there is no lock must not keep all else from being so."""
        while self._owed:
            try:
                database.execute(*self._owed[0])
            except (sqlite3.Error, OverflowError) as error:
                if _is_busy(error):
                    raise
                self.trouble(error)
            self._owed.popleft()
        self._on_paid()

    def _hold(self, *, is_held: bool) -> None:
        if is_held != self._is_held:
            self._is_held = is_held
            self.database().execute(f"PRAGMA busy_timeout = {0 if is_held else HELD_UP * 1000:.0f}")

    def read(self, query: str, *values: Any) -> Iterator[Any]:
        """Yield the rows that there are; what cannot be read has none."""
        with contextlib.suppress(sqlite3.Error, OverflowError):
            yield from self.database().execute(query, values)

    def rows(self, query: str, *values: Any) -> list[Any]:
        """Return all rows."""
        return list(self.read(query, *values))

    def scalar(self, query: str, *values: Any) -> int:
        """Return the one number that is asked for; 0 for none."""
        return int(next(self.read(query, *values), (0,))[0] or 0)

    def trouble(self, error: Exception) -> None:
        """Note why something could not be written."""
        why = LOCKED if _is_busy(error) else str(error)
        if why != self.problem:
            log.warning("not all output can be kept on disk: %s", why)
        self.problem = why


def _is_busy(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


class _Place:
    """The bridge's own directory, held by a lock for as long as the bridge lives."""

    def __init__(self, parent: Path, limit: int) -> None:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = parent / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.urandom(4).hex()}"
        self._directory.mkdir(mode=0o700)
        self._lock = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.file = self._directory / FILE
        os.close(os.open(self.file, os.O_CREAT | os.O_EXCL, 0o600))
        with contextlib.suppress(OSError):
            _make_room(parent, limit)

    def leave(self, *, remove: bool) -> None:
        if remove:
            shutil.rmtree(self._directory, ignore_errors=True)
        os.close(self._lock)


def _make_room(parent: Path, limit: int) -> None:
    """Remove what ended bridges have kept, the oldest first, until what is left is within both limits."""
    sizes = {}
    for each in sorted(parent.iterdir()):
        # one that cannot be looked into, or that another bridge removes now, keeps no other one
        with contextlib.suppress(OSError):
            if each.is_dir() and not each.is_symlink() and not is_held(each):
                sizes[each] = sum(file.lstat().st_size for file in each.iterdir())
    total = sum(sizes.values())
    for number, (each, size) in enumerate(sizes.items()):
        if total <= limit and len(sizes) - number <= ENDED:
            break
        shutil.rmtree(each, ignore_errors=True)
        total -= size


def is_held(directory: Path) -> bool:
    """Tell whether the bridge that made a directory still lives; where that cannot be told, it is taken to."""
    return is_locked(directory) is not False


def _prepared(file: Path | str) -> sqlite3.Connection:
    database = sqlite3.connect(file, timeout=HELD_UP, isolation_level=None)
    try:
        database.executescript(_SETTINGS + _SCHEMA)
    except sqlite3.Error:
        database.close()
        raise
    return database
