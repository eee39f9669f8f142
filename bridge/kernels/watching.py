"""What the others did in a kernel, read from the journal, in few words.

The one rule: an answer is bounded and complete by itself. Where to go on is a time, which means the same to any client,
in any order, and after this server was started anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from bridge import terminal
from bridge.addresses import OutputAddress
from bridge.authors import author
from bridge.errors import UsageError
from bridge.journal import Cell, Journal
from bridge.kernels.activity import Activity, OthersCell
from bridge.kernels.listing import Status
from bridge.looking.names import NameChanges
from bridge.outputs import DisplayData, Error, ExecuteResult, Output, Stream

# Cells in one answer; nobody reads more of them at once.
CELLS = 50
# More than these run at once only where some hide behind subshells without end.
RUNNING = 5
# Bytes of one cell's code and of its output, where there is room for that: what was done and how it went.
CODE, OUTPUT = 2000, 1000
# Bytes of text that are read for it: what a terminal overwrites is longer than what it shows.
READ = 16 * 1024
# At least one output is read, and it may be an image; no other is read behind so large a one.
READ_SIZE = 1024 * 1024
# Of an answer, what is around the cells.
MARGIN = 1024


@dataclass(frozen=True)
class Watched:
    """A connected kernel, and what else is to be told of it."""

    status: Status
    processes: Mapping[str, int]
    """The epoch of each of its processes, by the process's own id."""
    since: datetime
    names: NameChanges | None = None
    notes: tuple[str, ...] = ()


def activity(journal: Journal, watched: Watched, *, since: str | None, size: int) -> Activity:
    """Return the cells of others that ended after a time, or the newest ones where it is left out, and what runs.

    At most `size` bytes as JSON, but one cell. Raises `UsageError` for a time that is none.
    """
    after = 0.0 if since is None else _read(since)
    cursor = journal.now()  # whatever ends from here on is later
    others = _Others(journal, watched)
    names, notes = _names(watched.names), tuple(_notes(watched, None if since is None else after))
    room = size - MARGIN - _size([watched.status.running, names, notes])
    running = list(_fitting(map(others.told, others.running()), room))
    room -= _size([asdict(each) for each in running])
    found = others.ended(after, newest=since is None)
    cells = list(_fitting(map(others.told, found), room))
    left_out = others.count(after) - len(cells)
    if since is None:
        cells.reverse()
    elif left_out and cells:
        cursor = found[len(cells) - 1].ended or cursor
    return Activity(
        kernel=watched.status.name,
        watched_since=watched.since,
        busy_with=watched.status.running,
        running=tuple(running),
        cells=tuple(cells),
        left_out=left_out,
        cursor=_written(cursor),
        names=names,
        notes=notes,
    )


def _names(changes: NameChanges | None) -> dict[str, tuple[str, ...]] | None:
    if changes is None:
        return None
    return {"bound": changes.bound, "rebound": changes.rebound, "deleted": changes.deleted}


def _notes(watched: Watched, after: float | None) -> Iterator[str]:
    if watched.status.state == "unknown":
        yield "Something runs that began before the bridge came: whose it is the kernel does not tell."
    if watched.status.epoch > 1:
        yield f"The kernel is in epoch {watched.status.epoch}: nothing is left of what cells of earlier ones made."
    if watched.names and watched.names.left_out:
        yield f"{watched.names.left_out} more names are left out; list_variables shows all there are now."
    if after is not None and after < watched.since.timestamp():
        yield (
            f"This server watches since {_written(watched.since)}; what ran before may be missing. What any other saw "
            f"the user can read with `kernel-bridge export {watched.status.name} session.ipynb`."
        )
    yield from watched.notes


def is_of(journal: Journal, cell: int, kernel: str, processes: Iterable[str]) -> bool:
    """Tell whether it is a cell of someone else in a kernel of that name, in one of its processes."""
    theirs, values = _condition(kernel, processes)
    return journal.count(f"id = ? AND {theirs}", cell, *values) > 0


def _condition(kernel: str, processes: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    values = (kernel, *processes)
    return f"number IS NULL AND name = ? AND kernel IN ({', '.join('?' * (len(values) - 1))})", values


class _Others:
    """The cells of one kernel that were not run through this bridge, in all of its processes that it has met."""

    def __init__(self, journal: Journal, watched: Watched) -> None:
        self._journal = journal
        self._watched = watched
        self._now = datetime.now(UTC)
        self._theirs, self._values = _condition(watched.status.name, watched.processes)

    def running(self) -> list[Cell]:
        return list(self._some(f"{self._theirs} AND ended IS NULL ORDER BY id DESC LIMIT {RUNNING}", *self._values))

    def ended(self, after: float, *, newest: bool = False) -> list[Cell]:
        """Return the first cells that ended after a time, in that order; or the last ones, backwards."""
        order = f"ORDER BY ended {'DESC' if newest else 'ASC'} LIMIT {CELLS}"
        found = self._some(f"ended > ? AND {self._theirs} {order}", after, *self._values)
        return sorted(found, key=lambda cell: cell.ended or self._now, reverse=newest)

    def count(self, after: float) -> int:
        return self._journal.count(f"ended > ? AND {self._theirs}", after, *self._values)

    def told(self, cell: Cell) -> OthersCell:
        """Return a cell in few words."""
        who = author(msg_id=cell.msg_id, session=cell.client, username=cell.username)
        return OthersCell(
            cell=cell.id,
            count=cell.count,
            username=who.username,
            session=who.session,
            client=who.client,
            epoch=self._watched.processes[cell.kernel],
            began=cell.began,
            seconds=round(((cell.ended or self._now) - cell.began).total_seconds(), 3),
            code=terminal.cut([terminal.shown(cell.code[:READ])], CODE)[0] if cell.code else None,
            outcome=cell.status,
            output=terminal.cut([self._output(cell.id)], OUTPUT)[0],
        )

    def _some(self, condition: str, *values: object) -> Iterator[Cell]:
        return self._journal.cells(f"id IN (SELECT id FROM cells WHERE {condition})", *values)  # noqa: S608 - our own words; values go beside them

    def _output(self, cell: int) -> str:
        """Return the start of the output and the end of it, where an error would be."""
        first = self._journal.page(cell, 0, text=READ, size=READ_SIZE)
        if first is None:
            return ""
        parts = [self._text(cell, first.outputs)]
        last = self._journal.last_place(cell)
        if first.remaining:
            end = self._journal.page(cell, max(last, first.cursor), text=READ, size=READ_SIZE)
            parts += [f"… {first.remaining} more bytes, at their end:", self._text(cell, end.outputs if end else ())]
        if first.missing:
            parts.append(f"… {first.missing} bytes in the middle of it could not be kept")
        return "\n".join(filter(None, parts))

    def _text(self, cell: int, outputs: Iterable[Output]) -> str:
        return "\n".join(filter(None, (_in_short(each, self._watched.status.name, cell) for each in outputs)))


def _in_short(output: Output, kernel: str, cell: int) -> str:
    """An output as text; of an image and other forms that are none their names, and where the first can be read."""
    match output:
        case Stream(text=text):
            return terminal.shown(_ends(text)).rstrip("\n")
        case Error(ename=ename, evalue=evalue, traceback=traceback):
            return terminal.shown(_ends("\n".join(traceback) or f"{ename}: {evalue}"))
        case DisplayData(data=data, place=place) | ExecuteResult(data=data, place=place):
            rich = [form for form in data if not form.startswith("text/")]
            plain = "" if rich else terminal.shown(_ends(str(data.get("text/plain", ""))))
            told = ", ".join(f"{form} ({_form_size(data[form])} bytes)" for form in rich or data)
            address = "" if place is None else f": {OutputAddress(kernel, cell, place, is_execution=False)}"
            return plain or f"[{told}{address}]"


def _ends(text: str) -> str:
    """The start and the end of a long text, without its middle."""
    return text if len(text) <= 2 * READ else f"{text[:READ]}\n…\n{text[-READ:]}"


def _form_size(content: object) -> int:
    return len(content) * 3 // 4 if isinstance(content, str) else len(json.dumps(content, default=str))


def _fitting(cells: Iterable[OthersCell], room: int) -> Iterator[OthersCell]:
    """Yield cells for as long as there is room; the first in any case, though maybe with less of its text."""
    for place, each in enumerate(cells):
        told = each
        if _size(asdict(each)) > room and not place:
            share = max(0, room // 4)
            told = replace(
                each,
                code=each.code and terminal.cut([each.code], share)[0],
                output=terminal.cut([each.output], share)[0],
            )
        room -= _size(asdict(told))
        if room < 0 and place:
            return
        yield told


def _size(content: object) -> int:
    return len(json.dumps(content, indent=2, ensure_ascii=False, default=str).encode("utf-8", "replace"))


def _read(since: str) -> float:
    try:
        time = datetime.fromisoformat(since.strip())
    except ValueError:
        raise UsageError(
            f"{since[:80]!r} is not a time. Pass the `cursor` of an earlier answer, or a time like "
            f"{_written(datetime.now(UTC))}; without `since` the newest cells are told."
        ) from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _written(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
