"""The session itself: what may be asked of it, what it receives, and its end.

The one rule: all that comes from the kernel is taken here, in the order in which it came, and handed to whom it is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Literal

import anyio

from bridge import terminal
from bridge.channels import Channels
from bridge.connection import ConnectionInfo
from bridge.errors import KernelBusy, KernelDied, KernelError, KernelNotResponding, NoSuchKernel, UsageError
from bridge.execution import Execution, Executions
from bridge.journal import Book, Record
from bridge.looking.questions import Standing, question_expression, read_question
from bridge.messages import Message, mapping, text_of
from bridge.others import Others
from bridge.outputs import Result
from bridge.session.background import Background
from bridge.session.interrupts import Interrupts
from bridge.session.questions import Ask, Asked, Questions, require_whole_characters
from bridge.session.requests import Requests
from bridge.session.sent import OnMessage, Sent
from bridge.session.subshell import Subshell
from bridge.session.turns import OnSend, SessionState, Turns

# How long an interrupted cell may take to end before the caller is told that it has not.
INTERRUPT_WAIT = 3.0
# Text of many small writes may wait that long to be written to the journal together.
WRITE_DELAY = 0.5
# Someone else's failing cell clears the queue; more often than this, the other side fails in a loop.
RESENDS = 5

# A kernel that can be asked what its cell waits for answers within milliseconds. One that native code holds up is asked
# again, while nobody waits for that.
FINDING, FIND_AGAIN = 2.0, 5.0

log = logging.getLogger(__name__)

BRIDGE_ENDED = "The bridge that sent it has ended; what it printed until this one came is not here."
LOST_MEANWHILE = "The connection was lost while it ran and is back; what it printed in between is not here."


@dataclass(frozen=True)
class Loss:
    """Why a session is over, in one sentence, and what is left then.

    The `process` where it is not known to have ended: then our cell in it may run on. The `kernel`, which may have
    another process at the same address; or `nothing`.
    """

    sentence: str
    left: Literal["process", "kernel", "nothing"] = "kernel"


class KernelSession:
    """The connection; made by `open_session`."""

    def __init__(
        self,
        channels: Channels,
        explain: Callable[[], Awaitable[Loss]],
        executions: Executions,
        book: Book | None,
        on_activity: Callable[[], None] | None,
        on_unattended: Callable[[], None] | None,
        patience: float,
    ) -> None:
        self._channels = channels
        self._explain = explain
        self._book = book
        self._on_unattended = on_unattended or (lambda: None)
        self._unattended: asyncio.TimerHandle | None = None
        if book:
            book.speaks(channels.kernel_info.get("language_info"))
        self.executions = executions
        """All that were sent to this kernel, also by the sessions before this one."""
        self.reason = ""
        """Once lost: one sentence, what happened to the kernel or the way to it."""
        self.left: Literal["process", "kernel", "nothing"] = "process"
        """Once lost: what is left, as `Loss` has it."""
        self._lost = asyncio.Event()
        self._losing: asyncio.Task[None] | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._background = Background()
        self._others = Others(self._record_of_others, on_activity or (lambda: None))
        self._requests = Requests(channels, self._why_lost)
        self._sent = Sent(
            lambda execution: self._questions.close_of(execution),  # noqa: PLW0108 - made below
            lambda: self._turns.learn(self._background),
        )
        self._interrupts = Interrupts(
            *(self._requests, self._sent, self._others, self._background),
            sending=lambda: self._questions.close(),  # noqa: PLW0108 - made below
        )
        self._questions = Questions(
            *(channels, self._requests, self._sent, self._interrupts, self._background), patience=patience
        )
        self._turns = Turns(channels, self._requests, self._sent, self._others, executions, self._recorded)
        self._subshell = Subshell(channels, self._requests, self._turns)
        channels.start(self._receive, self._disconnected)
        self._turns.begin(self._background)

    # -- what it is

    @property
    def kernel(self) -> str:
        """The kernel process's own id; another value is another process with no variables of this one."""
        return self._channels.kernel

    @property
    def identity(self) -> bytes:
        """By which the kernel finds the way back to us with a reply."""
        return self._channels.identity

    @property
    def info(self) -> ConnectionInfo:
        """Where it is connected to."""
        return self._channels.info

    @property
    def banner(self) -> str:
        """The language and version that the kernel tells of itself, e.g. `python 3.13.5`."""
        language = mapping(self._channels.kernel_info.get("language_info"))
        return terminal.first_line(f"{text_of(language.get('name')) or 'unknown'} {text_of(language.get('version'))}")

    @property
    def lost(self) -> bool:
        """The kernel or the connection is gone (or going); open another session."""
        return self._losing is not None

    @property
    def runs_a_cell(self) -> bool:
        """A cell of ours was sent and has not ended."""
        return self._sent.current is not None

    @property
    def may_ask(self) -> bool:
        """A cell of ours asked once, and the kernel does not tell whether it still does: see `Questions.give_up`."""
        return self._questions.asked is not None and not self._questions.asked.is_certain

    def is_adrift(self, number: int) -> bool:
        """Tell whether an execution goes on, as far as is known, without this session, which is over."""
        execution = self.executions.get(number)
        return self.lost and execution is not None and not execution.done

    def state(self) -> SessionState:
        """Return what is known now, without asking the kernel."""
        return self._turns.state()

    def write_what_others_printed(self) -> None:
        """Write all that others' running cells have printed into the journal now."""
        self._others.write()

    async def settled(self) -> SessionState:
        """Return the state once it is known; a kernel that has not answered in turn by then is busy."""
        return await self._turns.settled()

    # -- executing

    async def execute(
        self,
        code: str,
        *,
        timeout: float | None,
        on_message: OnMessage | None = None,
        ask: Ask | None = None,
        on_send: OnSend | None = None,
    ) -> Result:
        """Run a cell in turn and return its result, or how far it is after `timeout` seconds.

        A result whose status is `running` or `queued` goes on; `read` tells more. Without `ask`, a result comes as soon
        as the cell asks for input, and `answer` goes on; the time in which `ask` is asked does not count. `on_message`
        sees each message of the cell as it comes; `on_send` is called each time that it is sent. Raises `KernelBusy`
        where the kernel was not free in time, and nothing was executed then; `KernelDied` where the session was over
        before the cell was sent, `KernelNotResponding` where it could not be sent, `UsageError` for code that no
        message can carry. A cancelled call interrupts its cell.
        """
        require_whole_characters(code, "The code", "Nothing was executed")
        deadline = None if timeout is None else _now() + timeout
        for _ in range(RESENDS):
            execution = await self._turns.send(code, deadline, on_message, on_send)
            await self._wait(execution, timeout, deadline, ask)
            if execution.status != "aborted":
                break
        return self._told(execution)

    async def read(
        self, number: int, *, wait: float, on_message: OnMessage | None = None, ask: Ask | None = None
    ) -> Result:
        """Return how far an execution is, after waiting at most `wait` seconds for its end or its next question.

        Raises `NoSuchKernel` for one that is not kept in memory, of which `executions` may tell what the journal has.
        `on_message` sees its messages instead of the one that `execute` was given while this waits; `ask` as there.
        """
        execution = self._kept(number)
        with self._sent.heard_by(execution, on_message):
            await self._questions.follow(execution, wait, _now() + wait, ask)
        return self._told(execution)

    def take_back(self, number: int) -> None:
        """Have a cell interrupted in the session after this one, which is over: nobody waits for it any more."""
        self._interrupts.take_back_once_begun(self._kept(number))

    async def go_on(self, number: int, *, timeout: float | None, ask: Ask | None) -> Result:
        """Wait on for a cell that was handed on to this session, as `execute`, whose `on_message` sees it still."""
        execution = self._kept(number)
        await self._wait(execution, timeout, None if timeout is None else _now() + timeout, ask)
        return self._told(execution)

    def _kept(self, number: int) -> Execution:
        execution = self.executions.get(number)
        if execution is None:
            raise NoSuchKernel(f"Execution {number} is not kept for this kernel.")
        return execution

    async def interrupt(self) -> Result:
        """Interrupt our own running cell and return its result; raises `NotOurs` where there is none to interrupt."""
        execution = self._sent.current
        if execution is not None and not execution.started:
            self._interrupts.take_back_once_begun(execution)
            return self._told(execution)
        if execution is None or not self._interrupts.is_running(execution):
            await self.settled()
            raise self._interrupts.not_ours(is_known=not self._turns.unknown)
        await self._interrupts.interrupt(execution)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(INTERRUPT_WAIT):
                await self._sent.end_of(execution)
        return self._told(execution)

    async def interrupt_anyones(self) -> bool:
        """Interrupt whatever runs, for the person whose kernel it is; True if it ended."""
        await self._interrupts.send()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(INTERRUPT_WAIT):
                await self._turns.probe()
                return True
        return False

    async def end_kernel(self) -> None:
        """Ask the kernel process to end, as Jupyter does it, also while a cell runs; its supervisor starts another."""
        await self._channels.send("control", "interrupt_request", {})
        await self._channels.send("control", "shutdown_request", {"restart": True})

    async def until_lost(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for the end of this session; True if it is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._lost.wait()
        return self._lost.is_set()

    async def close(self, *, hands_on: bool = False) -> None:
        """Leave the kernel: what runs in it goes on. Only a cell that surely asks is interrupted: it has no answer.

        Cells that have not ended are lost here; `hands_on`: their records stay without an end, for the next bridge.
        """
        if self._losing is None:
            asked = self._questions.asked
            if asked is not None and asked.is_certain:
                await self._questions.give_up(
                    asked, "The bridge left the kernel, so the cell that asked was interrupted."
                )
            await self._subshell.leave()
            loss = Loss("The connection was closed from this side.")
            self._losing = asyncio.create_task(self._lose(loss, go_on=hands_on))
        await self.let_go()
        self._end_cells(self.reason, go_on=hands_on and self.left == "process")

    async def let_go(self) -> None:
        """Close the connection of a session that is over; cells of ours are kept for the session after this one."""
        if self._losing is not None:
            await self._losing
        if self._unattended is not None:
            self._unattended.cancel()
        await self._background.end()
        await self._channels.close()

    # -- answering

    async def answer(
        self,
        text: str,
        *,
        number: int | None = None,
        question: str | None = None,
        wait: float,
        on_message: OnMessage | None = None,
    ) -> Result:
        """Answer what a cell of ours asks and return how far it is at its end, its next question or after `wait` s.

        `number` is the execution's, left out: the one that asks; `question` the id of the question that is meant, left
        out: the one that is open. `on_message` takes the place of the one that `execute` was given. Raises `UsageError`
        where this is not asked (any more), and nothing is sent then. A cancelled call interrupts its cell.
        """
        require_whole_characters(text, "The answer", "Nothing was sent")
        asked = self._open_question(number, question)
        if on_message:
            self._sent.listen(asked.execution, on_message)
        await self._questions.answer(asked, text)
        await self._wait(asked.execution, wait, _now() + wait, None)
        return self._told(asked.execution)

    async def decline(self, sentence: str, *, number: int, question: str) -> Result:
        """Interrupt our cell instead of an answer, for the reason in the sentence, and return what became of it.

        Raises as `answer`.
        """
        asked = self._open_question(number, question)
        await self._questions.interrupt(asked, sentence)
        return await self.read(number, wait=INTERRUPT_WAIT)

    def _open_question(self, number: int | None, question: str | None) -> Asked:
        if number is not None:
            return self._questions.open_one(self._kept(number), question)
        if self._questions.asked is None:
            raise UsageError("No cell that was started through this connection asks for input, so nothing was sent.")
        return self._questions.open_one(self._questions.asked.execution, question)

    # -- looking

    async def look(self, expression: str) -> str:
        """Return the text form of an expression's value, evaluated in the user's namespace beside whatever runs.

        No history, no output, no `_`. It cannot be interrupted, so it must be short and call nothing of the user's.
        Raises `KernelBusy` where a cell runs and the kernel has no subshells (JEP 91), `KernelNotResponding` where the
        answer does not come in time, `KernelDied`.
        """
        return await self._subshell.look(expression)

    # -- waiting

    async def _wait(self, execution: Execution, timeout: float | None, deadline: float | None, ask: Ask | None) -> None:
        try:
            await self._questions.follow(execution, timeout, deadline, ask)
        except asyncio.CancelledError:
            # whoever has cancelled is told no more of it, also while the cell is being taken back
            self._sent.listen(execution, None)
            # rule 8: a cancel before the time-out takes back our cell; if it is still queued, as soon as it starts
            with anyio.CancelScope(shield=True), contextlib.suppress(KernelDied, KernelNotResponding):
                if self._interrupts.is_running(execution):
                    await self._interrupts.interrupt(execution)
                elif not execution.started:
                    self._interrupts.take_back_once_begun(execution)
            raise

    def _told(self, execution: Execution) -> Result:
        result = execution.result()
        if result.status == "queued" and not self.lost:
            ahead = "; ".join(self._others.phrases())
            return replace(result, notes=(*result.notes, f"It waits behind {ahead}.")) if ahead else result
        return result

    # -- receiving

    def _receive(self, message: Message) -> None:
        self._sent.heard = _now()
        if self._book and self._writing is None:
            self._writing = asyncio.get_running_loop().call_later(WRITE_DELAY, self._write)
        execution = self.executions.of(message.parent_id)
        if execution is None:
            if message.parent_session == self._channels.session:
                self._requests.came(message)
            else:
                self._others.see(message)
            return
        execution.feed(message)
        self._sent.saw(execution, message)
        if message.msg_type == "input_request" and execution.running:
            self._questions.came(execution, message)
        self._interrupts.saw(execution)
        if execution.done:
            self._sent.settle(execution)

    def _write(self) -> None:
        """Write what cells have printed, for whoever reads the journal while they are silent, or after our death."""
        self._writing = None
        for execution in self.executions:
            execution.write()
        self._others.write()

    def _recorded(self, msg_id: str, code: str, client: str, username: str, number: int | None = None) -> Record | None:
        if self._book is None:
            return None
        return self._book.begin(
            kernel=self.kernel, msg_id=msg_id, code=code, client=client, username=username, number=number
        )

    def _record_of_others(self, message: Message, code: str) -> Record | None:
        return self._recorded(message.parent_id, code, message.parent_session, message.parent_username)

    # -- losing

    def _disconnected(self, sentence: str | None = None) -> None:
        if self._losing is None:
            loss = None if sentence is None else Loss(sentence, left="process")
            self._losing = asyncio.get_running_loop().create_task(self._lose(loss))

    def _why_lost(self) -> str | None:
        return (self.reason or "The kernel is gone.") if self.lost else None

    async def _lose(self, loss: Loss | None, *, go_on: bool = False) -> None:
        try:
            loss = loss or await self._explain()
        except Exception:
            # whoever waits must be told all the same
            log.exception("how a kernel was lost could not be found out")
            loss = Loss("The connection to the kernel was lost, and kernel-bridge could not find out why.")
        self.reason, self.left = loss.sentence, loss.left
        self._lost.set()
        if self.left == "process":
            until = self._questions.suspend()
            self._sent.set_adrift()
            if self.runs_a_cell:
                self._unattended = asyncio.get_running_loop().call_at(until, self._on_unattended)
        else:
            self._end_cells(self.reason, go_on=go_on)
        self._others.lose(self.reason)
        if self._writing:
            self._writing.cancel()
        self._requests.lose()
        # a socket that goes on to try an address where nobody listens may come to be connected with itself, and then
        # nobody can listen there again
        await self._channels.close()

    def _end_cells(self, sentence: str, *, go_on: bool = False) -> None:
        for execution in self.executions:
            execution.lose(sentence, goes_on=go_on)
            self._sent.settle(execution)

    # -- what was sent before the connection was lost

    def go_on_from(self, before: KernelSession) -> None:
        """Follow on the cells of a session that is over, if the process is the same one; else they have ended."""
        if before.kernel != self.kernel:
            before._end_cells(f"{before.reason} Meanwhile the process that ran it has ended.")
            for execution in self.executions:
                execution.has_gap = False
            return
        for execution in self._sent.take(before._sent):
            execution.miss(LOST_MEANWHILE)
            self._interrupts.saw(execution)  # whoever waited for it may have left meanwhile
        self._questions.resume(before._questions)

    async def ask_on(self, heard: Standing | None = None) -> None:
        """Find out whether the cell that was taken over asks, which nobody has heard: from here on it is asked.

        `heard` is what it asked last, as the bridge before knew: it counts where the kernel, without subshells, does
        not tell. Where it cannot be found out yet, that is tried again.
        """
        # in the background: a caller that leaves now must not leave a cell that nobody asks
        await asyncio.wait({self._background.start(self._find_question(heard))}, timeout=FINDING)

    async def _find_question(self, heard: Standing | None) -> None:
        while (execution := self._sent.current) is not None and self._questions.asked is None and not self.lost:
            try:
                found, is_certain = read_question(await self.look(question_expression())), True
            except KernelBusy:
                found, is_certain = heard, False
            except (KernelError, KernelDied, UsageError):
                await asyncio.sleep(FIND_AGAIN)
                continue
            # meanwhile it may have come by itself
            if found and found.msg_id == execution.msg_id and self._questions.asked is None and not execution.done:
                self._questions.found(execution, found.prompt, is_certain=is_certain)
            return

    def adopt(self, execution: Execution, record: Record) -> None:
        """Follow on a cell that a bridge, which has ended, sent to this process by the identity that is ours now."""
        self.executions.adopt(execution, record)
        self._sent.adopt(execution)
        execution.miss(BRIDGE_ENDED)


def _now() -> float:
    return asyncio.get_running_loop().time()
