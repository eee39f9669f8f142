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
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

import anyio

from bridge import terminal
from bridge.channels import Channels, open_channels
from bridge.connection import ConnectionInfo
from bridge.errors import KernelBusy, KernelDied, KernelError, KernelNotResponding, NoSuchKernel, NotOurs, UsageError
from bridge.execution import Execution, Executions
from bridge.messages import Message
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
# Someone else's failing cell clears the queue; more often than this, the other side fails in a loop.
RESENDS = 5

# Of what others say of themselves; a line of code is recognised by less.
LINE, LINE_SOURCE = 80, 1000
# Of others' requests, when all are told: a person's notebook queues some, nobody reads hundreds.
TOLD = 10

log = logging.getLogger(__name__)

OnMessage = Callable[[Message], None]


@dataclass
class Foreign:
    """A request of someone else that the kernel works on."""

    username: str
    since: datetime
    code: str | None = None

    def __str__(self) -> str:
        """Describe it for the reader of an error: whose, what, since when."""
        first = _line(self.code or "")
        what = f"`{first}`" if first else "a request"
        return f"{what} of {_line(self.username) or 'another client'}, since {self.since:%H:%M:%S} UTC"


def _line(text: str) -> str:
    """The first line of what others say of themselves, as a person would see it, cut where it is long."""
    return next(iter(terminal.shown(text[:LINE_SOURCE]).strip().splitlines()), "").replace("\t", " ")[:LINE]


@dataclass(frozen=True)
class SessionState:
    """What a session knows at one moment."""

    state: Literal["idle", "busy", "unknown", "lost"]
    running: tuple[str, ...]
    """What runs, each as a phrase; ours with its execution number."""


class KernelSession:
    """The connection; made by `open_session`."""

    def __init__(self, channels: Channels, explain: Callable[[], Awaitable[str]], executions: Executions) -> None:
        self._channels = channels
        self._explain = explain
        self._turn = asyncio.Lock()
        self._foreign: dict[str, Foreign] = {}
        self._unknown = True
        self._current: Execution | None = None
        self._unwanted: set[str] = set()
        # of those that have not ended yet
        self._finished: dict[str, asyncio.Event] = {}
        self._replies: dict[str, asyncio.Future[Message | None]] = {}
        self._subshell: str | None = None
        self._looking = asyncio.Lock()
        self._listeners: dict[str, OnMessage] = {}
        self._begun: dict[str, float] = {}
        self._lost = asyncio.Event()
        self._losing: asyncio.Task[None] | None = None
        self._graces: dict[str, asyncio.TimerHandle] = {}
        self._heard = 0.0
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
        language = _mapping(self._channels.kernel_info.get("language_info"))
        return _line(f"{_text(language.get('name')) or 'unknown'} {_text(language.get('version'))}")

    @property
    def lost(self) -> bool:
        """The kernel or the connection is gone (or going); open another session."""
        return self._losing is not None

    def state(self) -> SessionState:
        """Return what is known now, without asking the kernel."""
        if self.lost:
            return SessionState("lost", ())
        ours = [f"execution {each.number} of this bridge" for each in [self._current] if each and not each.done]
        running = (*ours, *self._others())
        return SessionState("busy" if running else "unknown" if self._unknown else "idle", running)

    def _others(self) -> list[str]:
        """What others' requests are known to run, each as a phrase; of very many the first."""
        told = [str(each) for each in itertools.islice(self._foreign.values(), TOLD)]
        more = len(self._foreign) - len(told)
        return [*told, f"{more} more requests"] if more else told

    async def settled(self) -> SessionState:
        """Return the state once it is known; a kernel that has not answered in turn by then is busy."""
        await asyncio.wait({self._first_answer}, timeout=SETTLING)
        return self.state()

    # -- executing

    async def execute(self, code: str, *, timeout: float | None, on_message: OnMessage | None = None) -> Result:
        """Run a cell in turn and return its result, or how far it is after `timeout` seconds.

        A result whose status is `running` or `queued` goes on; `read` tells more. `on_message` sees each message of
        the cell as it comes. Raises `KernelBusy` where the kernel was not free in time, and nothing was executed then;
        `KernelDied` where the session was over before the cell was sent, `KernelNotResponding` where it could not be
        sent, `UsageError` for code that no message can carry. A cancelled call interrupts its cell.
        """
        try:
            code.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"The code holds half a surrogate pair (\\u{ord(code[error.start]):04x}), which no message can carry. "
                "Nothing was executed; write the whole character, or an escape in a string."
            ) from None
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        for _ in range(RESENDS):
            execution = await self._send_in_turn(code, deadline, on_message)
            await self._wait(execution, deadline)
            if execution.result().status != "aborted":
                break
        return self._told(execution)

    async def read(self, number: int, *, wait: float) -> Result:
        """Return how far an execution is, after waiting at most `wait` seconds for its end.

        Raises `NoSuchKernel` for a number that is not kept.
        """
        execution = self.executions.get(number)
        if execution is None:
            kept = ", ".join(str(each.number) for each in self.executions) or "none"
            raise NoSuchKernel(f"Execution {number} is not kept for this kernel; kept are: {kept}.")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._end_of(execution)
        return self._told(execution)

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
        return execution.running and not any(each.code is not None for each in self._foreign.values())

    def _not_ours(self) -> NotOurs:
        others = "; ".join(self._others())
        if others:
            return NotOurs(
                f"What runs was not started through this bridge ({others}), so it is not interrupted; "
                "its owner can do that."
            )
        if self._unknown:
            return NotOurs(
                "What runs began before this connection, and the kernel does not tell whose it is, so it is not "
                "interrupted; the user can do that."
            )
        return NotOurs("Nothing that was started through this bridge is running, so there is nothing to interrupt.")

    async def interrupt_anyones(self) -> bool:
        """Interrupt whatever runs, for the person whose kernel it is; True if it ended."""
        await self._send_interrupt()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(INTERRUPT_WAIT):
                await self._probe()
                return True
        return False

    async def until_lost(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for the end of this session; True if it is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._lost.wait()
        return self._lost.is_set()

    async def close(self) -> None:
        """Leave the kernel: what runs in it goes on, nothing is sent."""
        if self._losing is None:
            await self._leave_subshell()
            self._losing = asyncio.create_task(self._lose("The connection was closed from this side."))
        await self._losing
        for task in self._sends:
            task.cancel()
        await asyncio.gather(*self._sends, return_exceptions=True)
        await self._channels.close()

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
            "allow_stdin": False,
            "stop_on_error": False,
        }
        try:
            async with asyncio.timeout(LOOK_WAIT), self._looking:
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
        answer = _mapping(_mapping(reply.content.get("user_expressions")).get("look"))
        text = _mapping(answer.get("data")).get("text/plain")
        if answer.get("status") != "ok" or not isinstance(text, str):
            why = f"{_text(answer.get('ename')) or 'no answer'}: {_text(answer.get('evalue'))}"
            raise KernelError(f"The kernel could not be looked into: {_line(why)}")
        return text

    async def _beside(self) -> str | None:
        """Return the id of our subshell, made with the first look; None where the kernel has none."""
        features = self._channels.kernel_info.get("supported_features")
        if self._subshell is None and isinstance(features, list) and "kernel subshells" in features:
            reply = await self._or_lost(await self._ask("control", "create_subshell_request", {}))
            made = reply.content.get("subshell_id")
            self._subshell = made if isinstance(made, str) else None
        return self._subshell

    # -- taking turns

    async def _send_in_turn(self, code: str, deadline: float | None, on_message: OnMessage | None) -> Execution:
        try:
            async with asyncio.timeout_at(deadline), self._turn:
                await self._until_own_is_done()
                await self._until_free()
        except TimeoutError:
            raise self._busy() from None
        # No await between the check above and the send below but the send itself, which only fills ZMQ's queue.
        return await self._send(code, on_message)

    async def _until_own_is_done(self) -> None:
        if self._current is not None and not self._current.done:
            await self._end_of(self._current)
            self._raise_if_lost()

    async def _until_free(self) -> None:
        """Return when nobody else's request is known to run."""
        self._raise_if_lost()
        while self._unknown or self._foreign:
            await self._probe()

    async def _first_probe(self) -> None:
        """Learn soon whether the kernel is free, so that the state is known without executing anything."""
        with contextlib.suppress(KernelDied, KernelNotResponding):
            await self._probe()

    async def _probe(self) -> None:
        """Ask on the shell channel and wait: the kernel answers in turn, after all that was sent to it before."""
        before = set(self._foreign)
        answered = await self._ask("shell", "kernel_info_request", {})
        await self._or_lost(answered)
        self._unknown = False
        # what ran before the probe was sent has ended, also where its idle never came
        for msg_id in before:
            self._foreign.pop(msg_id, None)

    async def _send(self, code: str, on_message: OnMessage | None) -> Execution:
        self._raise_if_lost()
        message = self._channels.new_message(
            "execute_request",
            {
                "code": code,
                "silent": False,
                "store_history": True,
                "user_expressions": {},
                "allow_stdin": False,
                "stop_on_error": False,
            },
        )
        msg_id = str(message["header"]["msg_id"])
        execution = self._current = self.executions.begin(msg_id, code)
        self._finished[msg_id] = asyncio.Event()
        if on_message:
            self._listeners[msg_id] = on_message
        try:
            # shielded: once the frames are handed over, the cell runs, whatever becomes of this call
            with anyio.CancelScope(shield=True):
                await self._channels.send_message("shell", message)
        except Exception:
            self._forget(execution)  # it was never sent, so nobody must wait for it
            raise
        return execution

    def _forget(self, execution: Execution) -> None:
        self._current = None
        self.executions.forget(execution)
        for table in (self._finished, self._listeners):
            table.pop(execution.msg_id, None)

    async def _end_of(self, execution: Execution) -> None:
        finished = self._finished.get(execution.msg_id)
        if finished is not None:
            await finished.wait()

    async def _wait(self, execution: Execution, deadline: float | None) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                await self._end_of(execution)
        except TimeoutError:
            return
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
            ahead = "; ".join(self._others())
            return replace(result, notes=(*result.notes, f"It waits behind {ahead}.")) if ahead else result
        return result

    # -- receiving

    def _receive(self, message: Message) -> None:
        self._heard = asyncio.get_running_loop().time()
        if message.parent_session != self._channels.session:
            self._foreign_message(message)
            return
        execution = self.executions.of(message.parent_id)
        if execution is None:
            if message.channel != "iopub":
                answered = self._replies.pop(message.parent_id, None)
                if answered is not None:
                    answered.set_result(message)
            return
        execution.feed(message)
        if execution.running:
            self._begun.setdefault(execution.msg_id, asyncio.get_running_loop().time())
        listener = self._listeners.get(message.parent_id)
        if listener:
            self._tell(listener, message)
        if message.msg_type == "execute_reply" and not execution.done:
            loop = asyncio.get_running_loop()
            self._graces[execution.msg_id] = loop.call_later(IDLE_GRACE, self._idle_never_came, execution)
        if execution.started and message.parent_id in self._unwanted:
            self._unwanted.discard(message.parent_id)
            asyncio.get_running_loop().call_later(UNWANTED_GRACE, self._take_back, execution)
        if execution.done:
            self._settle(execution)

    def _tell(self, listener: OnMessage, message: Message) -> None:
        try:
            listener(message)
        except Exception:
            # what the caller does with a message is the caller's affair: the cell's result must come all the same
            log.exception("whoever watched execution %s failed and is told no more of it", message.parent_id)
            self._listeners.pop(message.parent_id, None)

    def _take_back(self, execution: Execution) -> None:
        """Interrupt a cell that nobody waits for any more, if it is still ours that runs."""
        if self._is_running(execution) and not self._foreign and not self.lost:
            self._in_background(self._interrupt_own(execution))

    def _foreign_message(self, message: Message) -> None:
        if message.channel != "iopub" or message.in_subshell or not message.parent_id:
            return
        if message.msg_type == "status":
            state = message.content.get("execution_state")
            if state == "busy":
                self._foreign[message.parent_id] = Foreign(message.parent_username, datetime.now(UTC))
            elif state == "idle":
                self._foreign.pop(message.parent_id, None)
        elif message.msg_type == "execute_input" and message.parent_id in self._foreign:
            self._foreign[message.parent_id].code = str(message.content.get("code", ""))

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
        grace = self._graces.pop(execution.msg_id, None)
        if grace is not None:
            grace.cancel()
        finished = self._finished.pop(execution.msg_id, None)
        if finished is not None:
            finished.set()

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
        for answered in self._replies.values():
            answered.set_result(None)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


async def open_session(
    info: ConnectionInfo,
    *,
    username: str,
    explain: Callable[[], Awaitable[str]],
    timeout: float,
    starting: bool = False,
    executions: Executions | None = None,
) -> KernelSession:
    """Connect to a kernel within `timeout` seconds; it may be in the middle of a long cell.

    `executions` are those of the session that this one takes the place of: numbers go on, and what was kept is read.
    `username` signs our messages for the other clients; `explain` is asked, once, how the kernel ended; `starting` as
    in `channels.open_channels`, whose `KernelNotResponding` is raised.
    """
    channels = await open_channels(info, username=username, timeout=timeout, starting=starting)
    return KernelSession(channels, explain, executions or Executions())
