"""The person's answers to what a cell asks: lines of standard input, typed at a terminal or piped in.

The one rule: it never blocks, so that Ctrl-C and the end of the question reach it. A line that cannot come any more is
told as `NoAnswer`.
"""

from __future__ import annotations

import contextlib
import os
import sys

import click

from bridge.cli import descriptors, say
from bridge.errors import NoAnswer

_END_OF_FILE = "\x04"
"""What ipykernel takes for Ctrl-D: `input()` then raises `EOFError`."""


class Answers:
    """Standard input, line after line; called with a kernel's name and what its cell asks."""

    def __init__(self) -> None:
        # its number, as Python's own object is at its end where FILE was `-`, while a terminal goes on
        self._descriptor = 0
        self._read = b""

    async def __call__(self, _: str, prompt: str) -> str:
        """Show the question, and return the line that answers it without its end; raises `NoAnswer`."""
        click.echo(prompt, err=True, nl=False)
        at_terminal, line = self._is_terminal(), b""
        try:
            line = await self._line()
        finally:
            if prompt and not (at_terminal and line):
                say("")  # nobody has pressed Enter, so the cursor is still behind the question
        if line:
            return line.removesuffix(b"\n").decode(errors="replace")
        if at_terminal:
            return _END_OF_FILE
        raise NoAnswer(
            "The cell asks for input, and standard input has no line left to answer with, so the cell was interrupted. "
            "Run it at a terminal, or pipe in one line for each question."
        )

    def _is_terminal(self) -> bool:
        with contextlib.suppress(OSError):
            return os.isatty(self._descriptor)
        return False

    async def _line(self) -> bytes:
        """Return a line with its end; the last one may have none, and after it they are empty."""
        while b"\n" not in self._read:
            piece = await self._piece()
            if not piece:
                rest, self._read = self._read, b""
                return rest
            self._read += piece
        line, end, self._read = self._read.partition(b"\n")
        return line + end

    async def _piece(self) -> bytes:
        if sys.stdin is None:
            return b""  # it was closed from the beginning, and its number is another file's by now
        try:
            return await descriptors.read(self._descriptor)
        except OSError:
            return b""  # closed, or a terminal that is gone
