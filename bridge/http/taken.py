"""Who has a port that we cannot have.

The one rule: clients send their token to whoever listens where we are expected. So another user's program there is told
of as one that may know it.
"""

from __future__ import annotations

import os
from pathlib import Path

TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTENS = "0A"


def by_another_user(port: int) -> int | None:
    """Return the uid of one that listens on a port and is not ours; None where there is none, or none is told of."""
    return next((uid for each in TABLES for uid in _listening(each, port) if uid != os.geteuid()), None)


def _listening(table: Path, port: int) -> list[int]:
    try:
        rows = [line.split() for line in table.read_text("ascii", "replace").splitlines()[1:]]
    except OSError:  # another system than Linux
        return []
    # number, local address, remote address, state, queues, timer, retransmits, uid
    return [int(row[7]) for row in rows if row[3] == _LISTENS and int(row[1].rpartition(":")[2], 16) == port]
