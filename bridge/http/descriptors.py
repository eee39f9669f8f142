"""The process's file descriptors: how many it may have, and how many agents that is enough for.

The one rule: an agent too many is refused in words or makes another one leave; it never takes the descriptor that the
next connection, log or journal needs.
"""

from __future__ import annotations

import contextlib
import resource

from bridge import agents
from bridge.http import connections, door

ENOUGH = 8192
"""More than all that we let in; a hard limit may be a thousand million, and what we start would inherit that."""
EACH = 15
"""Of an agent with one kernel, as measured: five channels, what zmq has for each, the journal."""
OWN = 100
"""Of the process itself: modules' files, logs, the engine's client."""


def raise_limit() -> int:
    """Raise the soft limit as far as the hard one allows and is of use; returns what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (ENOUGH if each == resource.RLIM_INFINITY else each for each in (soft, hard))
    wanted = max(soft, min(hard, ENOUGH))
    with contextlib.suppress(OSError, ValueError):  # macOS has a limit below the one that it names
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        return wanted
    return soft


def most_agents(limit: int) -> int:
    """Return how many agents may be there at once under a limit of descriptors."""
    return max(1, min(agents.MOST, (limit - OWN - connections.MOST - door.GREETED) // EACH))
