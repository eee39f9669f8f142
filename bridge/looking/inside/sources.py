"""Lines of source: of cells as IPython keeps them, of files where they are regular and small."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridge.looking.inside.describing import known

LARGEST_FILE = 2_000_000  # bytes; Python's own longest modules have half of that
LONGEST = 600  # lines of a definition, which are tokenized to find its end: some ten milliseconds
LINE = 240  # characters of a line


def cells_of(shell: Any) -> dict[str, int]:
    """The names under which cells were compiled, with the newest number that each has."""
    names = getattr(getattr(shell, "compile", None), "_filename_map", {})
    return {name: number for name, number in dict(names).items() if type(name) is str and type(number) is int}


def lines_of(file: Any) -> list[str]:
    """The lines of a file or a cell; none where it cannot be read. Nothing is put into Python's own cache."""
    if type(file) is not str:
        return []
    cache = known("linecache", "cache")
    kept = cache.get(file) if type(cache) is dict else None
    # of a lazy entry the loader would be called, which may be anybody's
    if type(kept) is tuple and len(kept) == 4 and type(kept[2]) is list:
        return [each for each in kept[2] if type(each) is str]
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)  # a pipe must not hold the look up
    except (OSError, ValueError):
        return []
    with open(handle, "rb") as opened:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode) or about.st_size > LARGEST_FILE:
            return []
        return opened.read().decode("utf-8", "replace").splitlines(keepends=True)


def is_library(file: str) -> bool:
    """Whether a file that is no cell belongs to Python or to an installed package."""
    if file.startswith("<") or "site-packages" in file or "dist-packages" in file:
        return True
    return file.startswith(os.path.dirname(os.__file__) + os.sep)


def block_at(lines: list[str], first: int) -> list[str]:
    """The definition that begins in a line, counted from 1, as far as it is told: `LONGEST` lines."""
    block = lines[first - 1 : first - 1 + LONGEST]
    with contextlib.suppress(Exception):  # what the tokenizer cannot read, or not to the end, is told without an end
        block = sys.modules["inspect"].getblock(block)
    return [each.rstrip("\n")[:LINE] for each in block]


def around(file: Any, line: int, before: int, after: int) -> str:
    """Some lines with their numbers, the one that is meant marked."""
    lines = lines_of(file)
    shown = range(max(1, line - before), min(len(lines), line + after) + 1)
    return "\n".join(
        "%s%5d %s" % (">" if each == line else " ", each, lines[each - 1].rstrip("\n")[:LINE]) for each in shown
    )


def place_of(cells: dict[str, int], file: Any) -> str:
    """A file as a person calls it: a cell by its number."""
    if type(file) is not str:
        return "?"
    return "cell In[%d]" % cells[file] if file in cells else file


def class_line(lines: list[str], name: str, before: int | None) -> int:
    """The line in which a class of that name begins, the last one before a line inside of it; 0 for none."""
    head = "class " + name
    found = [
        number
        for number, line in enumerate(lines if before is None else lines[:before], 1)
        if line.lstrip().startswith(head) and not line.lstrip()[len(head) : len(head) + 1].isidentifier()
    ]
    return found[-1] if found else 0
