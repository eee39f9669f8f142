"""One live connection to one kernel process: the only file with tasks, locks and time-outs.

The one rule: a session is for one kernel process and one connection. When either ends, the session is over: every
waiting call is told why, and `kernels` opens another one for the next call. So nothing is ever restored silently.

What a shared kernel demands of it (the numbers are those of the design's "Rules of a shared kernel"):
1. A sent `execute_request` cannot be withdrawn, so it is sent only when nobody else's code is known to run. To wait, a
   `kernel_info_request` is put on the shell channel: the kernel answers in turn, so its reply is the event.
2. Busy is a set of requests, not the last status; on attach it is unknown, which counts as busy.
3. Only our own running cell is ever interrupted.
4. `stop_on_error` is always false; where someone else's failing cell aborted ours, it is sent again.
8. `timeout` ends the waiting, not the cell. A cancel before it interrupts our cell.
10. While our cell asks with `input()`, the kernel stands still for everyone: so a question has an end, in any case.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import anyio

from bridge import terminal
from bridge.channels import Channels, open_channels
from bridge.connection import ConnectionInfo
from bridge.errors import (
    KernelBusy,
    KernelDied,
    KernelError,
    KernelNotResponding,
    NoAnswer,
    NoSuchKernel,
    NotOurs,
    UsageError,
)
from bridge.execution import Execution, Executions
from bridge.journal import Book, Record
from bridge.messages import Message, mapping, text_of
from bridge.others import Others
from bridge.outputs import Result

# After a reply the idle is milliseconds away, or behind more output; where neither comes any more, the cell has ended
# all the same (rule 6).
IDLE_GRACE = 1.0
# How long an interrupted cell may take to end before the caller is told that it has not.
INTERRUPT_WAIT = 3.0
# A look takes milliseconds, the first one with its subshell some tens of them.
LOOK_WAIT = 5.0
# An idle kernel answers in milliseconds.
SETTLING = 0.5
# A short cell has ended by the time its start is seen, and what runs then may be someone else's.
UNWANTED_GRACE = 0.05
# Between the start of a cell and its first line lie some milliseconds, on a loaded machine some tenths of a second.
JUST_BEGUN = 0.5
# The kernel replies once the signal is sent, within milliseconds.
INTERRUPT_REPLY = 1.0
# Time to see a question, to think and to look something up; but the kernel stands still, and others wait for it. Less
# than the ten minutes for which the MCP SDK takes the answer.
PATIENCE = 300.0
# What was printed before a question is on its way on another socket, milliseconds behind it.
OUTPUT_GRACE = 1.0
# Text of many small writes may wait that long to be written to the journal together.
WRITE_DELAY = 0.5
# Someone else's failing cell clears the queue; more often than this, the other side fails in a loop.
RESENDS = 5

log = logging.getLogger(__name__)

NEVER_ASKED = (
    "The cell asked for a password, which is never asked through an agent, so it was interrupted; the user can run it "
    "in a client of their own."
)

OnMessage = Callable[[Message], None]
OnSend = Callable[[int], Callable[[Result | None], None]]
"""Called with an execution's number just before its code is sent; what it raises keeps that from happening. It returns
what is called, once, with the result: when the cell has ended or is lost, or with None where it could not be sent."""
Ask = Callable[[str], Awaitable[str | None]]
"""Puts a cell's question to whoever can answer and returns the answer. None: ask the caller, by the result. Raises
`NoAnswer` where there will be none. Cancelled where the question ends otherwise."""


@dataclass(frozen=True)
class _Asked:
    """The one question that is open: of our cells only one runs at a time."""

    execution: Execution
    header: Mapping[str, Any]
    patience: asyncio.TimerHandle
    over: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class SessionState:
    """What a session knows at one moment."""

    state: Literal["idle", "busy", "unknown", "lost"]
    running: tuple[str, ...]
    """What runs, each as a phrase; ours with its execution number."""


class KernelSession:
    """The connection; made by `open_session`."""

    def __init__(
        self,
        channels: Channels,
        explain: Callable[[], Awaitable[str]],
        executions: Executions,
        book: Book | None,
        on_activity: Callable[[], None] | None,
        patience: float,
    ) -> None:
        self._channels = channels
        self._explain = explain
        self._book = book
        self._others = Others(self._record_of_others, on_activity or (lambda: None))
        self._patience = patience
        if book:
            book.speaks(channels.kernel_info.get("language_info"))
        self._turn = asyncio.Lock()
        self._unknown = True
        self._current: Execution | None = None
        self._unwanted: set[str] = set()
        # of those that have not ended yet
        self._finished: dict[str, asyncio.Event] = {}
        # set while there is something to tell: it asks, or has ended
        self._news: dict[str, asyncio.Event] = {}
        self._asked: _Asked | None = None
        self._fences: dict[str, asyncio.Event] = {}
        self._replies: dict[str, asyncio.Future[Message | None]] = {}
        self._subshell: str | None = None
        self._looking = asyncio.Lock()
        self._listeners: dict[str, OnMessage] = {}
        self._ends: dict[str, Callable[[Result | None], None]] = {}
        self._begun: dict[str, float] = {}
        self._lost = asyncio.Event()
        self._losing: asyncio.Task[None] | None = None
        self._graces: dict[str, asyncio.TimerHandle] = {}
        self._heard = 0.0
        self._writing: asyncio.TimerHandle | None = None
        self._sends: set[asyncio.Task[Any]] = set()
        self.executions = executions
        """All that were sent to this kernel, also by the sessions before this one."""
        self.reason = ""
        """Once lost: one sentence, what happened to the kernel or the way to it."""
        channels.start(self._receive, self._disconnected)
        self._first_answer = self._in_background(self._first_probe())

    # -- what it is

    @property
    def kernel(self) -> str:
        """The kernel process's own id; another value is another process with no variables of this one."""
        return self._channels.kernel

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
        return self._current is not None and not self._current.done

    def state(self) -> SessionState:
        """Return what is known now, without asking the kernel."""
        if self.lost:
            return SessionState("lost", ())
        ours = [_described(each) for each in [self._current] if each and not each.done]
        running = (*ours, *self._others.phrases())
        return SessionState("busy" if running else "unknown" if self._unknown else "idle", running)

    def write_what_others_printed(self) -> None:
        """Write all that others' running cells have printed into the journal now."""
        self._others.write()

    async def settled(self) -> SessionState:
        """Return the state once it is known; a kernel that has not answered in turn by then is busy."""
        await asyncio.wait({self._first_answer}, timeout=SETTLING)
        return self.state()

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
        _require_whole_characters(code, "The code", "Nothing was executed")
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        for _ in range(RESENDS):
            execution = await self._send_in_turn(code, deadline, on_message, on_send)
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
        with self._heard_by(execution, on_message):
            await self._follow(execution, wait, asyncio.get_running_loop().time() + wait, ask)
        return self._told(execution)

    @contextlib.contextmanager
    def _heard_by(self, execution: Execution, listener: OnMessage | None) -> Iterator[None]:
        """Have the messages of a cell go to `listener` for a time, if there is one and the cell has not ended."""
        if listener is None or execution.done:
            yield
            return
        before = self._listeners.get(execution.msg_id)
        self._listeners[execution.msg_id] = listener
        try:
            yield
        finally:
            if self._listeners.get(execution.msg_id) is listener:  # the cell goes on
                del self._listeners[execution.msg_id]
                if before:
                    self._listeners[execution.msg_id] = before

    def _kept(self, number: int) -> Execution:
        execution = self.executions.get(number)
        if execution is None:
            raise NoSuchKernel(f"Execution {number} is not kept for this kernel.")
        return execution

    async def interrupt(self) -> Result:
        """Interrupt our own running cell and return its result; raises `NotOurs` where there is none to interrupt."""
        execution = self._current
        if execution is not None and not execution.done and not execution.started:
            self._unwanted.add(execution.msg_id)
            return self._told(execution)
        if execution is None or not self._is_running(execution):
            await self.settled()
            raise self._not_ours()
        await self._interrupt_own(execution)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(INTERRUPT_WAIT):
                await self._end_of(execution)
        return self._told(execution)

    def _is_running(self, execution: Execution) -> bool:
        """Tell whether our cell runs: one that others are seen to run has begun after ours ended."""
        return execution.running and not self._others.run_a_cell

    def _not_ours(self) -> NotOurs:
        others = "; ".join(self._others.phrases())
        if others:
            return NotOurs(
                f"What runs was not started through this connection ({others}), so it is not interrupted; "
                "its owner can do that."
            )
        if self._unknown:
            return NotOurs(
                "What runs began before this connection, and the kernel does not tell whose it is, so it is not "
                "interrupted; the user can do that."
            )
        return NotOurs("Nothing that was started through this connection is running, so there is nothing to interrupt.")

    async def interrupt_anyones(self) -> bool:
        """Interrupt whatever runs, for the person whose kernel it is; True if it ended."""
        await self._send_interrupt()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(INTERRUPT_WAIT):
                await self._probe()
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

    async def close(self) -> None:
        """Leave the kernel: what runs in it goes on. Only a cell that asks is interrupted: nobody could answer it."""
        if self._losing is None:
            if self._asked is not None:
                await self._give_up(self._asked, "The bridge left the kernel, so the cell that asked was interrupted.")
            await self._leave_subshell()
            self._losing = asyncio.create_task(self._lose("The connection was closed from this side."))
        await self._losing
        for task in self._sends:
            task.cancel()
        await asyncio.gather(*self._sends, return_exceptions=True)
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
        _require_whole_characters(text, "The answer", "Nothing was sent")
        asked = self._open_question(number, question)
        if on_message:
            self._listeners[asked.execution.msg_id] = on_message
        await self._send_answer(asked, text)
        await self._wait(asked.execution, wait, asyncio.get_running_loop().time() + wait, None)
        return self._told(asked.execution)

    async def decline(self, sentence: str, *, number: int, question: str) -> Result:
        """Interrupt our cell instead of an answer, for the reason in the sentence, and return what became of it.

        Raises as `answer`.
        """
        asked = self._open_question(number, question)
        await self._give_up(asked, sentence)
        return await self.read(number, wait=INTERRUPT_WAIT)

    def _open_question(self, number: int | None, question: str | None) -> _Asked:
        asked = self._asked
        if number is not None:
            execution = self._kept(number)
        elif asked is not None:
            execution = asked.execution
        else:
            raise UsageError("No cell that was started through this connection asks for input, so nothing was sent.")
        asks = execution.question
        if asked is not None and asked.execution is execution and asks is not None and question in (None, asks.id):
            return asked
        told = f"does not ask {'that any more' if question else 'for anything'}"
        raise UsageError(
            f"Execution {execution.number} {told}; its status is {execution.status}. Nothing was sent, and no "
            f"code was run; get_execution(execution={execution.number}) tells how far it is."
        )

    async def _send_answer(self, asked: _Asked, text: str) -> None:
        # first, so that of two answers at the same time only one is sent: the other would answer the next question
        self._close_question()
        message = self._channels.new_message("input_reply", {"value": text}, asked.header)
        with anyio.CancelScope(shield=True):
            await self._channels.send_message("stdin", message)

    async def _give_up(self, asked: _Asked, sentence: str) -> None:
        self._close_question(sentence)
        if self._is_running(asked.execution):
            # in the background: a caller that leaves now must not leave the kernel standing still
            await asyncio.shield(self._in_background(self._interrupt_if_there()))

    async def _interrupt_if_there(self) -> None:
        with contextlib.suppress(KernelDied, KernelNotResponding):
            await self._send_interrupt()

    def _close_question(self, sentence: str | None = None) -> None:
        if self._asked is not None:
            self._asked.execution.close_question(sentence)
            self._end_asking()

    def _end_asking(self) -> None:
        asked, self._asked = self._asked, None
        if asked is None:
            return
        asked.patience.cancel()
        asked.over.set()
        news = self._news.get(asked.execution.msg_id)
        if news is not None:
            news.clear()

    async def _put(self, asked: _Asked, ask: Ask) -> bool:
        """Have a question answered by `ask`; False where the caller is to be asked. Holds no lock: it takes minutes."""
        question = asked.execution.question
        if question is None:
            return True
        answering = asyncio.ensure_future(ask(question.prompt))
        over = asyncio.ensure_future(asked.over.wait())
        try:
            await asyncio.wait({answering, over}, return_when=asyncio.FIRST_COMPLETED)
            if asked.over.is_set():
                return True
            answer = answering.result()
            if answer is not None:
                _require_whole_characters(answer, "The answer", "Nothing was sent")
                await self._send_answer(asked, answer)
        except NoAnswer as error:
            await self._give_up(asked, str(error))
            return True
        else:
            return answer is not None
        finally:
            for task in (answering, over):
                task.cancel()
            await asyncio.gather(answering, over, return_exceptions=True)

    # -- looking

    async def look(self, expression: str) -> str:
        """Return the text form of an expression's value, evaluated in the user's namespace beside whatever runs.

        No history, no output, no `_`. It cannot be interrupted, so it must be short and call nothing of the user's.
        Raises `KernelBusy` where a cell runs and the kernel has no subshells (JEP 91), `KernelNotResponding` where the
        answer does not come in time, `KernelDied`.
        """
        content = {
            "code": "",
            "silent": True,
            "store_history": False,
            "user_expressions": {"look": expression},
            # it asks nothing; but the kernel has one switch for all that run, and a cell beside it may ask
            "allow_stdin": True,
            "stop_on_error": False,
        }
        try:
            async with asyncio.timeout(LOOK_WAIT), self._looking:
                self._raise_if_lost()
                subshell = await self._beside()
                state = self.state() if subshell else await self.settled()
                if subshell is None and state.state != "idle":
                    raise KernelBusy(
                        f"The kernel is busy ({'; '.join(state.running) or 'since before this connection'}) and "
                        "has no subshells (ipykernel 7 and later), so it cannot be looked into before that has ended."
                    )
                reply = await self._or_lost(await self._ask("shell", "execute_request", content, subshell))
        except TimeoutError:
            raise KernelNotResponding(
                f"The kernel did not let itself be looked into within {LOOK_WAIT:g} s: native code holds it up."
            ) from None
        answer = mapping(mapping(reply.content.get("user_expressions")).get("look"))
        text = mapping(answer.get("data")).get("text/plain")
        if answer.get("status") != "ok" or not isinstance(text, str):
            why = f"{text_of(answer.get('ename')) or 'no answer'}: {text_of(answer.get('evalue'))}"
            raise KernelError(f"The kernel could not be looked into: {terminal.first_line(why)}")
        return text

    async def _beside(self) -> str | None:
        """Return the id of our subshell, made with the first look; None where the kernel has none."""
        features = self._channels.kernel_info.get("supported_features")
        if self._subshell is None and isinstance(features, list) and "kernel subshells" in features:
            # ipykernel's control channel answers before its shell is ready, and then never answers this request
            await self.settled()
            reply = await self._or_lost(await self._ask("control", "create_subshell_request", {}))
            made = reply.content.get("subshell_id")
            self._subshell = made if isinstance(made, str) else None
        return self._subshell

    # -- taking turns

    async def _send_in_turn(
        self, code: str, deadline: float | None, on_message: OnMessage | None, on_send: OnSend | None
    ) -> Execution:
        try:
            async with asyncio.timeout_at(deadline), self._turn:
                await self._until_own_is_done()
                await self._until_free()
        except TimeoutError:
            raise self._busy() from None
        # No await between the check above and the send below but the send itself, which only fills ZMQ's queue.
        return await self._send(code, on_message, on_send)

    async def _until_own_is_done(self) -> None:
        if self._current is not None and not self._current.done:
            await self._end_of(self._current)
            self._raise_if_lost()

    async def _until_free(self) -> None:
        """Return when nobody else's request is known to run."""
        self._raise_if_lost()
        while self._unknown or self._others.requests:
            await self._probe()

    async def _first_probe(self) -> None:
        """Learn soon whether the kernel is free, so that the state is known without executing anything."""
        with contextlib.suppress(KernelDied, KernelNotResponding):
            await self._probe()

    async def _probe(self) -> None:
        """Ask on the shell channel and wait: the kernel answers in turn, after all that was sent to it before."""
        before = set(self._others.requests)
        answered = await self._ask("shell", "kernel_info_request", {})
        await self._or_lost(answered)
        self._unknown = False
        # what ran before the probe was sent has ended, also where its idle never came
        self._others.free(before)
        # the reply may be ahead of the last outputs, which come on another socket
        asyncio.get_running_loop().call_later(IDLE_GRACE, self._others.end, before)

    async def _send(self, code: str, on_message: OnMessage | None, on_send: OnSend | None) -> Execution:
        self._raise_if_lost()
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
        execution = self._current = self.executions.begin(
            msg_id, code, lambda number: self._recorded(msg_id, code, self._channels.session, username, number)
        )
        self._finished[msg_id] = asyncio.Event()
        self._news[msg_id] = asyncio.Event()
        if on_message:
            self._listeners[msg_id] = on_message
        try:
            if on_send:
                self._ends[msg_id] = on_send(execution.number)
            # shielded: once the frames are handed over, the cell runs, whatever becomes of this call
            with anyio.CancelScope(shield=True):
                await self._channels.send_message("shell", message)
        except Exception:
            self._forget(execution)  # it was never sent, so nobody must wait for it
            raise
        return execution

    def _recorded(self, msg_id: str, code: str, client: str, username: str, number: int | None = None) -> Record | None:
        if self._book is None:
            return None
        return self._book.begin(
            kernel=self.kernel, msg_id=msg_id, code=code, client=client, username=username, number=number
        )

    def _record_of_others(self, message: Message, code: str) -> Record | None:
        return self._recorded(message.parent_id, code, message.parent_session, message.parent_username)

    def _forget(self, execution: Execution) -> None:
        self._current = None
        self.executions.forget(execution)
        for table in (self._finished, self._news, self._listeners):
            table.pop(execution.msg_id, None)
        ended = self._ends.pop(execution.msg_id, None)
        if ended:
            ended(None)

    async def _end_of(self, execution: Execution) -> None:
        finished = self._finished.get(execution.msg_id)
        if finished is not None:
            await finished.wait()

    async def _follow(
        self, execution: Execution, timeout: float | None, deadline: float | None, ask: Ask | None
    ) -> None:
        """Return when a cell has ended or asks its caller, at the latest at `deadline`; anew after each question."""
        news = self._news.get(execution.msg_id)
        while news is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    while not news.is_set():
                        await news.wait()
            if news.is_set() and execution.question is None and not execution.done:
                news.clear()  # what it asked is over: its reply is here, and its end is on the way
                continue
            asked = self._asked if execution.question is not None else None
            if asked is None or ask is None or not await self._put(asked, ask):
                return
            deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout

    async def _wait(self, execution: Execution, timeout: float | None, deadline: float | None, ask: Ask | None) -> None:
        try:
            await self._follow(execution, timeout, deadline, ask)
        except asyncio.CancelledError:
            # whoever has cancelled is told no more of it, also while the cell is being taken back
            self._listeners.pop(execution.msg_id, None)
            # rule 8: a cancel before the time-out takes back our cell; if it is still queued, as soon as it starts
            with anyio.CancelScope(shield=True), contextlib.suppress(KernelDied):
                if self._is_running(execution):
                    await self._interrupt_own(execution)
                elif not execution.started and not execution.done:
                    self._unwanted.add(execution.msg_id)
            raise

    async def _interrupt_own(self, execution: Execution) -> None:
        """Interrupt our running cell, twice where it had only just begun: IPython may drop a signal before its code.

        A cell that has run for longer may be cleaning up after the first, so it gets no second one.
        """
        loop = asyncio.get_running_loop()
        just_begun = loop.time() - self._begun.get(execution.msg_id, 0.0) < JUST_BEGUN
        await self._send_interrupt()
        if not just_begun:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(JUST_BEGUN):
                await self._end_of(execution)
        if self._is_running(execution):
            await self._send_interrupt()

    async def _send_interrupt(self) -> None:
        self._close_question()
        answered = await self._ask("control", "interrupt_request", {})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(INTERRUPT_REPLY):
                await self._or_lost(answered)
        # A cell in a top-level await sees the signal only when its loop wakes, which any shell message does; but one
        # that comes before the signal was sent wakes it for nothing, so this waits for the reply.
        await self._ask("shell", "kernel_info_request", {})

    async def _ask(
        self,
        channel: Literal["shell", "control"],
        msg_type: str,
        content: dict[str, Any],
        subshell: str | None = None,
    ) -> asyncio.Future[Message | None]:
        message = self._channels.new_message(msg_type, content)
        if subshell is not None:
            message["header"]["subshell_id"] = subshell
        answered = asyncio.get_running_loop().create_future()
        self._replies[str(message["header"]["msg_id"])] = answered
        await self._channels.send_message(channel, message)
        return answered

    async def _or_lost(self, answered: asyncio.Future[Message | None]) -> Message:
        """Wait for a reply; `_lose` answers every request, so that nobody waits for a dead kernel."""
        reply = await asyncio.shield(answered)
        if reply is None:
            self._raise_if_lost()
            raise KernelDied("The kernel is gone. Nothing was executed.")
        return reply

    def _raise_if_lost(self) -> None:
        if self._lost.is_set() or self._losing:
            raise KernelDied(f"{self.reason or 'The kernel is gone.'} Nothing was executed.")

    def _busy(self) -> KernelBusy:
        state = self.state()
        what = "; ".join(state.running) or "something that began before the bridge attached"
        return KernelBusy(
            f"The kernel is busy with {what}. Nothing was executed; try again later, or with a longer timeout."
        )

    def _told(self, execution: Execution) -> Result:
        result = execution.result()
        if result.status == "queued" and not self.lost:
            ahead = "; ".join(self._others.phrases())
            return replace(result, notes=(*result.notes, f"It waits behind {ahead}.")) if ahead else result
        return result

    # -- receiving

    def _receive(self, message: Message) -> None:
        self._heard = asyncio.get_running_loop().time()
        if self._book and self._writing is None:
            self._writing = asyncio.get_running_loop().call_later(WRITE_DELAY, self._write)
        if message.parent_session != self._channels.session:
            self._others.see(message)
            return
        execution = self.executions.of(message.parent_id)
        if execution is None:
            self._answer_came(message)
            return
        execution.feed(message)
        if execution.running:
            self._begun.setdefault(execution.msg_id, asyncio.get_running_loop().time())
        listener = self._listeners.get(message.parent_id)
        if listener:
            self._tell(listener, message)
        if message.msg_type == "input_request" and execution.running:
            self._question_came(execution, message)
        if message.msg_type == "execute_reply" and not execution.done:
            loop = asyncio.get_running_loop()
            self._graces[execution.msg_id] = loop.call_later(IDLE_GRACE, self._idle_never_came, execution)
        if execution.started and message.parent_id in self._unwanted:
            self._unwanted.discard(message.parent_id)
            asyncio.get_running_loop().call_later(UNWANTED_GRACE, self._take_back, execution)
        if execution.done:
            self._settle(execution)

    def _write(self) -> None:
        """Write what cells have printed, for whoever reads the journal while they are silent, or after our death."""
        self._writing = None
        for execution in self.executions:
            execution.write()
        self._others.write()

    def _question_came(self, execution: Execution, message: Message) -> None:
        self._end_asking()  # of the question before, which another client has answered
        patience = asyncio.get_running_loop().call_later(self._patience, self._nobody_answered)
        asked = self._asked = _Asked(execution, message.header, patience)
        if execution.question is None:
            self._in_background(self._give_up(asked, NEVER_ASKED))
        elif not self._fences:  # code can send any number of questions at once
            self._in_background(self._tell_question())

    async def _tell_question(self) -> None:
        """Tell the caller of a question, once what the cell has printed before it is here."""
        # the kernel publishes the status of this request behind the cell's output
        message = self._channels.new_message("kernel_info_request", {})
        fence = self._fences[str(message["header"]["msg_id"])] = asyncio.Event()
        with contextlib.suppress(TimeoutError, KernelNotResponding):
            async with asyncio.timeout(OUTPUT_GRACE):
                await self._channels.send_message("control", message)
                await fence.wait()
        self._fences.pop(str(message["header"]["msg_id"]), None)
        execution = self._asked.execution if self._asked else None
        news = self._news.get(execution.msg_id) if execution and execution.question else None
        if news is not None:
            news.set()

    def _answer_came(self, message: Message) -> None:
        """Take what came for a request of ours that is no cell."""
        if message.channel == "iopub":
            fence = self._fences.get(message.parent_id)
            if fence is not None:
                fence.set()
            return
        answered = self._replies.pop(message.parent_id, None)
        if answered is not None and not answered.done():  # nobody waits any more where the kernel is just being left
            answered.set_result(message)

    def _nobody_answered(self) -> None:
        if self._asked is not None:
            sentence = (
                f"Nobody answered within {self._patience:g} s, so the cell was interrupted: while it asks, the kernel "
                "stands still for everyone who shares it."
            )
            self._in_background(self._give_up(self._asked, sentence))

    def _tell(self, listener: OnMessage, message: Message) -> None:
        try:
            listener(message)
        except Exception:
            # what the caller does with a message is the caller's affair: the cell's result must come all the same
            log.exception("whoever watched execution %s failed and is told no more of it", message.parent_id)
            self._listeners.pop(message.parent_id, None)

    def _take_back(self, execution: Execution) -> None:
        """Interrupt a cell that nobody waits for any more, if it is still ours that runs."""
        if self._is_running(execution) and not self._others.requests and not self.lost:
            self._in_background(self._interrupt_own(execution))

    def _idle_never_came(self, execution: Execution) -> None:
        if execution.done:
            return
        loop = asyncio.get_running_loop()
        if loop.time() - self._heard < IDLE_GRACE / 2:
            # after a flood the reply is far ahead: its idle stands behind all the output that is still to be read
            self._graces[execution.msg_id] = loop.call_later(IDLE_GRACE, self._idle_never_came, execution)
            return
        execution.close("The kernel did not report idle after the cell's reply; output may be missing.")
        self._settle(execution)

    def _settle(self, execution: Execution) -> None:
        self._listeners.pop(execution.msg_id, None)
        self._begun.pop(execution.msg_id, None)
        if self._asked is not None and self._asked.execution is execution:
            self._close_question()
        grace = self._graces.pop(execution.msg_id, None)
        if grace is not None:
            grace.cancel()
        for table in (self._finished, self._news):
            event = table.pop(execution.msg_id, None)
            if event is not None:
                event.set()
        ended = self._ends.pop(execution.msg_id, None)
        if ended:
            ended(execution.result())

    def _in_background(self, work: Awaitable[Any]) -> asyncio.Future[Any]:
        task = asyncio.ensure_future(work)
        self._sends.add(task)
        task.add_done_callback(self._sends.discard)
        return task

    async def _leave_subshell(self) -> None:
        """A subshell outlives its client, thread and all, unless it is deleted."""
        if self._subshell is None:
            return
        subshell, self._subshell = self._subshell, None
        with contextlib.suppress(TimeoutError, KernelNotResponding, KernelDied):
            async with asyncio.timeout(INTERRUPT_REPLY):
                await self._or_lost(await self._ask("control", "delete_subshell_request", {"subshell_id": subshell}))

    # -- losing

    def _disconnected(self) -> None:
        if self._losing is None:
            self._losing = asyncio.get_running_loop().create_task(self._lose(None))

    async def _lose(self, sentence: str | None) -> None:
        self.reason = sentence or await self._explain()
        self._lost.set()
        for execution in self.executions:
            execution.lose(self.reason)
            self._settle(execution)
        self._others.lose(self.reason)
        if self._writing:
            self._writing.cancel()
        for answered in self._replies.values():
            answered.set_result(None)


async def open_session(
    info: ConnectionInfo,
    *,
    username: str,
    explain: Callable[[], Awaitable[str]],
    timeout: float,
    starting: bool = False,
    executions: Executions | None = None,
    book: Book | None = None,
    on_activity: Callable[[], None] | None = None,
    patience: float = PATIENCE,
) -> KernelSession:
    """Connect to a kernel within `timeout` seconds; it may be in the middle of a long cell.

    `executions` are those of the session that this one takes the place of: numbers go on, and what was kept is read.
    `book` is where all cells are kept that are seen from now on; `on_activity` is called when one of someone else's
    begins or ends.
    `username` signs our messages for the other clients; `explain` is asked, once, how the kernel ended; `starting` as
    in `channels.open_channels`, whose `KernelNotResponding` is raised. After `patience` seconds without an answer a
    cell of ours that asks is interrupted.
    """
    channels = await open_channels(info, username=username, timeout=timeout, starting=starting)
    return KernelSession(channels, explain, executions or Executions(), book, on_activity, patience)


def _described(execution: Execution) -> str:
    question = execution.question
    asks = f", which asks `{question.prompt[:80].strip()}` (send_input answers)" if question else ""
    return f"execution {execution.number} of this bridge{asks}"


def _require_whole_characters(text: str, what: str, nothing: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{what} holds half a surrogate pair (\\u{ord(text[error.start]):04x}), which no message can carry. "
            f"{nothing}; write the whole character, or an escape in a string."
        ) from None
