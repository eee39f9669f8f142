"""The relay: what an IDE starts in a kernel's place, and between whose ports and the shared kernel messages go.

The one rule: a message goes through as it is, signed anew, unless a rule here says why not; and what the IDE asked is
answered exactly once, whatever becomes of the kernel.

- A shutdown is answered here and ends the relay alone. An interrupt that is followed by one was part of it (so does
  jupyter_client), and another client's cell is not interrupted for it.
- `exit` and `quit` would end the kernel for everybody. A cell that is nothing else runs as a remark, and its reply has
  a console leave; one that calls them among other code is refused.
- `kernel_info` goes over control, where a kernel answers while a cell runs: else nobody could join a busy kernel.
- After an interrupt's reply the shell channel is poked, which a cell in a top-level `await` needs (ipykernel 7).
- The first cell waits for the first subscriber: an IDE that is told no end of it shows it as running for ever.
- What is about the relay's own requests stays here.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import zmq

from bridge.connection import ConnectionInfo
from bridge.errors import BridgeError, NotAudited
from bridge.ide import exits
from bridge.ide.joining import Joined
from bridge.ide.ledger import READ, Ledger
from bridge.ide.publisher import Missed, Publisher
from bridge.ide.pump import Pump
from bridge.ide.recorded import Recorded
from bridge.ide.sides import IdeSide, KernelSide
from bridge.ide.wire import Frames, Signer, Speaker
from bridge.messages import Channel, text_of

Recover = Callable[[Joined], Awaitable[Joined]]
# jupyter_client sends interrupt and shutdown within a millisecond of each other.
HOLD = 0.15
# A client opens and closes its connections one by one; ZMQ tries again after a tenth of a second.
DEPARTURE, ARRIVAL = 0.1, 2.0
# What a kernel said before it died is read before it is looked for.
LAST_WORDS = 0.05
REFUSED = (
    "exit() or quit() in this cell would end the kernel for everybody who uses it, so nothing of it was executed. Take "
    "it out; sys.exit() ends only the cell."
)


@dataclass(frozen=True)
class End:
    """Why the relay ends."""

    shutdown: bool = False
    """The IDE asked for it by a message."""
    restart: bool = False
    """It restarts its kernel, as it believes."""
    error: BridgeError | None = None
    """The kernel is gone."""


class Relay:
    """Relays between one IDE and one kernel until either is gone.

    `recover` finds a lost kernel again; `stays` tells whoever types `exit` that the kernel was not ended; `recorded`
    is told what the IDE does.
    """

    def __init__(
        self, ide: ConnectionInfo, joined: Joined, recover: Recover, *, stays: str, recorded: Recorded | None = None
    ) -> None:
        self.notices: list[str] = []
        """What the output of the IDE's next cell says first."""
        self._joined, self._recover = joined, recover
        self._stays = stays
        self._recorded = recorded
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._identity = uuid.uuid4().hex.encode()
        self._ledger = Ledger()
        self._ide_signer = Signer(ide)
        self._publisher = Publisher(self._ide_signer, self._welcome, self._catch_up)
        self._ide = IdeSide(self._context, ide, self._publisher)
        # to the IDE it is one kernel: what the relay says itself has the kernel's own session
        self._to_ide = Speaker(joined.process)
        self._waiting: deque[tuple[Channel, Frames]] = deque()
        """What the IDE asked while the kernel was lost."""
        self._unsure: list[str] = []
        """Requests whose reply may have been lost with the connection."""
        self._leaving: set[str] = set()
        """The IDE's cells that are nothing but `exit`."""
        self._held: list[Callable[[], None]] = []
        """Interrupts that may be part of a shutdown."""
        self._is_live = False

    async def run(self, ready: Callable[[], None] = lambda: None) -> End:
        """Relay until the IDE or the kernel ends, or `end` is called; raises `BridgeError` where it cannot begin."""
        self._loop = asyncio.get_running_loop()
        self._pump = Pump()
        self._over: asyncio.Future[End] = self._loop.create_future()
        self._finding: asyncio.Task[None] | None = None
        try:
            early = await self._connect()
            try:
                await self._ide.open()
                self._hear("control", "stdin")
                self._pump.add(self._ide.heartbeat, self._beats)
                self._pump.add(self._ide.departures, self._departed)
                self._go_live(early)
                ready()
                first: list[asyncio.Future[Any]] = [self._over, self._publisher.has_subscriber]
                await asyncio.wait(first, timeout=ARRIVAL, return_when=asyncio.FIRST_COMPLETED)
                self._hear("shell")
                return await self._over
            finally:
                await self._close()
        finally:
            self._context.term()

    def end(self, end: End) -> None:
        """Have `run` return."""
        if not self._over.done():
            self._over.set_result(end)

    def interrupt(self) -> None:
        """Interrupt what runs in the kernel, whoever's it is: the person pressed the button."""
        self._hold(partial(self._ask, "interrupt_request", {}))

    async def _close(self) -> None:
        self._is_live = False
        self._held.clear()
        if self._recorded:
            self._recorded.over()
        if self._finding:
            self._finding.cancel()
            await asyncio.gather(self._finding, return_exceptions=True)
        for msg_type, content in self._ledger.farewell():
            self._ask(msg_type, content)
        for each in (*self._ide.everything, *self._kernel.everything):
            self._pump.remove(each)
        await self._publisher.close()
        self._ide.close()
        self._kernel.close(flush=True)

    # -- from the IDE

    def _hear(self, *channels: Channel) -> None:
        for each in channels:
            self._pump.add(self._ide.sockets[each], partial(self._asked, each))

    def _asked(self, channel: Channel, frames: list[bytes]) -> None:
        message = self._ide_signer.opened(frames)
        if message is None:
            return  # somebody without the key
        content = message.content() if message.msg_type in READ else {}
        if message.msg_type == "shutdown_request":
            self._shut_down(channel, message)
            return
        self._ledger.asked(message, channel, content)
        if self._recorded and message.msg_type == "input_reply" and not self._may_answer(self._recorded):
            return
        if message.msg_type == "execute_request" and (leaving := exits.of(text_of(content.get("code")))):
            if leaving == "among other code":
                self._fail("NotEnded", REFUSED, [message.msg_id])
                return
            message = message.with_content({**content, "code": exits.REMARK})
            self._leaving.add(message.msg_id)
        if self._recorded:
            try:
                self._recorded.asked(message, content)
            except NotAudited as error:
                self._fail("NotAudited", str(error), [message.msg_id])
                return
        send = partial(self._send, channel, message)
        if message.msg_type == "interrupt_request":
            self._hold(send)
        else:
            send()

    def _send(self, channel: Channel, message: Frames) -> None:
        by: Channel = "control" if message.msg_type == "kernel_info_request" else channel
        if self._is_live and self._pump.send(self._kernel.sockets[by], self._kernel_signer.sealed(message)):
            return
        self._waiting.append((channel, message))
        if self._is_live:
            self._lost()

    def _may_answer(self, recorded: Recorded) -> bool:
        """Tell of an answer; where that fails the cell is interrupted, or it would stand still for everybody."""
        try:
            recorded.answer()
        except NotAudited as error:
            self.notices.append(str(error))
            self._ask("interrupt_request", {})
            return False
        return True

    def _hold(self, interrupt: Callable[[], None]) -> None:
        """Interrupt, unless a shutdown follows; the IDE's own code is not to run on in either case."""
        if self._ledger.own_runs:
            self._interrupt(interrupt)
            return
        if not self._held:
            self._loop.call_later(HOLD, self._release)
        self._held.append(interrupt)

    def _release(self) -> None:
        held, self._held = self._held, []
        for each in held:
            self._interrupt(each)

    def _interrupt(self, send: Callable[[], None]) -> None:
        if self._recorded:
            self._recorded.interrupt()
        send()

    def _shut_down(self, channel: Channel, message: Frames) -> None:
        self._held.clear()
        restart = message.content().get("restart") is True
        content = {"status": "ok", "restart": restart}
        self._reply(channel, "shutdown_reply", content, message.header, message.route)
        self._publish("shutdown_reply", content, message.header)
        self.end(End(shutdown=True, restart=restart))

    def _beats(self, frames: list[bytes]) -> None:
        # the kernel's own heart: an echo from here would hide that it is dead
        self._pump.send(self._kernel.heartbeat, frames)

    def _departed(self, _: list[bytes]) -> None:
        """A client has left: the kernel must not wait for its answer for ever."""
        if self._ledger.question:
            self._loop.call_later(DEPARTURE, self._look_for_the_asked)

    def _look_for_the_asked(self) -> None:
        if not self._over.done() and (asked := self._ledger.question) and not self._is_there(asked.route):
            self._ask("interrupt_request", {})

    def _is_there(self, route: list[bytes]) -> bool:
        # of a type that no client knows, so none reads it; it cannot be sent to one that has left
        return self._reply("shell", "kernel_bridge_presence", {}, {}, route)

    # -- from the kernel

    def _answered(self, channel: Channel, frames: list[bytes]) -> None:
        message = self._kernel_signer.opened(frames)
        if message is None:
            return
        if message.msg_type == "interrupt_reply":
            self._ask("kernel_info_request", {}, "shell")
        if not message.route:  # to the relay's own request: what was asked on this channel before it is answered too
            if channel == "shell" and self._unsure:
                sentence = "The connection was lost meanwhile, and with it the reply; the code may have run."
                self._fail("ConnectionLost", sentence, self._unsure)
                self._unsure = []
            return
        if message.msg_type == "input_request":
            self._ledger.questioned(message)
            self._question(message, self._loop.time() + ARRIVAL)
            return
        request = self._ledger.answered(message)
        if self._recorded and request:
            self._recorded.answered(text_of(request.header.get("msg_id")), message)
        if request is None and message.msg_type.endswith("_reply"):
            return  # answered already, when the connection was lost
        if request and request.header.get("msg_id") in self._leaving:
            self._leaving.discard(text_of(request.header.get("msg_id")))
            payload = [{"source": "ask_exit", "keepkernel": True}]
            message = message.with_content({**message.content(), "payload": payload})
        self._pump.send(self._ide.sockets[request.channel if request else channel], self._ide_signer.sealed(message))

    def _question(self, message: Frames, deadline: float) -> None:
        """Put a question to the client that is asked: it may be just connecting, or it may have left."""
        if not self._ledger.question or self._over.done():
            return
        if self._pump.send(self._ide.sockets["stdin"], self._ide_signer.sealed(message)):
            return
        if self._loop.time() < deadline and self._is_there(message.route):
            self._loop.call_later(DEPARTURE, self._question, message, deadline)
        else:
            self._ask("interrupt_request", {})

    def _published(self, frames: list[bytes]) -> None:
        message = self._kernel_signer.opened(frames)
        if message is None or self._to_kernel.is_parent_of(message):
            return
        kind = message.msg_type if message.may_be(b"status", b"execute_input", b"iopub_welcome") else ""
        if kind == "iopub_welcome":
            return
        self._publisher.send(message)
        if kind == "status":
            self._ledger.status(message)
        elif kind == "execute_input":
            self._ledger.counted(message)
            parent = message.parent()
            if parent.get("msg_id") in self._leaving:
                self._warn(self._stays, parent)
            if self.notices and self._ledger.is_cell(text_of(parent.get("msg_id"))):
                for each in self.notices:
                    self._warn(each, parent)
                self.notices.clear()

    def _beaten(self, frames: list[bytes]) -> None:
        self._pump.send(self._ide.heartbeat, frames)

    # -- what the relay says itself

    def _publish(self, msg_type: str, content: Mapping[str, Any], about: Mapping[str, Any] | None = None) -> None:
        self._publisher.send(self._to_ide.says(msg_type, content, about))

    def _warn(self, sentence: str, about: Mapping[str, Any]) -> None:
        self._publisher.send(self._warning(sentence, about))

    def _warning(self, sentence: str, about: Mapping[str, Any]) -> Frames:
        return self._to_ide.says("stream", {"name": "stderr", "text": f"kernel-bridge: {sentence}\n"}, about)

    def _reply(
        self, channel: Channel, msg_type: str, content: Mapping[str, Any], about: Mapping[str, Any], route: list[bytes]
    ) -> bool:
        message = self._to_ide.says(msg_type, content, about, route)
        return self._pump.send(self._ide.sockets[channel], self._ide_signer.sealed(message))

    def _ask(self, msg_type: str, content: Mapping[str, Any], channel: Channel = "control") -> None:
        message = self._to_kernel.says(msg_type, content)
        self._pump.send(self._kernel.sockets[channel], self._kernel_signer.sealed(message))

    def _welcome(self, topic: bytes) -> Frames:
        # JEP 65; ipykernel sends it with the topic in front, none for the empty one
        content = {"subscription": topic.decode(errors="replace")}
        return self._to_ide.says("iopub_welcome", content, route=[topic] if topic else [])

    def _catch_up(self, missed: Missed) -> Iterator[Frames]:
        """Make what a client gets, that did not read, for each request it missed something of."""
        if missed.header.get("msg_type") == "execute_request":
            missing = "Output is missing here: the program that shows it did not read it for a while."
            yield self._warning(missing, missed.header)
        if missed.has_ended:  # else it shows the kernel as busy for ever
            yield self._to_ide.says("status", {"execution_state": "idle"}, missed.header)

    # -- a kernel that is lost

    async def _connect(self) -> list[list[bytes]]:
        """Connect to the kernel; returns what it has published meanwhile."""
        self._kernel_signer = Signer(self._joined.info)
        self._to_kernel = Speaker(f"kernel-bridge-relay-{uuid.uuid4().hex}")
        self._kernel = KernelSide(self._context, self._joined.info, self._identity, self._to_kernel)
        try:
            return await self._kernel.attach()
        except BaseException:
            self._kernel.close()
            raise

    def _go_live(self, early: list[list[bytes]]) -> None:
        for frames in early:
            self._published(frames)
        for channel, each in self._kernel.sockets.items():
            self._pump.add(each, partial(self._answered, channel))
        self._pump.add(self._kernel.heartbeat, self._beaten)
        self._pump.add(self._kernel.iopub, self._published)
        for each in self._kernel.monitors:
            self._pump.add(each, self._lost)
        self._is_live = True
        for _ in range(len(self._waiting)):
            self._send(*self._waiting.popleft())

    def _lost(self, _: object = None) -> None:
        if self._is_live:
            self._is_live = False
            waiting = {message.msg_id for _, message in self._waiting}
            self._unsure = [each for each in self._ledger.open() if each not in waiting]
            self._finding = self._loop.create_task(self._find_again())
            self._finding.add_done_callback(self._found)

    async def _find_again(self) -> None:
        while True:
            await asyncio.sleep(LAST_WORDS)
            if not self._pump.has_more(self._kernel.everything):
                break
        for each in self._kernel.everything:
            self._pump.remove(each)
        self._kernel.close()
        try:
            found = await self._recover(self._joined)
            is_new, self._joined = found.process != self._joined.process, found
            if is_new:
                self._restarted(found)
            early = await self._connect()
        except BridgeError as error:
            self._fail("KernelDied", str(error), self._ledger.open())
            self.end(End(error=error))
            return
        self.notices.append(found.reason)
        self._go_live(early)
        if self._unsure:
            self._ask("kernel_info_request", {}, "shell")

    def _found(self, finding: asyncio.Task[None]) -> None:
        if not finding.cancelled() and (bug := finding.exception()) and not self._over.done():
            self._over.set_exception(bug)

    def _restarted(self, found: Joined) -> None:
        self._fail("KernelRestarted", found.reason, self._unsure)
        self._unsure = []
        self._ledger.restarted()
        self._to_ide = Speaker(found.process)
        # as a Jupyter server says it of a kernel that it restarts by itself
        self._publish("status", {"execution_state": "restarting"})

    def _fail(self, name: str, sentence: str, ids: Collection[str]) -> None:
        """Answer what the kernel will not answer any more."""
        error = {"ename": name, "evalue": sentence, "traceback": [f"{name}: {sentence}"]}
        for each in self._ledger.taken(ids):
            if each.msg_type == "execute_request":
                self._publish("error", error, each.header)
            if self._recorded:
                self._recorded.lost(text_of(each.header.get("msg_id")))
            content = {"status": "error", **error, "execution_count": self._ledger.count, "user_expressions": {}}
            if each.msg_type == "debug_request":  # as debuggers say it
                content |= {"type": "response", "success": False, "message": sentence}
            self._reply(each.channel, each.reply_type, content, each.header, each.route)
            self._publish("status", {"execution_state": "idle"}, each.header)
