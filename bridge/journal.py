"""What happened in the kernels, kept on disk: each cell that this bridge saw, whoever ran it, with all of its output.

The one rule: each bridge writes one SQLite file of its own, private to its user, which other processes may read
meanwhile and after its death; what cannot be written is counted and told, and is never an error of the cell. Behind a
lock that another program holds on it that is what happens to output; begins and ends are written later, and until then
nothing makes room.

Output is numbered by places, which only rise within a cell. A text that is too long for one page of a reader takes
several, so that a reader goes on at any of them.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from bridge.journal_file import IN_MEMORY, JournalFile
from bridge.outputs import DisplayData, Error, ExecuteResult, Output, Status, Stream

# Characters of a text that are written as one entry; several make a page, also where a policy wants small ones.
PIECE = 64 * 1024
# Entries of one text that are written together.
TOGETHER = 64
# An entry costs that much beside its contents.
ROW = 64

_CONTROLS = bytes([*range(0x09), *range(0x0E, 0x20), 0x7F])


@dataclass(frozen=True)
class Page:
    """A part of a cell's output."""

    outputs: tuple[Output, ...]
    cursor: int
    """The place after it."""
    remaining: int
    """Bytes that are kept from there on."""
    missing: int
    """Bytes that were too much to be kept, in the middle of all the output."""


@dataclass(frozen=True)
class Cell:
    """What is known of a cell beside its output."""

    id: int
    kernel: str
    """The process's own id."""
    name: str
    msg_id: str
    number: int | None
    """The execution's number, where it was run through this bridge."""
    client: str
    """The Jupyter session of whoever ran it."""
    username: str
    code: str
    count: int | None
    """The kernel's `In [n]`."""
    began: datetime
    ended: datetime | None
    status: Status


COLUMNS = "id, kernel, name, msg_id, number, client, username, code, count, began, ended, status"


class Record:
    """One cell's part of the journal, written to while it runs; made by `Book.begin`."""

    def __init__(self, journal: Journal, cell: int) -> None:
        self._journal = journal
        self.cell = cell
        self._place = 0
        self._name: Literal["stdout", "stderr"] = "stdout"
        self._waiting: list[str] = []
        self._length = 0
        self._unwritten = 0
        self._told = 0
        self._size = 0
        self._why = None if cell else journal.problem

    @property
    def cursor(self) -> int:
        """The place of what comes next, once all so far is written."""
        self.write()
        return self._place

    @property
    def trouble(self) -> str | None:
        """Why not all that the cell has put out is here to be read, in a sentence; None where it is."""
        if not self.cell or self._unwritten:
            return f"Not all of this output could be kept to be read later: {self._why}."
        if not self._journal.holds(self.cell):
            return "This output is kept no longer: it made room for newer output."
        return None

    def start(self, count: Any) -> None:
        """The kernel has begun the cell, which may have waited behind another since it was sent."""
        self._journal.start(self.cell, count if isinstance(count, int) else None)

    def add(self, output: Output, display_id: str | None = None) -> int | None:
        """Keep an output; returns the place of one that is not text among other text, None where it cannot be kept."""
        if not isinstance(output, Stream):
            self.write()
            place = self._place
            return place if self._write([output], display_id) else None
        if output.name != self._name:
            self.write()
            self._name = output.name
        self._waiting.append(output.text)
        self._length += len(output.text)
        if self._length >= self._journal.piece:
            self.write()
        return None

    def update(self, display_id: str, data: DisplayData) -> None:
        """Show other data where a display is, also one of an earlier cell of this kernel."""
        self._journal.update(self.cell, display_id, data)

    def clear(self) -> None:
        """Forget the output so far."""
        self._waiting, self._length, self._unwritten, self._told = [], 0, 0, 0
        self._journal.clear(self.cell)

    def ask(self, prompt: str | None) -> None:
        """The cell asks; None where it is for a password."""
        self._journal.ask(self.cell, prompt)

    def ask_no_more(self) -> None:
        """What the cell asked was answered, or given up."""
        self._journal.ask_no_more(self.cell)

    def miss(self, size: int) -> None:
        """So many bytes of the output are missing in this place."""
        if size:
            self.write()
            self._place += 1
            self._size += size
            self._journal.miss(self.cell, size)

    def end(self, status: Status, count: int | None) -> None:
        """The cell has ended."""
        self.write()
        if self._journal.end(self.cell, status, count, missing=self._unwritten - self._told):
            self._told = self._unwritten

    def forget(self) -> None:
        """The cell was never sent."""
        self._journal.forget(self.cell)

    def read(self) -> Cell | None:
        """Return what is known of the cell; None where it is no longer kept."""
        return next(self._journal.cells("id = ?", self.cell), None)

    def page(self, cursor: int, *, text: int, size: int) -> Page | None:
        """Return the output from a place on: at most `text` bytes of text and `size` bytes in all, but one piece.

        None where the cell is no longer kept.
        """
        self.write()
        page = self._journal.page(self.cell, cursor, text=text, size=size)
        return page and replace(page, missing=page.missing + self._unwritten - self._told)

    def write(self) -> None:
        """Write the text that waits for more, to be written together with it."""
        text, self._waiting, self._length = "".join(self._waiting), [], 0
        pieces = (Stream(self._name, piece) for piece in _pieces(text, self._journal.piece))
        # a message may hold a hundred megabytes, which must not be there twice
        while some := list(itertools.islice(pieces, TOGETHER)):
            self._write(some)

    def _write(self, outputs: Sequence[Output], display_id: str | None = None) -> bool:
        places, size, is_written = self._journal.add(self.cell, self._place, self._size, outputs, display_id)
        self._place += places
        self._size += size
        if not is_written:
            self._unwritten += size
            self._why = self._journal.problem
        return is_written


class Journal:
    """All that one bridge keeps, at most `limit` bytes of it; the oldest cells make room for the new ones.

    `directory` is where each bridge makes one of its own with the first cell; None keeps little, and in memory. `page`
    is how many bytes of text its readers take at a time.
    """

    def __init__(self, directory: Path | None, limit: int = IN_MEMORY, *, page: int = 8 * PIECE) -> None:
        self.parent = directory
        """Where all bridges' own directories are; None where nothing is kept on disk."""
        self.piece = min(PIECE, max(64, page // 8))
        self._size = 0
        self._file = JournalFile(directory, limit, on_paid=self._measure)
        self._now = 0.0

    @property
    def problem(self) -> str | None:
        """Why something could not be written, the last time that this happened; `LOCKED` for a lock."""
        return self._file.problem

    def book(self, name: str, *, fingerprint: str = "", spec: str = "") -> Book:
        """Return the part about the kernel that has this name, and these in its connection file."""
        return Book(self, name, fingerprint, spec)

    def close(self) -> None:
        """Let others read it, or remove it where nothing is in it."""
        self._file.close("SELECT count(*) FROM cells")

    def now(self) -> datetime:
        """Return the time by a clock that never stands still nor goes back, whatever is done to the host's.

        So what ends after a look has a later time than the look.
        """
        # to the microsecond, so that a time is the same one after it was written as text
        self._now = max(round(time.time(), 6), round(self._now + 1e-6, 6))
        return datetime.fromtimestamp(self._now, UTC)

    # -- writing

    def begin(self, **known: Any) -> int:
        """Add a cell by its columns and return its id; 0 where it cannot be kept."""
        known["code"] = _encoded(known["code"])
        known["began"] = self.now().timestamp()
        names, marks = ", ".join(known), ", ".join("?" * len(known))
        cursor = self._file.write(f"INSERT INTO cells ({names}) VALUES ({marks})", *known.values())  # noqa: S608 - our own words; values go beside them
        if cursor is None:
            return 0
        self._grow(len(known["code"]) + ROW)
        return int(cursor.lastrowid or 0)

    def copy(self, cell: Cell, outputs: Iterable[Output]) -> Record:
        """Add a cell of another journal as it is there, with output of it."""
        began, ended = cell.began.timestamp(), cell.ended.timestamp() if cell.ended else None
        columns = (cell.kernel, cell.name, cell.msg_id, cell.number, cell.client, cell.username, _encoded(cell.code))
        cursor = self._file.write(
            "INSERT INTO cells (kernel, name, msg_id, number, client, username, code, count, began, ended, status) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *(*columns, cell.count, began, ended, cell.status if ended else None),
        )
        if cursor is not None:
            self._grow(len(columns[-1]) + ROW)
        record = Record(self, 0 if cursor is None else int(cursor.lastrowid or 0))
        for each in outputs:
            record.add(each)
        record.write()
        return record

    def know(self, kernel: str, fingerprint: str, spec: str, language: str) -> None:
        """Write what is known of a kernel process beside its cells."""
        self._file.change("INSERT OR REPLACE INTO kernels VALUES (?, ?, ?, ?)", kernel, fingerprint, spec, language)

    def start(self, cell: int, count: int | None) -> None:
        """Write that the kernel has begun a cell that was sent before."""
        self._file.change("UPDATE cells SET began = ?, count = ? WHERE id = ?", self.now().timestamp(), count, cell)

    def add(
        self, cell: int, place: int, start: int, outputs: Sequence[Output], display_id: str | None
    ) -> tuple[int, int, bool]:
        """Add outputs from a place on, with `start` bytes before; returns their places, bytes, and if it was done."""
        rows, first, size = [], place, 0
        for output in outputs:
            kind, body, text = _packed(output)
            pieces = max(1, -(-len(text) // self.piece)) if _is_text_alone(output) else 1
            rows.append((cell, place, pieces, start + size, _shown_size(text), kind, display_id, body))
            place, size = place + pieces, size + len(body)
        if not cell:
            return place - first, size, False
        error = self._file.write_all("INSERT INTO outputs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        if error is None:
            self._grow(size + ROW * len(rows))
        else:
            self._file.trouble(error)
        return place - first, size, error is None

    def update(self, cell: int, display_id: str, data: DisplayData) -> None:
        """Put other data in a display's place, in all cells of the same kernel."""
        _, body, text = _packed(data)
        for other, place, kind, old in self._file.rows(
            "SELECT outputs.cell, place, kind, length(body) FROM outputs JOIN cells ON cells.id = outputs.cell "
            "WHERE display = ? AND kernel = (SELECT kernel FROM cells WHERE id = ?)",
            *(display_id, cell),
        ):
            if kind not in ("display", "result"):
                continue
            written = self._file.write(
                "UPDATE outputs SET body = ?, text = ? WHERE cell = ? AND place = ?",
                *(body, _shown_size(text), other, place),
            )
            if written is not None:
                self._grow(len(body) - old)

    def ask(self, cell: int, prompt: str | None) -> None:
        """Write what a cell asks, for whoever may have to go on to ask it."""
        body = None if prompt is None else _encoded(prompt)
        self._file.change("INSERT OR REPLACE INTO questions VALUES (?, ?)", cell, body)

    def ask_no_more(self, cell: int) -> None:
        """Write that a cell asks no longer."""
        self._file.change("DELETE FROM questions WHERE cell = ?", cell)

    def clear(self, cell: int) -> None:
        """Forget a cell's output so far."""
        size = self._file.scalar("SELECT sum(length(body) + ?) FROM outputs WHERE cell = ?", ROW, cell)
        self._shrink(size, "DELETE FROM outputs WHERE cell = ?", cell)
        self._file.change("UPDATE cells SET missing = 0 WHERE id = ?", cell)

    def end(self, cell: int, status: Status, count: int | None, *, missing: int) -> bool:
        """Write how and when a cell ended, and how much more of it is missing; returns whether that was done."""
        ended = self.now().timestamp()
        return self._file.change(
            "UPDATE cells SET status = ?, count = ?, ended = ?, missing = missing + ? WHERE id = ?",
            *(status, count, ended, missing, cell),
        )

    def miss(self, cell: int, size: int) -> None:
        """Write that so many more bytes of a cell's output are not here."""
        self._file.change("UPDATE cells SET missing = missing + ? WHERE id = ?", size, cell)

    def holds(self, cell: int) -> bool:
        """Tell whether a cell is still kept."""
        return bool(self._file.scalar("SELECT count(*) FROM cells WHERE id = ?", cell))

    def forget(self, cell: int) -> bool:
        """Remove a cell and its output; returns whether that is done by now."""
        self.clear(cell)
        self.ask_no_more(cell)
        size = self._file.scalar("SELECT length(code) + ? FROM cells WHERE id = ?", ROW, cell)
        return self._shrink(size, "DELETE FROM cells WHERE id = ?", cell)

    # -- reading

    def cells(self, condition: str, *values: Any) -> Iterator[Cell]:
        """Yield the cells that meet a condition on their columns, in the order in which they began."""
        query = f"SELECT {COLUMNS} FROM cells WHERE {condition} ORDER BY id"  # noqa: S608 - our own words; values go beside
        yield from map(read_cell, self._file.rows(query, *values))

    def count(self, condition: str, *values: Any) -> int:
        """Return how many cells meet a condition on their columns."""
        return self._file.scalar(f"SELECT count(*) FROM cells WHERE {condition}", *values)  # noqa: S608 - our own words; values go beside them

    def output(self, cell: int, place: int, *, most: int) -> tuple[Output | None, int]:
        """Return the whole output that has a place in a cell, and its bytes: 0 for none. None where it has too many."""
        for first, size in self._file.rows(
            "SELECT place, length(body) FROM outputs WHERE cell = ? AND place <= ? AND place + pieces > ?",
            *(cell, place, place),
        ):
            if size > most:
                return None, size
            for kind, body in self._file.read(
                "SELECT kind, body FROM outputs WHERE cell = ? AND place = ?", cell, first
            ):
                return unpacked(kind, body, first), size
        return None, 0

    def last_place(self, cell: int) -> int:
        """Return the place of the last thing that a cell has written."""
        return self._file.scalar("SELECT max(place + pieces) FROM outputs WHERE cell = ?", cell) - 1

    def page(self, cell: int, cursor: int, *, text: int, size: int) -> Page | None:
        """See `Record.page`."""
        known = self._file.rows("SELECT missing FROM cells WHERE id = ?", cell)
        if not known:
            return None
        missing = int(known[0][0] or 0)
        outputs: list[Output] = []
        rows = self._file.read(
            "SELECT place, pieces, start, text, kind, body FROM outputs WHERE cell = ? AND place >= "
            "coalesce((SELECT max(place) FROM outputs WHERE cell = ? AND place <= ?), 0) ORDER BY place",
            *(cell, cell, cursor),
        )
        after: int | None = None
        end = 0
        for place, pieces, start, cost, kind, body in rows:
            if after is not None and place > after:
                outputs.append(Stream("stdout", f"\n… {start - end} bytes are missing here: too much to keep …\n"))
            after, end = place + pieces, start + len(body)
            for piece in range(max(0, cursor - place), pieces):
                text, size = text - cost // pieces - 1, size - len(body) // pieces
                if outputs and (text < 0 or size < 0):
                    rest = self._rest(cell, place, has_gap=bool(missing))
                    return Page(tuple(_merged(outputs)), cursor, rest, missing)
                outputs.append(unpacked(kind, body, place, piece, pieces))
                cursor = place + piece + 1
        return Page(tuple(_merged(outputs)), cursor, 0, missing)

    def _rest(self, cell: int, place: int, *, has_gap: bool) -> int:
        """Return the bytes that are kept from a place on; they are summed up only where some in between are not."""
        if has_gap:
            return self._file.scalar("SELECT sum(length(body)) FROM outputs WHERE cell = ? AND place >= ?", cell, place)
        end = "SELECT start + length(body) FROM outputs WHERE cell = ? ORDER BY place DESC LIMIT 1"
        start = "SELECT start FROM outputs WHERE cell = ? AND place = ?"
        return max(1, self._file.scalar(end, cell) - self._file.scalar(start, cell, place))

    # -- keeping within the bound

    def _grow(self, size: int) -> None:
        self._size += size
        while self._size > self._file.limit:
            oldest = self._file.scalar("SELECT min(id) FROM cells WHERE ended IS NOT NULL")
            if not (self.forget(oldest) if oldest else self._thin()):
                break

    def _shrink(self, size: int, statement: str, *values: Any) -> bool:
        """Remove what has this size; returns whether that is done by now. What is owed is measured when it is."""
        is_done = self._file.change(statement, *values) and not self._file.owes
        self._size -= size if is_done else 0
        return is_done

    def _measure(self) -> None:
        outputs = self._file.scalar("SELECT sum(length(body) + ?) FROM outputs", ROW)
        self._size = outputs + self._file.scalar("SELECT sum(length(code) + ?) FROM cells", ROW)

    def _thin(self) -> bool:
        """Forget some output in the middle of the cell that has most of it; False where there is none to spare."""
        cell = self._file.scalar("SELECT cell FROM outputs GROUP BY cell ORDER BY sum(length(body)) DESC LIMIT 1")
        kept = gone = 0
        places: list[tuple[int, int]] = []
        for place, size in self._file.read(
            "SELECT place, length(body) FROM outputs WHERE cell = ? ORDER BY place", cell
        ):
            if kept <= self._file.limit // 4:
                kept += size + ROW
                continue
            places.append((cell, place))
            gone += size
            if gone > self._file.limit // 16:
                break
        if not places or self._file.write_all("DELETE FROM outputs WHERE cell = ? AND place = ?", places):
            return False
        self._size -= gone + ROW * len(places)
        self.miss(cell, gone)
        return True


class Book:
    """The journal's part about one kernel, by the name that it has here."""

    def __init__(self, journal: Journal, name: str, fingerprint: str, spec: str) -> None:
        self.journal = journal
        self.name = name
        self._fingerprint = fingerprint
        self._spec = spec
        self._language = "{}"
        self._known: set[str] = set()

    def speaks(self, language: Any) -> None:
        """Note what the kernel tells of its language (`language_info` of `kernel_info_reply`)."""
        self._language = _json(language or {}).decode()

    def begin(
        self, *, kernel: str, msg_id: str, code: str, client: str, username: str, number: int | None = None
    ) -> Record:
        """Begin a cell; `number` where it is ours."""
        known = {"kernel": kernel, "name": self.name, "msg_id": msg_id, "client": client, "username": username}
        shown = {key: value.encode("utf-8", "replace").decode() for key, value in known.items()}
        if kernel not in self._known:
            self._known.add(kernel)
            self.journal.know(shown["kernel"], self._fingerprint, self._spec, self._language)
        return Record(self.journal, self.journal.begin(**shown, code=code, number=number))


def read_cell(row: Any) -> Cell:
    """Return the cell of a row of `COLUMNS`."""
    cell, kernel, name, msg_id, number, client, username, code, count, began, ended, status = row
    return Cell(
        id=cell,
        kernel=kernel,
        name=name,
        msg_id=msg_id,
        number=number,
        client=client,
        username=username,
        code=decoded(code),
        count=count,
        began=datetime.fromtimestamp(began, UTC),
        ended=None if ended is None else datetime.fromtimestamp(ended, UTC),
        status=status or "running",
    )


# -- outputs as bytes


def _packed(output: Output) -> tuple[str, bytes, bytes]:
    """Return an output's kind, all of it as bytes, and the text by which it is read."""
    if isinstance(output, Stream):
        body = _encoded(output.text)
        return output.name, body, body
    if isinstance(output, Error):
        text = "\n".join(output.traceback) or f"{output.ename}: {output.evalue}"
        return "error", _json([output.ename, output.evalue, list(output.traceback)]), _encoded(text)
    kind = "result" if isinstance(output, ExecuteResult) else "display"
    count = output.execution_count if isinstance(output, ExecuteResult) else None
    return kind, _json([output.data, output.metadata, count]), _encoded(_plain(output.data))


def _is_text_alone(output: Output) -> bool:
    return isinstance(output, Error) or (not isinstance(output, Stream) and set(output.data) == {"text/plain"})


def unpacked(kind: str, body: bytes, place: int | None = None, piece: int = 0, pieces: int = 1) -> Output:
    """Return an output, or one piece of it, from its bytes; raises `ValueError` where they are damaged."""
    if kind in ("stdout", "stderr"):
        return Stream("stderr" if kind == "stderr" else "stdout", decoded(body))
    content = json.loads(body)
    if kind == "error":
        ename, evalue, traceback = content
        if pieces == 1:
            return Error(ename, evalue, tuple(traceback), place)
        return Error(ename, evalue, (_part("\n".join(traceback) or f"{ename}: {evalue}", piece, pieces),), place)
    data, metadata, count = content
    if pieces > 1:
        # what was put in its place meanwhile may have other forms
        data = {**(data if piece == 0 else {}), "text/plain": _part(_plain(data), piece, pieces)}
    if kind == "result":
        return ExecuteResult(data, metadata, count, place)
    return DisplayData(data, metadata, place=place)


def _plain(data: Mapping[str, Any]) -> str:
    text = data.get("text/plain", "")
    return text if isinstance(text, str) else ""


def _part(text: str, piece: int, pieces: int) -> str:
    return text[len(text) * piece // pieces : len(text) * (piece + 1) // pieces]


def _merged(outputs: list[Output]) -> Iterator[Output]:
    """Neighbouring texts of one stream as one, as a terminal would have it."""
    for name, group in itertools.groupby(outputs, lambda each: each.name if isinstance(each, Stream) else None):
        if name is None:
            yield from group
        else:
            yield Stream(name, "".join(each.text for each in group if isinstance(each, Stream)))


def _pieces(text: str, length: int) -> Iterator[str]:
    """Cut a text into pieces, at a line's end where one is near."""
    start = 0
    while start < len(text):
        end = start + length
        if end < len(text):
            end = (text.rfind("\n", start + length // 2, end) + 1) or end
        yield text[start:end]
        start = end


def _shown_size(text: bytes) -> int:
    """Bytes of a text as it is shown: a control character takes three."""
    return 3 * len(text) - 2 * len(text.translate(None, _CONTROLS))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def decoded(body: bytes) -> str:
    """Return a text that was written."""
    return body.decode("utf-8", "surrogatepass")


def _json(content: Any) -> bytes:
    try:
        return json.dumps(content).encode()
    except (RecursionError, ValueError, TypeError):
        return b'[{"text/plain": "[nested too deeply to be kept]"}, {}, null]'
