"""Interrupts of what runs in the kernel.

The one rule: only our own running cell is ever interrupted (rule 3), but for the person whose kernel it is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from bridge.errors import KernelDied, KernelNotResponding, NotOurs
from bridge.execution import Execution
from bridge.others import Others
from bridge.session.background import Background
from bridge.session.requests import Requests
from bridge.session.sent import Sent

# A short cell has ended by the time its start is seen, and what runs then may be someone else's.
UNWANTED_GRACE = 0.05
# Between the start of a cell and its first line lie some milliseconds, on a loaded machine some tenths of a second.
JUST_BEGUN = 0.5
# The kernel replies once the signal is sent, within milliseconds.
INTERRUPT_REPLY = 1.0


class Interrupts:
    """`sending` is called just before the signal is asked for."""

    def __init__(
        self, requests: Requests, sent: Sent, others: Others, background: Background, sending: Callable[[], None]
    ) -> None:
        self._requests = requests
        self._sent = sent
        self._others = others
        self._background = background
        self._sending = sending

    def is_running(self, execution: Execution) -> bool:
        """Tell whether our cell runs: one that others are seen to run has begun after ours ended."""
        return execution.running and not self._others.run_a_cell

    def not_ours(self, *, is_known: bool) -> NotOurs:
        """Return why nothing is interrupted; `is_known`: what runs began after this connection."""
        others = "; ".join(self._others.phrases())
        if others:
            return NotOurs(
                f"What runs was not started through this connection ({others}), so it is not interrupted; "
                "its owner can do that."
            )
        if not is_known:
            return NotOurs(
                "What runs began before this connection, and the kernel does not tell whose it is, so it is not "
                "interrupted; the user can do that."
            )
        return NotOurs("Nothing that was started through this connection is running, so there is nothing to interrupt.")

    async def interrupt(self, execution: Execution) -> None:
        """Interrupt our running cell, twice where it had only just begun: IPython may drop a signal before its code.

        A cell that has run for longer may be cleaning up after the first, so it gets no second one.
        """
        cell = self._sent.of(execution)
        begun = cell.begun if cell is not None else None
        just_begun = begun is not None and asyncio.get_running_loop().time() - begun < JUST_BEGUN
        await self.send()
        if not just_begun:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(JUST_BEGUN):
                await self._sent.end_of(execution)
        if self.is_running(execution):
            await self.send()

    async def send(self) -> None:
        """Interrupt whatever runs."""
        self._sending()
        answered = await self._requests.ask("control", "interrupt_request", {})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(INTERRUPT_REPLY):
                await self._requests.reply(answered)
        # A cell in a top-level await sees the signal only when its loop wakes, which any shell message does; but one
        # that comes before the signal was sent wakes it for nothing, so this waits for the reply.
        await self._requests.ask("shell", "kernel_info_request", {})

    async def send_to_asking(self, execution: Execution) -> None:
        """Interrupt our cell that stands still, if it is what runs, also where the caller leaves meanwhile."""
        if self.is_running(execution):
            # in the background: a caller that leaves now must not leave the kernel standing still
            await asyncio.shield(self._background.start(self._send_if_there()))

    async def _send_if_there(self) -> None:
        with contextlib.suppress(KernelDied, KernelNotResponding):
            await self.send()

    # -- cells that nobody waits for any more

    def take_back_once_begun(self, execution: Execution) -> None:
        """Interrupt a queued cell as soon as it starts: what was sent cannot be withdrawn."""
        cell = self._sent.of(execution)
        if cell is not None:
            cell.unwanted = True

    def saw(self, execution: Execution) -> None:
        """Look at our cell, of which a message has come."""
        cell = self._sent.of(execution)
        if cell is not None and cell.unwanted and execution.started:
            cell.unwanted = False
            asyncio.get_running_loop().call_later(UNWANTED_GRACE, self._take_back, execution)

    def _take_back(self, execution: Execution) -> None:
        if self.is_running(execution) and not self._others.requests and not self._requests.are_over:
            self._background.start(self.interrupt(execution))
