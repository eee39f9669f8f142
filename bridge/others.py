"""What other clients do in a kernel, as far as iopub tells: whose requests keep it busy, and each of their cells.

The one rule: a fold over the messages that answer others' requests, without a task, a wait or a time-out; `session`
knows what to wait for. Busy is a set of requests, not the last status.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from bridge import terminal
from bridge.execution import Execution
from bridge.journal import Record
from bridge.messages import Message, text_of

# What their cells print is read from the journal alone.
KEPT = 1024
# Of their requests, when all are told: a person's notebook queues some, nobody reads hundreds.
TOLD = 10


@dataclass
class Request:
    """A request of someone else that the kernel works on."""

    username: str
    since: datetime
    cell: Execution | None = None
    """Once it is known to be a cell."""

    def __str__(self) -> str:
        """Describe it for the reader of an error: whose, what, since when."""
        first = terminal.first_line(self.cell.code if self.cell else "")
        what = f"`{first}`" if first else "a request"
        return f"{what} of {terminal.first_line(self.username) or 'another client'}, since {self.since:%H:%M:%S} UTC"


class Others:
    """Everyone else on one connection: `see` takes each message that answers a request of theirs.

    `record` begins a cell's record, by the message that tells of it and its code; `on_activity` is called when a cell
    begins or ends.
    """

    def __init__(self, record: Callable[[Message, str], Record | None], on_activity: Callable[[], None]) -> None:
        self._record = record
        self._on_activity = on_activity
        self.requests: dict[str, Request] = {}
        """Those that keep the kernel's main thread busy, by message id."""
        # also those that keep nobody waiting: in subshells, or begun before this connection
        self._cells: dict[str, Execution] = {}
        # by request, if it was before this connection that it began, so that its code was not seen; None once all have
        # ended that could have
        self._earlier: dict[str, bool] | None = {}

    @property
    def run_a_cell(self) -> bool:
        """A cell of theirs is seen to run."""
        return any(each.cell for each in self.requests.values())

    def phrases(self) -> list[str]:
        """What their requests are known to run, each as a phrase; of very many the first."""
        told = [str(each) for each in itertools.islice(self.requests.values(), TOLD)]
        more = len(self.requests) - len(told)
        return [*told, f"{more} more requests"] if more else told

    def see(self, message: Message) -> None:
        """Take a message; what is not on iopub, or answers nothing, changes nothing."""
        if message.channel != "iopub" or not message.parent_id:
            return
        state = message.content.get("execution_state") if message.msg_type == "status" else None
        if state == "busy" and not message.in_subshell:
            self.requests[message.parent_id] = Request(message.parent_username, datetime.now(UTC))
            if self._earlier is not None:
                self._earlier[message.parent_id] = False
        cell = self._cells.get(message.parent_id)
        if cell is None and (message.msg_type == "execute_input" or self._is_earlier(message)):
            cell = self._begin(message)
        if cell is not None:
            cell.feed(message)
            if cell.done:
                self._end([message.parent_id])
        if state == "idle":
            self.requests.pop(message.parent_id, None)

    def free(self, requests: Iterable[str]) -> None:
        """The kernel has answered behind these requests: none of them keeps it busy, also where no idle came."""
        for msg_id in requests:
            self.requests.pop(msg_id, None)

    def end(self, requests: Iterable[str]) -> None:
        """These have ended, and all that began before this connection: what they printed had time to come."""
        earlier = (self._earlier or {}).items()
        self._end([*requests, *(msg_id for msg_id, was_before in earlier if was_before)])
        self._earlier = None

    def lose(self, sentence: str) -> None:
        """Record that the kernel or the way to it ended before their cells did."""
        for cell in self._cells.values():
            cell.lose(sentence)
        self._end([*self._cells])

    def write(self) -> None:
        """Write all that their running cells have printed into the journal now."""
        for cell in self._cells.values():
            cell.write()

    def _is_earlier(self, message: Message) -> bool:
        """Tell whether this is of a cell that had begun before this connection, and is the first that comes of it."""
        if self._earlier is None or message.parent_type != "execute_request" or message.in_subshell:
            return False
        if message.parent_id in self._earlier:
            return False
        self._earlier[message.parent_id] = True
        return True

    def _begin(self, message: Message) -> Execution:
        code = text_of(message.content.get("code"))
        record = self._record(message, code)
        cell = self._cells[message.parent_id] = Execution(0, message.parent_id, code, keep=KEPT, record=record)
        if message.parent_id in self.requests:
            self.requests[message.parent_id].cell = cell
        self._on_activity()
        return cell

    def _end(self, msg_ids: Iterable[str]) -> None:
        for cell in filter(None, [self._cells.pop(each, None) for each in msg_ids]):
            cell.close()
            self._on_activity()
