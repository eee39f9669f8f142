"""The relay's iopub towards its IDE: every subscriber is welcomed, and one that does not read costs bounded memory.

The one rule: whoever reads loses nothing because of one that does not. A subscriber for which too much waits gets no
more until it has read all of that; then it, and nobody else, is told what it has missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

from bridge.connection import ConnectionInfo
from bridge.ide.wire import Frames, Signer
from bridge.ide.zmtp import GREETING, NotZmtp, Peer, message
from bridge.messages import text_of

# What may wait, in bytes, for all subscribers together. A screenful of plots is a few million; a client on a busy
# machine lags a second behind what a kernel can say, and is not to lose it for that.
BUDGET = 256 * 2**20
# Nobody needs a key to connect. Who does not subscribe soon is none of ours; ZMQ connects again by itself.
MOST_SUBSCRIBERS, SUBSCRIBED_WITHIN = 64, 5.0
# Less than this may wait for anybody, whatever waits for others.
LEAST = 2**22
# Written at once; what is less waits for the rest of what the kernel has just said.
WRITE = 2**18
# Requests, the newest, of which a subscriber is told that it missed something.
MOST_MISSED = 1000
# What was said last must reach the IDE before the relay ends.
LINGER = 1.0


@dataclass
class Missed:
    """A request of which a subscriber did not get everything."""

    header: dict[str, Any]
    has_ended: bool = False


class Publisher:
    """Sends to all subscribers; `welcome` makes what a new one gets, `tell` what one gets that has missed something."""

    def __init__(
        self,
        signer: Signer,
        welcome: Callable[[bytes], Frames],
        tell: Callable[[Missed], Iterable[Frames]],
        budget: int = BUDGET,
    ) -> None:
        self._signer, self.welcome, self.tell, self._budget = signer, welcome, tell, budget
        self.subscribers: dict[Subscriber, None] = {}
        """In the order in which they came."""
        self.has_subscriber: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once anybody has subscribed to anything."""
        self._is_flushing = False
        self._server: asyncio.AbstractServer | None = None

    async def listen(self, info: ConnectionInfo) -> None:
        """Accept subscribers; raises `OSError` where that cannot be."""
        loop = asyncio.get_running_loop()
        if info.transport == "ipc":
            path = info.url(info.iopub_port).removeprefix("ipc://")
            self._server = await loop.create_unix_server(lambda: Subscriber(self), path)
        else:
            host = "127.0.0.1" if info.ip == "localhost" else info.ip
            self._server = await loop.create_server(lambda: Subscriber(self), host, info.iopub_port)

    def send(self, what: Frames) -> None:
        """Send a message to everybody who has subscribed to its kind."""
        frames = self._signer.sealed(what)
        data = b""
        for each in self.subscribers:
            if each.peer.wants(frames[0]):
                data = data or message(frames)
                each.send(data, what)

    def send_to(self, subscriber: Subscriber, what: Frames) -> None:
        """Send a message to one subscriber."""
        subscriber.send(message(self._signer.sealed(what)), what)

    @property
    def budget(self) -> int:
        """How much may wait for each subscriber, in bytes; those that read leave it to the others."""
        return self._budget // max(1, sum(each.waiting > LEAST for each in self.subscribers))

    def admit(self, subscriber: Subscriber) -> bool:
        """Take one more, in place of one that is silent where there are too many; False where none of them is."""
        if len(self.subscribers) == MOST_SUBSCRIBERS:
            silent = next((each for each in self.subscribers if not each.peer.topics), None)
            if silent is None:
                return False
            silent.leave()
        self.subscribers[subscriber] = None
        return True

    def flush_soon(self) -> None:
        """Write what is unsent once the kernel's messages that are there have been read."""
        if not self._is_flushing:
            self._is_flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flushing = False
        for each in self.subscribers:
            each.flush()

    async def close(self) -> None:
        """End all connections; what was sent is still delivered, as far as it is read within a second."""
        if self._server:
            self._server.close()
        self._flush()
        left = list(self.subscribers)
        for each in left:
            each.transport.close()
        if left:
            await asyncio.wait([each.closed for each in left], timeout=LINGER)
        for each in left:
            each.transport.abort()


class Subscriber(asyncio.Protocol):
    """One connection."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self.peer = Peer()
        self._unsent: list[bytes] = []
        self._unsent_size = 0
        self._missed: dict[str, Missed] | None = None
        """By request; None while nothing is being missed."""
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def send(self, data: bytes, what: Frames) -> None:
        """Send a message's bytes, unless too much waits already."""
        if self._missed is not None or (self.waiting > LEAST and self.waiting > self._publisher.budget):
            self._miss(what)
            return
        self._unsent.append(data)
        self._unsent_size += len(data)
        if self._unsent_size > WRITE:
            self.flush()
        else:
            self._publisher.flush_soon()

    @property
    def waiting(self) -> int:
        """How much waits until it is read, in bytes."""
        return self._unsent_size + self.transport.get_write_buffer_size()

    def leave(self) -> None:
        """End the connection at once."""
        self._publisher.subscribers.pop(self, None)
        self.transport.abort()

    def flush(self) -> None:
        """Write what is unsent."""
        if self._unsent:
            data = self._unsent[0] if len(self._unsent) == 1 else b"".join(self._unsent)
            self._unsent.clear()
            self._unsent_size = 0
            self.transport.write(data)

    def _miss(self, what: Frames) -> None:
        if self._missed is None:
            self._missed = {}
        parent = what.parent()
        if parent:
            missed = self._missed.setdefault(text_of(parent.get("msg_id")), Missed(parent))
            missed.has_ended |= what.msg_type == "status" and what.content().get("execution_state") == "idle"
            if len(self._missed) > MOST_MISSED:
                del self._missed[next(iter(self._missed))]

    # -- called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self.transport = cast("asyncio.Transport", transport)
        if not self._publisher.admit(self):
            self.transport.abort()
            return
        # told once everything is written
        self.transport.set_write_buffer_limits(high=0, low=0)
        self.transport.write(GREETING)
        asyncio.get_running_loop().call_later(SUBSCRIBED_WITHIN, self._leave_if_silent)

    def _leave_if_silent(self) -> None:
        if not self.peer.topics:
            self.leave()

    def data_received(self, data: bytes) -> None:
        """Subscribe to what is asked for."""
        try:
            answer, topics = self.peer.hears(data)
        except NotZmtp:
            self.leave()
            return
        self.flush()
        if self.waiting < LEAST:  # what waits tells a peer as well as an answer would that somebody is here
            self.transport.write(answer)
        for each in topics:
            self._publisher.send_to(self, self._publisher.welcome(each))
        if topics and not self._publisher.has_subscriber.done():
            self._publisher.has_subscriber.set_result(None)

    def resume_writing(self) -> None:
        """Tell what was missed: everything that waited is on its way."""
        missed, self._missed = self._missed, None
        for each in (missed or {}).values():
            for what in self._publisher.tell(each):
                self._publisher.send_to(self, what)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Forget it."""
        self._publisher.subscribers.pop(self, None)
        self._unsent.clear()
        self.closed.set_result(None)
