"""What a person sees of long work: on a terminal one line that lives, elsewhere every line as it comes.

The one rule: nothing that went wrong is lost with the line. Where the work fails, its last lines are shown in full.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections import deque
from types import TracebackType
from typing import Self

from bridge.cli import say
from bridge.errors import BridgeError

TICK = 0.5
"""Seconds; so that the time goes on where the work says nothing."""
SHOWN_AFTER_FAILURE = 20

_STEP = re.compile(r"#\d+ (\[[^]]*\d+/\d+\]) ?(.*)")
"""BuildKit's line at the beginning of a step: `#7 [packages 3/4] RUN …`."""
_WITHIN_STEP = re.compile(r"#\d+ (?:\d+\.\d+ ?)?(.*)")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Progress:
    """One long piece of work, as a context manager; `say` is for our own words, `watch` for a command's lines."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._begun = time.monotonic()
        self._step = ""
        self._text = ""
        self._last: deque[str] = deque(maxlen=SHOWN_AFTER_FAILURE)
        self._writing = threading.Lock()
        self._over = threading.Event()
        self._ticking = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Self:
        if self._live:
            self._ticking.start()
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        if not self._live:
            return
        self._over.set()
        self._ticking.join()
        self._write("\r\x1b[K")
        if isinstance(error, BridgeError):
            for line in self._last:
                say(line)

    def say(self, text: str) -> None:
        """Tell what is done; it stays."""
        if not self._live:
            say(text)
            return
        with self._writing:
            self._step = self._text = ""
            self._write(f"\r\x1b[K{text}\n")
        self._draw()

    def watch(self, line: str) -> None:
        """Show a line of a command, until the next one comes."""
        if not self._live:
            say(line)
            return
        plain = "".join(each for each in _ESCAPES.sub("", line) if each.isprintable())
        self._last.append(plain)
        if step := _STEP.fullmatch(plain):
            self._step, self._text = step[1], step[2]
        elif within := _WITHIN_STEP.fullmatch(plain):
            self._text = within[1] or self._text
        else:
            self._text = plain
        self._draw()

    def count(self, text: str) -> None:
        """Show how far it is, where the line lives; elsewhere nobody wants a line for each step."""
        if self._live:
            self._text = text
            self._draw()

    def _tick(self) -> None:
        while not self._over.wait(TICK):
            self._draw()

    def _draw(self) -> None:
        try:
            width = os.get_terminal_size(sys.stderr.fileno()).columns
        except OSError:
            width = 80
        seconds = int(time.monotonic() - self._begun)
        elapsed = f"{seconds // 60}:{seconds % 60:02}"
        line = "  ".join(filter(None, (elapsed, self._step, self._text)))
        with self._writing:
            self._write(f"\r\x1b[K{line[: max(width - 1, 10)]}")

    @staticmethod
    def _write(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
