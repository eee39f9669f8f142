"""What the IDE has asked and was not answered yet, what runs in the kernel, and what the IDE holds in it.

The one rule: bookkeeping without a socket. A request is here from its arrival until its reply, so that whatever becomes
of the kernel each of them gets exactly one answer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from bridge.ide.wire import Frames
from bridge.messages import Channel, number, text_of

# The requests whose content says more than that they are to be answered.
READ = {"execute_request", "debug_request", "delete_subshell_request"}


@dataclass(frozen=True)
class Request:
    """One request of the IDE's."""

    channel: Channel
    """Where it came from, and its reply goes."""
    route: list[bytes]
    header: dict[str, Any]

    @property
    def msg_type(self) -> str:
        """What was asked."""
        return text_of(self.header.get("msg_type"))

    @property
    def reply_type(self) -> str:
        """The type of its reply (messaging specification: `X_request` is answered by `X_reply`)."""
        return self.msg_type.removesuffix("_request") + "_reply"


class Ledger:
    """Requests by their message id."""

    def __init__(self) -> None:
        self._open: dict[str, Request] = {}
        self._cells: set[str] = set()
        self._running: dict[str, bool] = {}
        self._subshells: set[str] = set()
        self._debugs = False
        self.question: Request | None = None
        """The IDE's cell that stands still until somebody answers it."""
        self.count = 0
        """The last execution number that the kernel told."""

    def asked(self, message: Frames, channel: Channel, content: dict[str, Any]) -> None:
        """Note what comes from the IDE; `content` of what is in `READ`."""
        if message.msg_type == "input_reply":
            self.question = None
        if not message.msg_type.endswith("_request"):
            return
        self._open[message.msg_id] = Request(channel, message.route, message.header)
        if is_cell(content) and message.msg_type == "execute_request":
            self._cells.add(message.msg_id)
        elif message.msg_type == "delete_subshell_request":
            self._subshells.discard(text_of(content.get("subshell_id")))
        elif message.msg_type == "debug_request":
            self._debugs = (self._debugs or content.get("command") == "attach") and content.get("command") not in (
                "disconnect",
                "terminate",
            )

    def answered(self, message: Frames) -> Request | None:
        """Note a reply and return the request that it answers; None where that is not an open one of the IDE's."""
        parent_id = text_of(message.parent().get("msg_id"))
        if message.msg_type == "execute_reply":
            self.counted(message)
            if self.question and self.question.header.get("msg_id") == parent_id:
                self.question = None
        elif message.msg_type == "create_subshell_reply":
            self._subshells.add(text_of(message.content().get("subshell_id")))
        return self._open.pop(parent_id, None)

    def questioned(self, message: Frames) -> None:
        """Note that a cell of the IDE's asks for input."""
        self.question = Request("stdin", message.route, message.parent())

    def open(self) -> list[str]:
        """Return the message ids of the requests that have no reply yet."""
        return list(self._open)

    def taken(self, ids: Collection[str]) -> Iterator[Request]:
        """Yield those of these requests that have no reply yet, and forget them: they are answered otherwise."""
        for each in ids:
            if found := self._open.pop(each, None):
                yield found

    def counted(self, message: Frames) -> None:
        """Note the execution number in a message's content."""
        self.count = number(message.content().get("execution_count"), self.count) or 0

    def is_cell(self, msg_id: str) -> bool:
        """Tell whether a cell of the IDE's that a person sees, and that has not ended, has this id."""
        return msg_id in self._cells

    # -- what runs

    def status(self, message: Frames) -> None:
        """Note a status message: which code the kernel runs, whoever sent it, and that it has ended."""
        parent, state = message.parent(), message.content().get("execution_state")
        msg_id = text_of(parent.get("msg_id"))
        if state == "idle":
            self._running.pop(msg_id, None)
            self._cells.discard(msg_id)
        elif state == "busy" and parent.get("msg_type") == "execute_request":
            self._running[msg_id] = msg_id in self._open

    @property
    def own_runs(self) -> bool:
        """Whether code of the IDE's is seen to run in the kernel."""
        return any(self._running.values())

    # -- what the IDE holds in the kernel

    def restarted(self) -> None:
        """The process is gone, and with it all that ran in it and was held; what is open is for the next one."""
        self._running.clear()
        self._cells.intersection_update(self._open)
        self._subshells.clear()
        self._debugs, self.question = False, None

    def farewell(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield what is to be asked of the kernel when the IDE has left, so that nothing waits for it."""
        if self.question:
            yield "interrupt_request", {}
        if self._debugs:  # it may stand at a breakpoint
            arguments = {"restart": False, "terminateDebuggee": False}
            yield "debug_request", {"seq": 0, "type": "request", "command": "disconnect", "arguments": arguments}
        for each in self._subshells:
            yield "delete_subshell_request", {"subshell_id": each}


def is_cell(content: dict[str, Any]) -> bool:
    """Tell whether the code of an `execute_request` is what a person sees run: not silent, and counted."""
    return not content.get("silent") and content.get("store_history", True) is not False
