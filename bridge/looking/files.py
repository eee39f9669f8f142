"""A sandbox's files, in pieces: the expressions that are sent, and what their answers mean.

The one rule: what the kernel tells of a file is data of bounded size, held against what was asked for and against its
own digest; it is never a path on this side.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Any

from bridge.errors import KernelError, UsageError
from bridge.looking import _COMMON, _MALFORMED, _NAMES, _content, _expression, _near

PIECE = 1 << 20
"""Bytes in one look: some milliseconds. Of a file of any size, neither side holds much more than that."""
FILES = (*_COMMON, "files")
# An answer's base64, with the names of a directory where there is no such file, as escapes.
_LONGEST = PIECE * 4
# Characters of a text of the kernel's, for an error; a path may have 4096.
_SHOWN = 1000


@dataclass(frozen=True)
class Piece:
    """Some of a file."""

    data: bytes
    start: int
    size: int
    """Of the whole file."""
    version: str
    """Another text where the file is another, or has other content; empty where it changed meanwhile."""


def piece_expression(path: str, *, start: int, size: int) -> str:
    """Return the expression whose value is some of a file, as JSON; raises `UsageError` for what is no path."""
    return _files(f"piece(shell, {named(path)!a}, {start:d}, {size:d})")


def write_expression(path: str, draft: str, data: bytes, *, start: int, last: bool, replace: bool) -> str:
    """Return the expression that writes a piece into `draft`, beside the file; with the last one that is the file."""
    told = base64.b64encode(data).decode()
    return _files(f"write(shell, {named(path)!a}, {draft!r}, {start:d}, {told!r}, last={last!r}, replace={replace!r})")


def discard_expression(path: str, draft: str) -> str:
    """Return the expression that removes a draft."""
    return _files(f"discard(shell, {path!a}, {draft!r})")


def read_piece(answer: str, *, start: int, size: int) -> Piece:
    """Read what is told of a file; raises `UsageError` where it cannot be read, `KernelError` for no sound answer."""
    content = _bounded(answer)
    try:
        if "missing" in content:
            raise _missing(content)
        data = base64.b64decode(content["data"], validate=True)
        piece = Piece(data, start, int(content["size"]), str(content["version"])[:_SHOWN])
        digest = str(content["sha256"])
    except _MALFORMED:
        raise _unsound() from None
    if not 0 <= piece.size < 1 << 63 or len(data) > size or digest != hashlib.sha256(data).hexdigest():
        raise _unsound()
    return piece


def read_written(answer: str, data: bytes, *, to_replace: str) -> str:
    """Read what became of a piece, and return the file's whole path in the sandbox; raises as `read_piece`.

    `to_replace` says how a file that exists is replaced.
    """
    content = _bounded(answer)
    if "exists" in content:
        raise UsageError(f"{printable(content['exists'])} exists already and was left as it is; {to_replace}.")
    if content.get("sha256") != hashlib.sha256(data).hexdigest():
        raise _unsound()
    return printable(content.get("place"))


def printable(text: Any) -> str:
    """A text of the kernel's for a person's terminal: bounded, what is not printable as an escape."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "surrogatepass").decode()
        for each in str(text)[:_SHOWN]
    )


def named(path: str) -> str:
    """Return a path; raises `UsageError` for one that names no file."""
    if "\0" in path or path.rpartition("/")[2] in {"", ".", ".."}:
        raise UsageError(f"'{printable(path)}' names no file.")
    return path


def _files(call: str) -> str:
    return _expression(FILES, call)


def _bounded(answer: str) -> dict[str, Any]:
    if len(answer) > _LONGEST:
        raise _unsound()
    try:
        return _content(answer)
    except UsageError as error:
        raise UsageError(printable(error)) from None


def _missing(content: dict[str, Any]) -> UsageError:
    names = [str(each) for each in content["names"][:_NAMES]]
    close = [printable(each) for each in _near(str(content["wanted"]), names)]
    place = printable(content["place"])
    if not place:
        return UsageError(f"There is no {printable(content['missing'])}, nor a directory for it.")
    there = map(printable, sorted(names)[:10])
    near = f"Near it: {', '.join(close)}." if close else f"There is: {', '.join(there) or 'nothing'}."
    return UsageError(f"There is no {printable(content['missing'])} in {place}. {near}")


def _unsound() -> KernelError:
    return KernelError(
        "What the kernel answered is not sound, so nothing of it was taken: something in it has changed how files are "
        "read, or how text is shown. Restarting the kernel puts that right; its variables are lost with that."
    )
