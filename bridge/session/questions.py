"""What a cell of ours asks with `input()`, and its answer.

The one rule: while a cell asks, the kernel stands still for everyone: so a question has an end, in any case (rule 10).
Of our cells only one runs at a time, so one question at most is open.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio

from bridge.channels import Channels
from bridge.errors import NoAnswer, UsageError
from bridge.execution import Execution
from bridge.messages import Message
from bridge.outputs import Question
from bridge.session.background import Background
from bridge.session.interrupts import Interrupts
from bridge.session.requests import Requests
from bridge.session.sent import Sent

# Time to see a question, to think and to look something up; but the kernel stands still, and others wait for it. Less
# than the ten minutes for which the MCP SDK takes the answer.
PATIENCE = 300.0
# What was printed before a question is on its way on another socket, milliseconds behind it.
OUTPUT_GRACE = 1.0

NEVER_ASKED = (
    "The cell asked for a password, which is never asked through an agent, so it was interrupted; the user can run it "
    "in a client of their own."
)

UNCERTAIN = (
    "Nobody has answered what the cell asked when a bridge before this one ended. This kernel does not tell whether it "
    "still asks, so it was not interrupted; if it does, the kernel stands still, and interrupt_kernel ends that."
)

Ask = Callable[[str], Awaitable[str | None]]
"""Puts a cell's question to whoever can answer and returns the answer. None: ask the caller, by the result. Raises
`NoAnswer` where there will be none. Cancelled where the question ends otherwise."""


@dataclass(frozen=True)
class Asked:
    """The question that is open."""

    execution: Execution
    header: Mapping[str, Any]
    """Of the request, for the answer; empty where nobody heard it: the kernel takes an answer to it all the same."""
    patience: asyncio.TimerHandle
    is_certain: bool
    """It is known to ask; else it may have been answered since, and compute."""
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Questions:
    """After `patience` seconds without an answer the cell that asks is interrupted."""

    def __init__(
        self,
        channels: Channels,
        requests: Requests,
        sent: Sent,
        interrupts: Interrupts,
        background: Background,
        patience: float,
    ) -> None:
        self._channels = channels
        self._requests = requests
        self._sent = sent
        self._interrupts = interrupts
        self._background = background
        self._patience = patience
        self.asked: Asked | None = None

    # -- how it begins

    def came(self, execution: Execution, message: Message) -> None:
        """Take the question of a running cell."""
        self._end_asking()  # of the question before, which another client has answered
        self._ask(execution, message.header)

    def found(self, execution: Execution, prompt: str | None, *, is_certain: bool = True) -> None:
        """Take what a cell was found to ask, which nobody heard; None for a password."""
        execution.ask(None if prompt is None else Question(uuid.uuid4().hex, prompt))
        self._ask(execution, {}, is_certain=is_certain)

    def _ask(
        self, execution: Execution, header: Mapping[str, Any], until: float = 0.0, *, is_certain: bool = True
    ) -> None:
        loop = asyncio.get_running_loop()
        until = until or loop.time() + self._patience
        asked = self.asked = Asked(execution, header, loop.call_at(until, self._nobody_answered), is_certain)
        if execution.question is None:
            self._background.start(self.give_up(asked, NEVER_ASKED))
        elif not self._requests.published_is_awaited:  # code can send any number of questions at once
            self._background.start(self._tell())

    async def _tell(self) -> None:
        """Tell the caller of a question, once what the cell has printed before it is here."""
        await self._requests.until_published(OUTPUT_GRACE)
        execution = self.asked.execution if self.asked else None
        cell = self._sent.of(execution) if execution and execution.question else None
        if cell is not None:
            cell.news.set()

    async def follow(
        self, execution: Execution, timeout: float | None, deadline: float | None, ask: Ask | None
    ) -> None:
        """Return when a cell has ended or asks its caller, at the latest at `deadline`; anew after each question."""
        cell = self._sent.of(execution)
        while cell is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    while not cell.news.is_set():
                        await cell.news.wait()
            if cell.adrift:
                return
            if cell.news.is_set() and execution.question is None and not execution.done:
                cell.news.clear()  # what it asked is over: its reply is here, and its end is on the way
                continue
            asked = self.asked if execution.question is not None else None
            if asked is None or ask is None or not await self._put(asked, ask):
                return
            deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout

    async def _put(self, asked: Asked, ask: Ask) -> bool:
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
                require_whole_characters(answer, "The answer", "Nothing was sent")
                await self.answer(asked, answer)
        except NoAnswer as error:
            await self.give_up(asked, str(error))
            return True
        else:
            return answer is not None
        finally:
            for task in (answering, over):
                task.cancel()
            await asyncio.gather(answering, over, return_exceptions=True)

    # -- how it ends

    def open_one(self, execution: Execution, question: str | None) -> Asked:
        """Return what a cell asks; raises `UsageError` where it does not ask this, or anything."""
        asked, asks = self.asked, execution.question
        if asked is not None and asked.execution is execution and asks is not None and question in (None, asks.id):
            return asked
        told = f"does not ask {'that any more' if question else 'for anything'}"
        raise UsageError(
            f"Execution {execution.number} {told}; its status is {execution.status}. Nothing was sent, and no "
            f"code was run; get_execution(execution={execution.number}) tells how far it is."
        )

    async def answer(self, asked: Asked, text: str) -> None:
        """Send an answer."""
        # first, so that of two answers at the same time only one is sent: the other would answer the next question
        self.close()
        message = self._channels.new_message("input_reply", {"value": text}, asked.header)
        with anyio.CancelScope(shield=True):
            await self._channels.send_message("stdin", message)

    async def give_up(self, asked: Asked, sentence: str) -> None:
        """Interrupt the cell that asks, for the reason in the sentence; one that may not ask any more is left alone."""
        if asked.is_certain:
            await self.interrupt(asked, sentence)
        else:
            self.close(UNCERTAIN)

    async def interrupt(self, asked: Asked, sentence: str) -> None:
        """Interrupt the cell that asks, for the reason in the sentence."""
        self.close(sentence)
        await self._interrupts.send_to_asking(asked.execution)

    def _nobody_answered(self) -> None:
        if self.asked is not None:
            sentence = (
                f"Nobody answered within {self._patience:g} s, so the cell was interrupted: while it asks, the kernel "
                "stands still for everyone who shares it."
            )
            self._background.start(self.give_up(self.asked, sentence))

    def close(self, sentence: str | None = None) -> None:
        """End the open question, if there is one; the sentence is told with the cell's result."""
        if self.asked is not None:
            self.asked.execution.close_question(sentence)
            self._end_asking()

    def close_of(self, execution: Execution) -> None:
        """End the question of one cell."""
        if self.asked is not None and self.asked.execution is execution:
            self.close()

    # -- across a lost connection

    def suspend(self) -> float:
        """Wait no longer for the answer of the open question, which the session after this one goes on to ask.

        Returns when that one must be there, by the loop's clock: so long may a cell ask that nobody hears.
        """
        if self.asked is None:
            return asyncio.get_running_loop().time() + self._patience
        self.asked.patience.cancel()
        self.asked.over.set()
        return self.asked.patience.when()

    def resume(self, before: Questions) -> None:
        """Go on to ask what the session before this one did, until when it would have."""
        if before.asked is not None:
            asked = before.asked
            self._ask(asked.execution, asked.header, asked.patience.when(), is_certain=asked.is_certain)

    def _end_asking(self) -> None:
        asked, self.asked = self.asked, None
        if asked is None:
            return
        asked.patience.cancel()
        asked.over.set()
        cell = self._sent.of(asked.execution)
        if cell is not None:
            cell.news.clear()


def require_whole_characters(text: str, what: str, nothing: str) -> None:
    """Raise `UsageError` for a text that holds half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{what} holds half a surrogate pair (\\u{ord(text[error.start]):04x}), which no message can carry. "
            f"{nothing}; write the whole character, or an escape in a string."
        ) from None
