"""One Jupyter message as the channels deliver it: verified, parsed, frozen.

The one rule: nothing above `channels` sees a frame or a signature, nothing below it sees a socket.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Channel = Literal["shell", "control", "stdin", "iopub"]


@dataclass(frozen=True)
class Missed:
    """Output that came faster than it could be read, and was dropped."""

    messages: int = 0
    size: int = 0
    """Bytes of it."""

    def __add__(self, other: Missed) -> Missed:
        """Return both together."""
        return Missed(self.messages + other.messages, self.size + other.size)


@dataclass(frozen=True)
class Message:
    """A message from the kernel; the `parent_…` fields are about the request that it belongs to."""

    channel: Channel
    msg_type: str
    kernel: str
    """`header.session`: one value for the life of a kernel process, so a change of it is a new process."""
    content: Mapping[str, Any]
    metadata: Mapping[str, Any]
    parent_id: str
    parent_type: str
    parent_session: str
    parent_username: str
    in_subshell: bool
    """The request ran in a subshell (JEP 91), beside the main one, so it does not keep the kernel busy."""
    header: Mapping[str, Any] = field(default_factory=dict)
    """The message's own header; an answer to it names this as its parent."""
    missed: Missed | None = None
    """It stands for this, and is itself of no type that a kernel sends."""


# Code in the kernel can sign anything: what is not of the type that the specification says is taken as missing.


def mapping(value: Any) -> dict[str, Any]:
    """Return a field of a message that is to be an object."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[Any]:
    """Return a field that is to be a list."""
    return value if isinstance(value, list) else []


def text_of(value: Any) -> str:
    """Return a field that is to be text."""
    return value if isinstance(value, str) else ""


def number(value: Any, otherwise: int | None) -> int | None:
    """Return a field that is to be a whole number of a usual size: 64 bits."""
    return value if isinstance(value, int) and -(2**63) <= value < 2**63 else otherwise
