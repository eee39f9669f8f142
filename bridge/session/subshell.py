"""Looks into the kernel's namespace beside whatever runs in it, by a subshell of ours (JEP 91).

The one rule: nobody notices one. It is made with the first look and deleted when we leave: a subshell outlives its
client, thread and all.
"""

from __future__ import annotations

import asyncio
import contextlib

from bridge import terminal
from bridge.channels import Channels
from bridge.errors import KernelBusy, KernelDied, KernelError, KernelNotResponding
from bridge.messages import mapping, text_of
from bridge.session.requests import Requests
from bridge.session.turns import Turns

# A look takes milliseconds, the first one with its subshell some tens of them.
LOOK_WAIT = 5.0
# The control channel answers within milliseconds.
DELETING = 1.0


class Subshell:
    """Ours, where the kernel has any; else looks are taken while it is idle."""

    def __init__(self, channels: Channels, requests: Requests, turns: Turns) -> None:
        self._channels = channels
        self._requests = requests
        self._turns = turns
        self._id: str | None = None
        self._looking = asyncio.Lock()

    async def look(self, expression: str) -> str:
        """Return the text form of an expression's value; see `KernelSession.look`."""
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
                self._requests.raise_if_lost()
                subshell = await self._beside()
                state = self._turns.state() if subshell else await self._turns.settled()
                if subshell is None and state.state != "idle":
                    raise KernelBusy(
                        f"The kernel is busy ({'; '.join(state.running) or 'since before this connection'}) and "
                        "has no subshells (ipykernel 7 and later), so it cannot be looked into before that has ended."
                    )
                reply = await self._requests.reply(
                    await self._requests.ask("shell", "execute_request", content, subshell)
                )
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
        if self._id is None and isinstance(features, list) and "kernel subshells" in features:
            # ipykernel's control channel answers before its shell is ready, and then never answers this request
            await self._turns.settled()
            reply = await self._requests.reply(await self._requests.ask("control", "create_subshell_request", {}))
            made = reply.content.get("subshell_id")
            self._id = made if isinstance(made, str) else None
        return self._id

    async def leave(self) -> None:
        """Delete it."""
        if self._id is None:
            return
        subshell, self._id = self._id, None
        with contextlib.suppress(TimeoutError, KernelNotResponding, KernelDied):
            async with asyncio.timeout(DELETING):
                await self._requests.reply(
                    await self._requests.ask("control", "delete_subshell_request", {"subshell_id": subshell})
                )
