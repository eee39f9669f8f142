"""What an IDE does through its relay, in the audit: its cells, what its debugger runs, its interrupts, its answers.

The one rule: bookkeeping without a socket. What carries code is told before it is passed on, and each has exactly one
end; of what is not known to carry none, it is taken that it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.audit import Action, Audit, class_name
from bridge.ide.wire import Frames
from bridge.messages import mapping, text_of

_WITHOUT_CODE = {
    *("kernel_info_request", "connect_request", "comm_info_request", "history_request", "usage_request"),
    *("complete_request", "inspect_request", "is_complete_request", "interrupt_request", "shutdown_request"),
    *("create_subshell_request", "delete_subshell_request", "list_subshell_request"),
    # a widget's callback runs in the kernel, but the code of it was there already
    *("comm_open", "comm_msg", "comm_close"),
    "input_reply",
}
_DEBUGS_WITHOUT_CODE = {
    *("initialize", "configurationDone", "debugInfo", "disconnect", "terminate"),
    *("threads", "stackTrace", "scopes", "variables", "inspectVariables", "modules", "source", "exceptionInfo"),
    *("continue", "next", "stepIn", "stepOut", "pause"),
    "dumpCell",  # it is written to a file for the debugger, and runs when it is executed
}
_PLAIN_BREAKPOINT = {"line", "column"}


class Recorded:
    """One relay's acts on one kernel; `kernel` is how the audit names it."""

    def __init__(self, audit: Audit, kernel: Mapping[str, Any]) -> None:
        self._audit, self._kernel = audit, dict(kernel)
        self._runs: dict[str, Action] = {}

    def asked(self, message: Frames, content: Mapping[str, Any]) -> None:
        """Tell of a message that has the kernel run code; raises `NotAudited`, and it must not be passed on then.

        `content` is of what the ledger reads.
        """
        if message.msg_type in _WITHOUT_CODE:
            return
        if message.msg_type == "execute_request":
            told = self._cell(content)
        elif message.msg_type != "debug_request":
            told = {"request": message.msg_type, **self._audit.code(b"".join((message.parts[3], *message.buffers)))}
        elif _debugs_without_code(content):
            return
        else:
            command = text_of(content.get("command"))
            expression = text_of(mapping(content.get("arguments")).get("expression")) if command == "evaluate" else ""
            code = self._audit.code(expression or message.parts[3])
            told = {"request": message.msg_type, "command": command or None, **code}
        self._runs[message.msg_id] = self._audit.begin("execute", kernel=self._kernel, **told)

    def _cell(self, content: Mapping[str, Any]) -> dict[str, Any]:
        # what an IDE looks at runs as well, and nobody sees it
        expressions = "\n".join(map(str, mapping(content.get("user_expressions")).values()))
        looks = self._audit.code(expressions).get("code") if expressions else None
        silent = True if content.get("silent") is True else None
        return {"silent": silent, "expressions": looks, **self._audit.code(text_of(content.get("code")))}

    def answered(self, msg_id: str, message: Frames) -> None:
        """Tell how what was asked has ended, by its reply; of anything else that was asked nothing is told."""
        run = self._runs.pop(msg_id, None)
        if run is None:
            return
        reply = message.content()
        name, status = class_name(text_of(reply.get("ename"))), text_of(reply.get("status"))
        if status == "ok" or reply.get("success") is True:  # a debugger's words
            run.end("ok")
        elif status in ("aborted", "abort"):
            run.end("aborted")
        else:  # code in the kernel can answer anything
            run.end("interrupted" if name == "KeyboardInterrupt" else "error", error=name)

    def lost(self, msg_id: str) -> None:
        """Tell that the kernel will not answer what was asked any more."""
        run = self._runs.pop(msg_id, None)
        if run is not None:
            run.end("lost")

    def over(self) -> None:
        """Tell that of nothing that still runs the end will be seen."""
        for msg_id in list(self._runs):
            self.lost(msg_id)

    def interrupt(self) -> None:
        """Tell of an interrupt, which is sent in any case."""
        self._audit.begin("interrupt", ending=True, kernel=self._kernel).end("ok")

    def answer(self) -> None:
        """Tell that a question is answered; raises `NotAudited`, and the answer must not be passed on then."""
        self._audit.begin("input", kernel=self._kernel).end("ok")


def _debugs_without_code(content: Mapping[str, Any]) -> bool:
    command = text_of(content.get("command"))
    if command == "setBreakpoints":
        # one with a condition, a count or a message to log has the debugger evaluate it
        asked = mapping(content.get("arguments")).get("breakpoints")
        return isinstance(asked, list) and all(
            isinstance(each, dict) and each.keys() <= _PLAIN_BREAKPOINT for each in asked
        )
    return command in _DEBUGS_WITHOUT_CODE
