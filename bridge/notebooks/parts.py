"""What stands in an exported history, whatever its format: the cells, and what is said between them.

The one rule: nothing is added to anybody's code or output. Who ran a cell, what is missing and where the kernel was
restarted is said in Markdown of its own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bridge.journals import Entry, History

_SPECIAL = re.compile(r"([\\`*_\[\]<>&$|~])")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NOT_IN_TAG = re.compile(r"[^A-Za-z0-9._-]+")
_UNSEEN = "This cell began before a bridge was connected: its code and earlier output were not seen."


@dataclass(frozen=True)
class Remark:
    """Markdown that stands between cells."""

    id: str
    markdown: str


def parts(
    history: History, entries: Iterable[Entry], *, forgotten: bool = False, only: str | None = None
) -> Iterator[Remark | Entry]:
    """Yield everything in its order.

    `forgotten` says that older cells had to make room, `only` whose cells were chosen.
    """
    yield Remark("kernel-bridge", _beginning(history, forgotten=forgotten, only=only))
    process = told = None
    for entry in entries:
        cell, mark = entry.cell, cell_id(entry)
        if process not in (None, cell.kernel):
            yield Remark(f"restart-{mark}", "**The kernel was restarted here. All variables from before are lost.**")
            told = None
        process = cell.kernel
        if told != by(entry):
            told = by(entry)
            yield Remark(f"by-{mark}", f"*{escaped(told)}, {cell.began:%Y-%m-%d %H:%M} UTC*")
        if not entry.has_begin:
            yield Remark(f"begin-{mark}", f"*{_UNSEEN}*")
        yield entry
        ending = _ending(entry)
        if ending:
            yield Remark(f"end-{mark}", f"*{ending}*")


def by(entry: Entry) -> str:
    """Return who ran a cell."""
    return in_one_line(entry.cell.username)[:80] or "another client"


def tag(entry: Entry) -> str:
    """Return the cell tag that tells who ran it."""
    return f"by-{_NOT_IN_TAG.sub('-', by(entry)).strip('-') or 'other'}"


def cell_id(entry: Entry) -> str:
    """Return an id for the cell that is the same in each export."""
    return hashlib.sha256(f"{entry.cell.kernel} {entry.cell.msg_id}".encode("utf-8", "replace")).hexdigest()[:16]


def escaped(text: str) -> str:
    """Return text as Markdown shows it as it is."""
    return _SPECIAL.sub(r"\\\1", text)


def in_one_line(name: str) -> str:
    """Return a name in characters that can be seen; what nobody should be called must not end a comment."""
    return " ".join("".join(each if each.isprintable() else "\ufffd" for each in name).split())


def sound(text: str) -> str:
    """Return text that can be encoded."""
    return _SURROGATE.sub("\ufffd", text)


def _beginning(history: History, *, forgotten: bool, only: str | None) -> str:
    older = " Older cells had to make room for newer ones (`calls.kept_output` in the policy)." if forgotten else ""
    chosen = f" Of these only the cells of {escaped(only)} were chosen." if only else ""
    return (
        f"# {escaped(in_one_line(history.name))}\n\n"
        f"What ran in this kernel from {history.first:%Y-%m-%d %H:%M} to {history.last:%Y-%m-%d %H:%M} UTC, as far as "
        f"kernel-bridge saw it: cells that ran while no bridge was connected are not here.{older}{chosen}"
    )


def _ending(entry: Entry) -> str | None:
    """Return what a reader must know of how a cell ended; None where it ended as cells do."""
    if entry.cell.status == "aborted":
        return "This cell never ran: one that failed before it cleared the queue."
    if entry.cell.status == "lost":
        return "The kernel, or the connection to it, ended before this cell did."
    if entry.cell.ended is not None:
        return None
    if entry.is_going_on:
        return "This cell had not ended when this was written."
    return "The bridge that saw this cell ended before the cell did, so output may be missing."
