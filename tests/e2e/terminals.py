"""Programs in a terminal of their own, and a person who types there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pexpect  # type: ignore[import-untyped]

SOON = 60
AGAIN = 2
PROMPT = r"In \[\d+\]: "


@contextmanager
def terminal(program: str, *arguments: str, kind: str = "dumb") -> Iterator[Any]:
    """Run a program of this environment, by its module's name, in a terminal that is closed with the block.

    A dumb one shows each prompt once, which is easier to wait for; on it a console takes Ctrl-D not always.
    """
    environment = os.environ | {"TERM": kind, "NO_COLOR": "1"}
    child = pexpect.spawn(
        sys.executable,
        ["-m", program, *arguments],
        timeout=SOON,
        encoding="utf-8",
        dimensions=(50, 200),
        env=environment,
    )
    try:
        yield child
    finally:
        child.close(force=True)


def left(child: Any) -> int:
    """Wait until the program has ended, and return its exit code."""
    child.expect(pexpect.EOF)
    child.close()
    return int(child.exitstatus)


def typed(child: Any, code: str) -> None:
    """Type a cell at the next prompt."""
    child.expect(PROMPT)
    child.send(f"{code}\r")


def ctrl_d(child: Any, follows: Any = pexpect.EOF) -> None:
    """Press Ctrl-D until this follows: while the prompt is drawn anew, as under others' output, one may be lost."""
    for _ in range(SOON // AGAIN):
        child.sendeof()
        if child.expect([follows, pexpect.TIMEOUT], timeout=AGAIN) == 0:
            return
    raise AssertionError(str(child))
