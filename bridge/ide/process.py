"""A kernel as a KernelManager has it: one process that is started, polled, signalled and ended.

The one rule: its end is what its connection tells, and it is looked into before it is told. Where the connection drops
and the same process answers again (its gateway was lost and came back), nothing has ended; where another one answers,
the process that was started here is over, and its variables with it, although a kernel runs. Polling reads one field.

Everything but reading that field happens in the background's loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from bridge.channels import Channels, open_channels
from bridge.errors import BridgeError, KernelDied, KernelNotResponding
from bridge.ide import inside
from bridge.ide.background import Closable
from bridge.ide.configuration import host_kernel
from bridge.ide.joining import ANSWER_TIMEOUT, Joined, Joining
from bridge.messages import Message

# A kernel answers an interrupt at once; one that does not gets the signal from its supervisor.
INTERRUPT_REPLY = 2.0
# A killed process is gone in milliseconds.
KILLED = 5.0
# Hidden code of ours takes milliseconds; what runs before it is someone's cell, and is not waited for.
HIDDEN = 2.0

EXITED, DIED, KILLED_BY_US = 0, 1, -9


class KernelProcess:
    """One kernel of a KernelManager: a sandbox that `joining` owns, or one that is shared and only joined.

    It is among `kept` from its start until it is closed or let go.
    """

    def __init__(self, joining: Joining, log: logging.Logger, kept: set[Closable], *, username: str) -> None:
        self.joining = joining
        self.returncode: int | None = EXITED
        """None while the process runs."""
        self.gone = False
        """It ended, and there is nothing left that could be started again in its place."""
        self.closed = False
        self._log, self._kept, self._username = log, kept, username
        self._joined: Joined | None = None
        self._channels: Channels | None = None
        self._watching: asyncio.Task[None] | None = None
        self._answers: dict[str, asyncio.Event] = {}
        self._dropped = asyncio.Event()
        self._ended = asyncio.Event()
        self._ending = False
        self._closing = asyncio.Lock()

    @property
    def owned(self) -> bool:
        """Whether it ends with its KernelManager."""
        return self.joining.owner

    async def start(self, directory: Path | None = None) -> tuple[Joined, bool]:
        """Start it or join it, also in place of the one before; returns what answers, and if it is a new process.

        `directory`: where in its workspace an owned kernel is to work. Raises `BridgeError`; then, and where the call
        is cancelled, `close` removes what was started.
        """
        self._kept.add(self)
        before = self._joined
        await self._leave()
        joined = await (self.joining.restarted(before) if before else self.joining.join())
        if self.joining.sandbox is None:
            raise host_kernel(self.joining.name)
        await self._connect(joined)
        self._ended.clear()
        self.gone = self._ending = False
        self.returncode = None
        self._watching = asyncio.create_task(self._watch(joined))
        if self.owned and directory is not None:
            await self.run_hidden(inside.change_directory(directory))
        return joined, before is None or joined.process != before.process

    async def interrupt(self) -> None:
        """Interrupt whatever runs; where no reply comes, a sandbox's supervisor sends the signal past the channels."""
        if self._channels is None or self.returncode is not None:
            return
        answered = await self._ask("control", "interrupt_request", {}, INTERRUPT_REPLY)
        if not answered and self.joining.sandbox:
            async with self.joining.kernels() as kernels:
                await kernels.launcher.interrupt_kernel(self.joining.sandbox)
        # a cell in a top-level await sees the signal only when its loop wakes, which any shell message does
        await self._ask("shell", "kernel_info_request", {}, 0)

    async def shut_down(self, *, restart: bool) -> None:
        """Ask an owned kernel to end by itself; leave a shared one."""
        if not self.owned:
            await self._over(EXITED)
        elif self.returncode is None and not self._ending:
            self._ending = True
            # Over our own channels, which hold nothing back for a later process on the same ports.
            await self._ask("control", "shutdown_request", {"restart": restart}, 0)

    async def kill(self) -> None:
        """End an owned kernel's process past its channels; leave a shared one."""
        self._ending = True
        if self.owned and self.returncode is None and self.joining.sandbox:
            try:
                async with self.joining.kernels() as kernels:
                    await kernels.launcher.restart_kernel(self.joining.sandbox)
                async with asyncio.timeout(KILLED):
                    await self._ended.wait()
            except TimeoutError:
                pass
            except BridgeError as error:
                self._log.error("%s", error)
        await self._over(KILLED_BY_US if self.owned else EXITED)

    async def close(self) -> None:
        """Stop an owned sandbox, leave a shared one; where it could not be stopped, it is still owned and guarded."""
        async with self._closing:
            if self.closed:
                return
            await self._over(EXITED)
            try:
                await self.joining.leave()
            except BridgeError as error:
                name = self.joining.sandbox
                self._log.error(
                    "Sandbox %s could not be stopped: %s It is ended with `kernel-bridge stop %s`.", name, error, name
                )
                return
            self.closed = True
            self._kept.discard(self)

    async def let_go(self) -> None:
        """Have the kernel outlive this process."""
        self._kept.discard(self)
        self.joining.let_go()

    async def until_ended(self) -> None:
        """Return when the process has ended."""
        await self._ended.wait()

    async def run_hidden(self, code: str) -> None:
        """Run code of `inside` in the kernel; what runs there already is not waited for."""
        await self._ask("shell", "execute_request", inside.request(code), HIDDEN)

    # -- watching

    async def _connect(self, joined: Joined) -> None:
        channels = await open_channels(joined.info, username=self._username, timeout=ANSWER_TIMEOUT)
        channels.ignore_output()
        self._dropped.clear()
        channels.start(self._hear, lambda _: self._dropped.set())
        self._channels, self._joined = channels, joined
        if channels.kernel != joined.process:  # it has ended since it was found
            self._dropped.set()

    async def _watch(self, joined: Joined) -> None:
        while True:
            await self._dropped.wait()
            self._dropped.clear()
            if self._ending:
                break
            try:
                found = await self.joining.rejoin(joined)
            except KernelDied as error:
                await self._lost(str(error))
                return
            if (found.process, found.info) != (joined.process, joined.info):
                self._log.warning("%s", found.reason)
                break
            await self._disconnect()
            try:
                await self._connect(joined)
            except KernelNotResponding:
                self._dropped.set()
        await self._over(EXITED if self._ending else DIED)

    async def _lost(self, why: str) -> None:
        self._log.warning("The kernel %s is gone: %s", self.joining.name, why)
        self.gone = True
        await self._over(DIED)
        # whoever learns of it may forget the kernel without another word to us
        await self.close()

    async def _over(self, code: int) -> None:
        if self.returncode is None:
            self.returncode = code
        self._ended.set()
        await self._leave()

    async def _leave(self) -> None:
        watching, self._watching = self._watching, None
        if watching is not None and watching is not asyncio.current_task():
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        await self._disconnect()

    async def _disconnect(self) -> None:
        channels, self._channels = self._channels, None
        if channels is not None:
            await channels.close()

    # -- talking

    async def _ask(
        self, channel: Literal["shell", "control"], msg_type: str, content: Mapping[str, Any], patience: float
    ) -> bool:
        """Send a request and wait at most `patience` seconds for its reply; True if it has come."""
        if self._channels is None:
            return False
        message = self._channels.new_message(msg_type, content)
        number, answered = str(message["header"]["msg_id"]), asyncio.Event()
        self._answers[number] = answered
        try:
            await self._channels.send_message(channel, message)
            async with asyncio.timeout(patience):
                await answered.wait()
        except (KernelNotResponding, TimeoutError):
            pass
        finally:
            del self._answers[number]
        return answered.is_set()

    def _hear(self, message: Message) -> None:
        if message.channel != "iopub" and message.parent_id in self._answers:
            self._answers[message.parent_id].set()
