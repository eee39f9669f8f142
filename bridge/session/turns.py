"""A cell's way to the kernel: when it is sent, and that it is recorded before.

The one rule: a sent `execute_request` cannot be withdrawn, so it is sent only when nobody else's code is known to run
(rule 1). To wait, a `kernel_info_request` is put on the shell channel: the kernel answers in turn, so its reply is the
event. On attach it is unknown what runs, which counts as busy (rule 2).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import anyio

from bridge.channels import Channels
from bridge.errors import KernelBusy, KernelDied, KernelNotResponding
from bridge.execution import Execution, Executions
from bridge.journal import Record
from bridge.others import Others
from bridge.session.background import Background
from bridge.session.requests import Requests
from bridge.session.sent import IDLE_GRACE, OnEnd, OnMessage, Sent

# An idle kernel answers in milliseconds.
SETTLING = 0.5

OnSend = Callable[[int], OnEnd]
"""Called with an execution's number just before its code is sent; what it raises keeps that from happening."""
Recorder = Callable[[str, str, str, str, int | None], Record | None]
"""Begins the record of a cell by its message's id, code, session, username and our number; None where none is kept."""


@dataclass(frozen=True)
class SessionState:
    """What a session knows at one moment."""

    state: Literal["idle", "busy", "unknown", "lost"]
    running: tuple[str, ...]
    """What runs, each as a phrase; ours with its execution number, also where it goes on beyond a lost connection."""


class Turns:
    """Our cells first in, first out, and among others' work."""

    def __init__(
        self,
        channels: Channels,
        requests: Requests,
        sent: Sent,
        others: Others,
        executions: Executions,
        record: Recorder,
    ) -> None:
        self._channels = channels
        self._requests = requests
        self._sent = sent
        self._others = others
        self._executions = executions
        self._record = record
        self._turn = asyncio.Lock()
        self.unknown = True
        """The kernel has not answered in turn yet."""

    # -- what is known

    def begin(self, background: Background) -> None:
        """Learn soon whether the kernel is free, so that the state is known without executing anything."""
        self._first_answer = background.start(self._try_probe())

    def learn(self, background: Background) -> None:
        """Learn, without anybody's waiting, what the kernel must have said before it answers this."""
        background.start(self._try_probe())

    async def _try_probe(self) -> None:
        with contextlib.suppress(KernelDied, KernelNotResponding):
            await self.probe()

    def state(self) -> SessionState:
        """Return what is known now, without asking the kernel."""
        ours = tuple(_described(each) for each in [self._sent.current] if each)
        if self._requests.are_over:
            return SessionState("lost", ours)
        running = (*ours, *self._others.phrases())
        return SessionState("busy" if running else "unknown" if self.unknown else "idle", running)

    async def settled(self) -> SessionState:
        """Return the state once it is known; a kernel that has not answered in turn by then is busy."""
        await asyncio.wait({self._first_answer}, timeout=SETTLING)
        return self.state()

    async def probe(self) -> None:
        """Ask on the shell channel and wait: the kernel answers in turn, after all that was sent to it before."""
        before, earlier = set(self._others.requests), [*self._sent.earlier, *self._sent.unreplied]
        answered = await self._requests.ask("shell", "kernel_info_request", {})
        await self._requests.reply(answered)
        self.unknown = False
        # what ran before the probe was sent has ended, also where its idle never came
        self._others.free(before)
        # the reply may be ahead of the last outputs, which come on another socket
        loop = asyncio.get_running_loop()
        loop.call_later(IDLE_GRACE, self._others.end, before)
        loop.call_later(IDLE_GRACE, self._sent.end_unseen, earlier)

    # -- a cell's turn

    async def send(
        self, code: str, deadline: float | None, on_message: OnMessage | None, on_send: OnSend | None
    ) -> Execution:
        """Send a cell in turn; raises `KernelBusy` where that does not come before `deadline`, and nothing is sent."""
        try:
            async with asyncio.timeout_at(deadline), self._turn:
                await self._until_own_is_done()
                await self._until_free()
        except TimeoutError:
            raise self._busy() from None
        # No await between the check above and the send below but the send itself, which only fills ZMQ's queue.
        return await self._send(code, on_message, on_send)

    async def _until_own_is_done(self) -> None:
        if self._sent.current is not None:
            await self._sent.end_of(self._sent.current)
            self._requests.raise_if_lost()

    async def _until_free(self) -> None:
        """Return when nobody else's request is known to run."""
        self._requests.raise_if_lost()
        while self.unknown or self._others.requests:
            await self.probe()

    async def _send(self, code: str, on_message: OnMessage | None, on_send: OnSend | None) -> Execution:
        self._requests.raise_if_lost()
        message = self._channels.new_message(
            "execute_request",
            {
                "code": code,
                "silent": False,
                "store_history": True,
                "user_expressions": {},
                "allow_stdin": True,
                "stop_on_error": False,
            },
        )
        msg_id = str(message["header"]["msg_id"])
        username = str(message["header"]["username"])
        execution = self._executions.begin(
            msg_id, code, lambda number: self._record(msg_id, code, self._channels.session, username, number)
        )
        cell = self._sent.add(execution, on_message)
        try:
            if on_send:
                cell.on_end = on_send(execution.number)
            # shielded: once the frames are handed over, the cell runs, whatever becomes of this call
            with anyio.CancelScope(shield=True):
                await self._channels.send_message("shell", message)
        except Exception:
            self._executions.forget(execution)
            self._sent.withdraw(execution)
            raise
        return execution

    def _busy(self) -> KernelBusy:
        what = "; ".join(self.state().running) or "something that began before the bridge attached"
        return KernelBusy(
            f"The kernel is busy with {what}. Nothing was executed; try again later, or with a longer timeout."
        )


def _described(execution: Execution) -> str:
    question = execution.question
    asks = f", which asks `{question.prompt[:80].strip()}` (send_input answers)" if question else ""
    return f"execution {execution.number} of this bridge{asks}"
