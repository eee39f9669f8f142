"""ZMTP 3.0 as a publisher speaks it: the greeting, frames there and back, subscriptions; bytes only, no socket.

The one rule: whoever connects needs no key, so what comes is read strictly and within small bounds; anything else ends
that connection. The protocol: https://rfc.zeromq.org/spec/23/ (who speaks a later version speaks 3.0 to us).

Why not ZMQ's own publisher: it bounds what waits for a subscriber by a number of messages, not by their size, and a
subscriber that reads is taken for full, for ever, when that number is lowered meanwhile (`check_hwm`, libzmq 4.3.5).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

# signature, version 3.0, mechanism, as-server, filler
GREETING = b"\xff\0\0\0\0\0\0\0\1\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
VERSION_AT, MECHANISM = 10, slice(12, 32)
NEWER = [bytes((each,)) for each in range(3, 10)]
MORE, LONG, COMMAND = 1, 2, 4
# Topics are a few words; nobody sends anything else here.
LARGEST_FRAME, MOST_TOPICS = 4096, 256
# Two bytes of a time to live, and of a context at most 16 (https://rfc.zeromq.org/spec/37/).
LARGEST_PING = 18


class NotZmtp(ValueError):
    """What was received is not from a subscriber."""


def message(frames: Sequence[bytes]) -> bytes:
    """Return a whole message as it is sent."""
    parts: list[bytes] = []
    for each in frames[:-1]:
        parts += (_head(MORE, len(each)), each)
    parts += (_head(0, len(frames[-1])), frames[-1])
    return b"".join(parts)


def command(name: bytes, data: bytes) -> bytes:
    """Return a command as it is sent."""
    body = bytes((len(name),)) + name + data
    return _head(COMMAND, len(body)) + body


def _head(flags: int, size: int) -> bytes:
    return bytes((flags, size)) if size < 256 else struct.pack(">BQ", flags | LONG, size)


READY = command(b"READY", b"\x0bSocket-Type" + struct.pack(">I", 3) + b"PUB")


class Peer:
    """One subscriber: what it said so far, and to what it has subscribed."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._is_greeted = self._is_ready = False
        self.topics: list[bytes] = []
        """One for each time that it subscribed, as it may do so twice."""

    def wants(self, first: bytes) -> bool:
        """Tell whether a message with this first frame is for this subscriber."""
        return any(map(first.startswith, self.topics))

    def hears(self, data: bytes) -> tuple[bytes, list[bytes]]:
        """Take what was received; returns what is to be sent for it, and the topics that are new. Raises `NotZmtp`."""
        self._received += data
        said, topics = b"", list[bytes]()
        if not self._is_greeted:
            if not self._greet():
                return b"", []
            self._is_greeted, said = True, READY
        for flags, body in self._frames():
            if flags & COMMAND:
                size = body[0] if body else 0
                name, about = body[1 : 1 + size], body[1 + size :]
            else:
                name, about = {b"\x01": b"SUBSCRIBE", b"\x00": b"CANCEL"}.get(body[:1], b""), body[1:]
            if not (self._is_ready or name == b"READY"):
                raise NotZmtp
            self._is_ready = True
            if name == b"SUBSCRIBE":
                if len(self.topics) == MOST_TOPICS:
                    raise NotZmtp
                self.topics.append(about)
                topics.append(about)
            elif name == b"CANCEL" and about in self.topics:
                self.topics.remove(about)
            elif name == b"PING":
                said += _pong(about)
        return said, topics

    def _greet(self) -> bool:
        got = self._received
        if got[:1] != GREETING[:1] or got[VERSION_AT : VERSION_AT + 1] not in (b"", *NEWER):
            raise NotZmtp
        if len(got) < len(GREETING):
            return False
        if got[MECHANISM] != GREETING[MECHANISM]:
            raise NotZmtp
        del got[: len(GREETING)]
        return True

    def _frames(self) -> Iterator[tuple[int, bytes]]:
        got = self._received
        while len(got) >= 2:
            at = 9 if got[0] & LONG else 2
            if len(got) < at:
                return
            flags, end = got[0], at + int.from_bytes(got[1:at], "big")
            if end > LARGEST_FRAME or flags & ~(LONG | COMMAND):
                raise NotZmtp
            if len(got) < end:
                return
            body = bytes(got[at:end])
            del got[:end]
            yield flags, body


def _pong(about: bytes) -> bytes:
    if len(about) > LARGEST_PING:
        raise NotZmtp
    return command(b"PONG", about[2:])  # after the time to live
