"""Programs that a test talks with over pipes.

The one rule: nobody waits for a pipe for ever. A program that is late is killed with all that it has started, and then
whoever reads from it comes to the pipe's end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

# A program that starts a sandbox on a busy machine, and whatever the test has it do.
LONGEST = 180.0


@contextmanager
def piped(
    command: Sequence[str], *, stdin: int | None = None, stdout: int | None = None, stderr: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Start a program with some of its pipes to the test, as text; the block ends when the program has ended."""

    def give_up() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)

    running = subprocess.Popen(command, text=True, start_new_session=True, stdin=stdin, stdout=stdout, stderr=stderr)
    late = threading.Timer(LONGEST, give_up)
    late.start()
    try:
        with running:
            yield running
    finally:
        late.cancel()
