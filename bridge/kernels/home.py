"""The kernel that a server connects without being asked for (`serve --kernel`): when it is meant, and what it may cost.

The one rule: it is tried when a call may mean it, never before, so that none waits for a kernel that it has nothing to
do with; and what the agent has left stays away until it is named.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

from bridge.errors import BridgeError
from bridge.kernels import files
from bridge.kernels.files import KernelFile


class Home:
    """`which` is the kernel, by any form of name; `connect` connects it and returns what it is called then."""

    def __init__(self, which: str, connect: Callable[[str], Awaitable[str]], connected: Collection[str]) -> None:
        self._which = which
        self._connect = connect
        # the names that are connected; changes while we are here
        self._connected = connected
        self._name: str | None = None
        self.problem = ""
        """Why it could not be connected, with a space before it; empty where it could."""
        self.is_left = False
        """The agent has disconnected from it, and has not named it since."""
        self.attempts = 0
        """How often it was tried to connect it."""
        self._trying = asyncio.Lock()
        # by the loop's clock
        self._again_at = 0.0

    async def come(self, name: str | None) -> None:
        """Connect it where a call by this name may mean it.

        One without a name means what is connected, if anything is; once it was left, only its own name means it. What
        took long and failed is left alone for twice as long.
        """
        if name in self._connected or self._name in self._connected:
            return
        if name is None and (self._connected or self.is_left):
            return
        if name is not None and self.is_left and not self.may_be(name):
            return
        attempt, clock = self.attempts, asyncio.get_running_loop().time
        async with self._trying:
            # whoever had to wait for another one's attempt knows its outcome
            if self._name in self._connected or self.attempts != attempt or clock() < self._again_at:
                return
            begun = clock()
            try:
                self._name = await self._connect(self._which)
            except BridgeError as error:
                self.problem = f" {self._which}, which this server is for, could not be connected to: {error}"
                self._again_at = clock() + 2 * (clock() - begun)
            else:
                self.problem, self.is_left = "", False
            self.attempts += 1

    def leave(self, name: str) -> None:
        """Note that the agent has disconnected from a kernel, which may be this one."""
        self.is_left = self.is_left or name in self._names()

    def may_be(self, name: str) -> bool:
        """Tell whether this kernel may be called so."""
        if name in self._names():
            return True
        # by a kernel id or a notebook any name may be meant
        return self._name is None and not files.is_path(self._which)

    def _names(self) -> tuple[str, ...]:
        if self._name is not None:
            return (self._name,)
        file = Path(self._which)
        return self._which, file.name, KernelFile.sandbox_name(file.name) or file.stem
