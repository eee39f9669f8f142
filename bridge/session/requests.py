"""Requests of ours that are no cells, and their replies.

The one rule: every request ends. Where the kernel is gone, all that wait for a reply are told so.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Literal

from bridge.channels import Channels
from bridge.errors import KernelDied, KernelNotResponding
from bridge.messages import Message


class Requests:
    """`why_lost` tells, once the session is over, what happened; None until then."""

    def __init__(self, channels: Channels, why_lost: Callable[[], str | None]) -> None:
        self._channels = channels
        self._why_lost = why_lost
        self._replies: dict[str, asyncio.Future[Message | None]] = {}
        self._fences: dict[str, asyncio.Event] = {}

    async def ask(
        self,
        channel: Literal["shell", "control"],
        msg_type: str,
        content: dict[str, Any],
        subshell: str | None = None,
    ) -> asyncio.Future[Message | None]:
        """Send a request and return its reply to come, for `reply`."""
        message = self._channels.new_message(msg_type, content)
        if subshell is not None:
            message["header"]["subshell_id"] = subshell
        answered = asyncio.get_running_loop().create_future()
        self._replies[str(message["header"]["msg_id"])] = answered
        await self._channels.send_message(channel, message)
        return answered

    async def reply(self, answered: asyncio.Future[Message | None]) -> Message:
        """Wait for a reply; `lose` answers every request, so that nobody waits for a dead kernel."""
        reply = await asyncio.shield(answered)
        if reply is None:
            self.raise_if_lost()
            raise KernelDied("The kernel is gone. Nothing was executed.")
        return reply

    async def until_published(self, grace: float) -> None:
        """Return once all that the kernel has published by now is here, or after `grace` seconds."""
        # the kernel publishes the status of this request behind the output of what runs
        message = self._channels.new_message("kernel_info_request", {})
        msg_id = str(message["header"]["msg_id"])
        fence = self._fences[msg_id] = asyncio.Event()
        with contextlib.suppress(TimeoutError, KernelNotResponding):
            async with asyncio.timeout(grace):
                await self._channels.send_message("control", message)
                await fence.wait()
        self._fences.pop(msg_id, None)

    @property
    def published_is_awaited(self) -> bool:
        """`until_published` is at work."""
        return bool(self._fences)

    def came(self, message: Message) -> None:
        """Take what came for a request of ours that is no cell."""
        if message.channel == "iopub":
            fence = self._fences.get(message.parent_id)
            if fence is not None:
                fence.set()
            return
        answered = self._replies.pop(message.parent_id, None)
        if answered is not None and not answered.done():  # nobody waits any more where the kernel is just being left
            answered.set_result(message)

    @property
    def are_over(self) -> bool:
        """The session is over, and no request is answered any more."""
        return self._why_lost() is not None

    def raise_if_lost(self) -> None:
        """Raise `KernelDied` where the session is over."""
        why = self._why_lost()
        if why is not None:
            raise KernelDied(f"{why} Nothing was executed.")

    def lose(self) -> None:
        """Tell all that wait for a reply that there will be none."""
        for answered in self._replies.values():
            answered.set_result(None)
