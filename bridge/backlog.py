"""What has come on one channel and was not read yet: in order, and no more than a bound in bytes, or one message.

The one rule: what is too much is dropped here, where it is counted: not in ZMQ, whose bound counts messages and not
bytes, nor in the kernel, which tells nobody. Output goes first, and the oldest of it: its start was read already, and
its end is here. In its place stands a `Gap`. What tells of a cell's begin and end stays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bridge.messages import Missed

# Of one channel: some tenths of a second of a kernel that prints as fast as it can.
LIMIT = 64 * 2**20
# A message costs that much in memory beside its contents, as an object of Python's for each frame.
OVERHEAD = 600
OUTPUT = frozenset({"stream", "display_data", "update_display_data", "execute_result", "error"})

Frames = list[bytes]


@dataclass(frozen=True)
class Head:
    """What is known of a message without reading all of it."""

    msg_type: str
    parent: dict[str, Any]
    """The header of the request that it answers."""
    size: int
    """Bytes of its contents."""


@dataclass
class Gap:
    """What of the output of one request is missing here."""

    parent: dict[str, Any]
    missed: Missed = field(default_factory=Missed)


class Backlog:
    """`head` looks at a message; None of what is none."""

    def __init__(self, head: Callable[[Frames], Head | None], limit: int = LIMIT) -> None:
        self._head = head
        self._limit = limit
        self._waiting: deque[Frames | Gap] = deque()
        self.size = 0
        """Bytes of all that waits."""

    def add(self, frames: Frames) -> None:
        """Take in what has come last."""
        self._waiting.append(frames)
        self.size += _cost(frames)
        if self.size > self._limit:
            self._thin()

    def take(self) -> Frames | Gap | None:
        """Return what is next; None where nothing waits."""
        if not self._waiting:
            return None
        taken = self._waiting.popleft()
        self.size -= _cost(taken)
        return taken

    def _thin(self) -> None:
        """Drop the oldest down to half of the limit, so that this is seldom done."""
        gaps: dict[str, Gap] = {}
        for only_output in (True, False):
            stays: list[Frames | Gap] = []
            while self.size > self._limit // 2 and len(self._waiting) > 1:
                each = self._waiting.popleft()
                head = None if isinstance(each, Gap) else self._head(each)
                if isinstance(each, Gap):
                    gaps[str(each.parent.get("msg_id"))] = each
                if only_output and (isinstance(each, Gap) or (head and not _is_dispensable(head))):
                    stays.append(each)
                    continue
                self.size -= _cost(each)
                if head and head.msg_type in OUTPUT:
                    request = str(head.parent.get("msg_id"))
                    if request not in gaps:
                        stays.append(gaps.setdefault(request, Gap(head.parent)))
                        self.size += OVERHEAD
                    gaps[request].missed += Missed(1, head.size)
            self._waiting.extendleft(reversed(stays))


def _cost(waiting: Frames | Gap) -> int:
    return OVERHEAD if isinstance(waiting, Gap) else OVERHEAD + sum(map(len, waiting))


def _is_dispensable(head: Head) -> bool:
    """Tell whether no state of the kernel is told by it; of widgets nobody here is told anything."""
    return head.msg_type in OUTPUT or head.msg_type.startswith("comm_")
