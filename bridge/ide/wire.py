"""Jupyter messages as frames: taken apart, verified, and signed anew for the other side.

The one rule: nothing is signed that was not verified, so whoever has no key of the one side has none of the other.
The order of the frames: https://jupyter-client.readthedocs.io/en/stable/messaging.html#the-wire-protocol
"""

from __future__ import annotations

import hmac
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from bridge.connection import ConnectionInfo

DELIMITER = b"<IDS|MSG>"
# header, parent header, metadata, content: what the signature covers
SIGNED = 4
# of the messages that are made here
VERSION = "5.4"


@dataclass(slots=True)
class Frames:
    """One verified message; nothing in it is read before it is asked for."""

    route: list[bytes]
    """What stands before the delimiter: the identities it goes back by, or a topic."""
    parts: list[bytes]
    buffers: list[bytes] = field(default_factory=list)
    """Binary, of comms; no side signs them."""
    _header: dict[str, Any] | None = None

    @property
    def header(self) -> dict[str, Any]:
        """The message's own header; empty where it is no object."""
        if self._header is None:
            self._header = _object(self.parts[0])
        return self._header

    def may_be(self, *types: bytes) -> bool:
        """Tell, without reading it, whether its type may be one of these: most of a kernel's output is none of them."""
        return any(map(self.parts[0].__contains__, types))

    @property
    def msg_type(self) -> str:
        """The type that its header names; empty where that is no text."""
        value = self.header.get("msg_type")
        return value if isinstance(value, str) else ""

    @property
    def msg_id(self) -> str:
        """The id that answers name as their parent's."""
        value = self.header.get("msg_id")
        return value if isinstance(value, str) else ""

    def parent(self) -> dict[str, Any]:
        """Read the header of the request that this belongs to; empty where there is none."""
        return _object(self.parts[1])

    def content(self) -> dict[str, Any]:
        """Read the content; empty where it is no object."""
        return _object(self.parts[3])

    def with_content(self, content: Mapping[str, Any]) -> Frames:
        """Return the same message with another content."""
        return Frames(self.route, [*self.parts[:3], json.dumps(content).encode()], self.buffers)


class Signer:
    """One side's key."""

    def __init__(self, info: ConnectionInfo) -> None:
        self._fresh = hmac.new(info.key.encode(), digestmod=info.signature_scheme.removeprefix("hmac-"))

    def signature(self, parts: Sequence[bytes]) -> bytes:
        """Return the signature, in hexadecimal, over the four JSON frames."""
        made = self._fresh.copy()
        for each in parts:
            made.update(each)
        return made.hexdigest().encode()

    def opened(self, frames: list[bytes]) -> Frames | None:
        """Take a message apart; None for what is not one, or is not signed with this key."""
        try:
            at = frames.index(DELIMITER)
        except ValueError:
            return None
        parts = frames[at + 2 : at + 2 + SIGNED]
        if len(parts) < SIGNED or not hmac.compare_digest(frames[at + 1], self.signature(parts)):
            return None
        return Frames(frames[:at], parts, frames[at + 2 + SIGNED :])

    def sealed(self, message: Frames) -> list[bytes]:
        """Return the same message as frames for the side that has this key."""
        return [*message.route, DELIMITER, self.signature(message.parts), *message.parts, *message.buffers]


class Speaker:
    """Makes the relay's own messages, all of one session."""

    def __init__(self, session: str) -> None:
        self.session = session
        self._encoded = session.encode()

    def says(
        self,
        msg_type: str,
        content: Mapping[str, Any],
        parent: Mapping[str, Any] | None = None,
        route: Sequence[bytes] = (),
    ) -> Frames:
        """Return a new message; `parent` is the header of the request that it is about."""
        header = {
            "msg_id": uuid.uuid4().hex,
            "msg_type": msg_type,
            "username": "kernel-bridge",
            "session": self.session,
            "date": datetime.now(UTC).isoformat(),
            "version": VERSION,
        }
        parts = [json.dumps(each).encode() for each in (header, parent or {}, {}, content)]
        return Frames(list(route), parts)

    def is_parent_of(self, message: Frames) -> bool:
        """Tell whether a message is about what was said here."""
        return self._encoded in message.parts[1]


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
