"""What has come on one channel and was not read yet: in order, no more than a bound in bytes beside the newest message.

The one rule: what is too much is dropped here, where it is counted: not in ZMQ, whose bound counts messages and not
bytes, nor in the kernel, which tells nobody. Output goes, and the oldest of it: its start was read already, and its
end is here. In its place stands a `Gap`, which itself never goes. What tells of a cell's begin and end stays, unless
that alone is too much: then what is largest of it goes, counted as well.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge.messages import Missed, text_of

# Of one channel: some tenths of a second of a kernel that prints as fast as it can.
LIMIT = 64 * 2**20
# A message costs that much in memory beside its contents, as an object of Python's for each frame.
OVERHEAD = 600
# That part of the bound may be gaps. What else goes is counted in the last of them: only code that makes up requests
# comes to thousands.
GAPS = 32
# Characters that are kept of a request's id, and of each other text about it: Jupyter's own have some tens.
LONGEST = 128
OUTPUT = frozenset({"stream", "display_data", "update_display_data", "execute_result", "error"})

Frames = list[bytes]


@dataclass(frozen=True)
class Head:
    """What is known of a message without reading all of it."""

    msg_type: str
    parent: dict[str, str]
    """What is needed of the header of the request that it answers: see `request`."""
    size: int
    """Bytes of its contents."""


@dataclass
class Gap:
    """What is missing here of what came for one request."""

    parent: dict[str, str]
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
        if self.size > self._limit:
            self._thin()
        self._waiting.append(frames)
        self.size += _cost(frames)

    def take(self) -> Frames | Gap | None:
        """Return what is next; None where nothing waits."""
        if not self._waiting:
            return None
        taken = self._waiting.popleft()
        self.size -= _cost(taken)
        return taken

    def _thin(self) -> None:
        """Drop so much that this is seldom done: the oldest output, and where little of it waits, what is largest."""
        self._drop(range(len(self._waiting)), _is_dispensable)
        if self.size > self._limit * 3 // 4:
            costs = list(map(_cost, self._waiting))
            self._drop(sorted(range(len(costs)), key=lambda place: -costs[place]), lambda _: True)

    def _drop(self, places: Iterable[int], may_go: Callable[[Head], bool]) -> None:
        """Drop of what is in these places, in their order, what may go, until half of the limit is left."""
        waiting, gone = list(self._waiting), dict[int, Head | None]()
        for place in places:
            if self.size <= self._limit // 2:
                break
            each = waiting[place]
            if isinstance(each, Gap):
                continue
            head = self._head(each)
            if head is None or may_go(head):
                gone[place] = head
                self.size -= _cost(each)
        gaps = {_id_of(each): each for each in waiting if isinstance(each, Gap)}
        self._waiting.clear()
        for place, each in enumerate(waiting):
            head = gone.get(place)
            if place not in gone:
                self._waiting.append(each)
            elif head and not _is_untold(head):
                self._gap_of(head, gaps).missed += Missed(1, head.size)

    def _gap_of(self, head: Head, gaps: dict[str, Gap]) -> Gap:
        found = gaps.get(_id_of(head))
        if found is None and len(gaps) >= max(1, self._limit // GAPS // OVERHEAD):
            return next(reversed(gaps.values()))
        if found is None:
            found = gaps[_id_of(head)] = Gap(head.parent)
            self._waiting.append(found)
            self.size += OVERHEAD
        return found


def request(header: Mapping[str, Any]) -> dict[str, str]:
    """Return what is needed of a request's header, which may be of any size."""
    texts = {name: text_of(header.get(name)) for name in ("msg_id", "msg_type", "session", "username", "subshell_id")}
    return {name: text[:LONGEST] for name, text in texts.items()}


def _id_of(known: Head | Gap) -> str:
    return known.parent["msg_id"]


def _cost(waiting: Frames | Gap) -> int:
    return OVERHEAD if isinstance(waiting, Gap) else OVERHEAD + sum(map(len, waiting))


def _is_dispensable(head: Head) -> bool:
    """Tell whether no state of the kernel is told by it."""
    return head.msg_type in OUTPUT or _is_untold(head)


def _is_untold(head: Head) -> bool:
    """Tell whether nobody here is told anything of it anyway: it is of a widget."""
    return head.msg_type.startswith("comm_")
