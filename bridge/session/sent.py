"""Our cells that were sent and have not ended: who watches and awaits each, and when it has ended.

The one rule: whatever a kernel sends or leaves out, a cell that was sent ends once, and all who wait for it are told.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from bridge.execution import Execution
from bridge.messages import Message
from bridge.outputs import Result

# After a reply the idle is milliseconds away, or behind more output; where neither comes any more, the cell has ended
# all the same (rule 6).
IDLE_GRACE = 1.0

ENDED_UNSEEN = "It has ended meanwhile; how, and what it printed, was lost with the connection."
UNSENT = "It was sent just when the connection was lost; whether any of it ran is not known."

log = logging.getLogger(__name__)

OnMessage = Callable[[Message], None]
OnEnd = Callable[[Result | None], None]
"""Called once, with the result, when a cell has ended or is lost, or with None where it could not be sent."""


@dataclass
class Cell:
    """One of them."""

    execution: Execution
    listener: OnMessage | None
    on_end: OnEnd | None = None
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while there is something to tell: it asks, or has ended."""
    begun: float | None = None
    """When it was first seen to run, by the loop's clock."""
    grace: asyncio.TimerHandle | None = None
    """After the reply, until the idle is no longer waited for."""
    unwanted: bool = False
    """Nobody waits for it any more: it is interrupted as soon as it starts."""
    adrift: bool = False
    """The connection is lost, and nothing more of it comes to whoever waits for it."""


class Sent:
    """The cells; `ending` is called with each just before those who wait for it are told.

    `overdue` is called where the reply to one is late: whoever has the kernel reply to something else then knows more.
    """

    def __init__(self, ending: Callable[[Execution], None], overdue: Callable[[], None]) -> None:
        self._ending = ending
        self._overdue = overdue
        self._cells: dict[str, Cell] = {}
        self._newest: Execution | None = None
        self._earlier: list[Execution] = []
        self.heard = 0.0
        """When the kernel was last heard, by the loop's clock."""

    @property
    def current(self) -> Execution | None:
        """The newest one, unless it has ended."""
        return self._newest if self._newest is not None and not self._newest.done else None

    def of(self, execution: Execution) -> Cell | None:
        """Return what is known of one that has not ended."""
        return self._cells.get(execution.msg_id)

    def add(self, execution: Execution, listener: OnMessage | None) -> Cell:
        """Take in one that is about to be sent."""
        cell = self._cells[execution.msg_id] = Cell(execution, listener)
        self._newest = execution
        return cell

    def withdraw(self, execution: Execution) -> None:
        """Forget one that was never sent, so that nobody waits for it."""
        self._newest = None
        cell = self._cells.pop(execution.msg_id, None)
        if cell is None:
            return
        cell.finished.set()  # the next one in turn waits for it already
        if cell.on_end:
            cell.on_end(None)

    async def end_of(self, execution: Execution) -> None:
        """Wait for the end of one."""
        cell = self.of(execution)
        if cell is not None:
            await cell.finished.wait()

    # -- across a lost connection

    def set_adrift(self) -> None:
        """Have nobody wait here any more for those that have not ended: the connection is lost."""
        for cell in self._cells.values():
            if cell.grace is not None:
                cell.grace.cancel()
            cell.adrift = True
            cell.finished.set()
            cell.news.set()

    def take(self, before: Sent) -> list[Execution]:
        """Take over those that were sent in a session that is over, and return them."""
        for msg_id, cell in before._cells.items():
            self._cells[msg_id] = replace(
                cell, adrift=False, grace=None, finished=asyncio.Event(), news=asyncio.Event()
            )
        self._newest, before._cells = before._newest, {}
        self._earlier = [each.execution for each in self._cells.values()]
        return self.earlier

    def adopt(self, execution: Execution) -> None:
        """Take over one that was sent by a bridge that has ended."""
        self.add(execution, None)
        self._earlier = [execution]

    @property
    def earlier(self) -> list[Execution]:
        """Those that were taken over and are not known to have ended."""
        return [each for each in self._earlier if not each.done]

    @property
    def unreplied(self) -> list[Execution]:
        """Those that have ended and whose reply has not come."""
        return [cell.execution for cell in self._cells.values() if cell.execution.unreplied]

    def end_unseen(self, executions: list[Execution]) -> None:
        """End those of which the kernel must have sent the reply before now: mostly it was lost with the connection."""
        for execution in executions:
            if execution.replied:
                self.idle_never_came(execution)
            elif execution.unreplied:
                execution.end_unreplied()
                self.settle(execution)
            elif not execution.done:
                execution.lose(ENDED_UNSEEN if execution.started else UNSENT)
                self.settle(execution)

    # -- who watches

    def listen(self, execution: Execution, listener: OnMessage | None) -> None:
        """Have the messages of one go to a listener from now on, or to none."""
        cell = self.of(execution)
        if cell is not None:
            cell.listener = listener

    @contextlib.contextmanager
    def heard_by(self, execution: Execution, listener: OnMessage | None) -> Iterator[None]:
        """Have the messages of one go to `listener` for a time, if there is one and the cell has not ended."""
        cell = self.of(execution)
        if listener is None or cell is None:
            yield
            return
        before, cell.listener = cell.listener, listener
        try:
            yield
        finally:
            if cell.listener is listener:
                cell.listener = before

    # -- receiving

    def saw(self, execution: Execution, message: Message) -> None:
        """Take a message that one was fed with."""
        cell = self.of(execution)
        if cell is None:
            return
        loop = asyncio.get_running_loop()
        if execution.running and cell.begun is None:
            cell.begun = loop.time()
        if cell.listener:
            _tell(cell, cell.listener, message)
        if message.msg_type == "execute_reply" and not execution.done:
            cell.grace = loop.call_later(IDLE_GRACE, self.idle_never_came, execution)
        elif execution.unreplied and cell.grace is None:
            cell.grace = loop.call_later(IDLE_GRACE, self._overdue)

    def idle_never_came(self, execution: Execution) -> None:
        """End one whose reply came long ago; where output still comes, wait on."""
        cell = self.of(execution)
        if cell is None or execution.done:
            return
        loop = asyncio.get_running_loop()
        if loop.time() - self.heard < IDLE_GRACE / 2:
            # after a flood the reply is far ahead: its idle stands behind all the output that is still to be read
            cell.grace = loop.call_later(IDLE_GRACE, self.idle_never_came, execution)
            return
        execution.close("The kernel did not report idle after the cell's reply; output may be missing.")
        self.settle(execution)

    def settle(self, execution: Execution) -> None:
        """Tell all who wait that one has ended, and forget it."""
        self._ending(execution)
        cell = self._cells.pop(execution.msg_id, None)
        if cell is None:
            return
        if cell.grace is not None:
            cell.grace.cancel()
        cell.finished.set()
        cell.news.set()
        if cell.on_end:
            cell.on_end(execution.result())


def _tell(cell: Cell, listener: OnMessage, message: Message) -> None:
    try:
        listener(message)
    except Exception:
        # what the caller does with a message is the caller's affair: the cell's result must come all the same
        log.exception("whoever watched execution %s failed and is told no more of it", message.parent_id)
        cell.listener = None
