"""What a cell produced, in the words of the Jupyter message specification.

The one rule: frozen values without behaviour. `execution` makes them, `render` shows them; neither knows the other.
Field contents follow https://jupyter-client.readthedocs.io/en/stable/messaging.html ("Messages on the IOPub channel").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Stream:
    """Text written to stdout or stderr (`stream` message)."""

    name: Literal["stdout", "stderr"]
    text: str


@dataclass(frozen=True)
class DisplayData:
    """One rich object in several forms (`display_data` message): MIME type to content; binary content is base64."""

    data: Mapping[str, Any]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    elsewhere: bool = False
    """It stands where another cell displayed it, and this one has changed it (`update_display_data` message)."""
    place: int | None = field(default=None, compare=False)
    """Where the journal has it in the cell's output; None where it has not."""
    dropped: tuple[str, ...] = field(default=(), compare=False)
    """The MIME types of forms that were too large for memory."""


@dataclass(frozen=True)
class ExecuteResult:
    """The value of a cell's last expression (`execute_result` message)."""

    data: Mapping[str, Any]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    execution_count: int | None = None
    place: int | None = field(default=None, compare=False)
    """Where the journal has it in the cell's output; None where it has not."""
    dropped: tuple[str, ...] = field(default=(), compare=False)
    """The MIME types of forms that were too large for memory."""


@dataclass(frozen=True)
class Error:
    """What the user's code raised (`error` message); `traceback` lines carry ANSI colour codes."""

    ename: str
    evalue: str
    traceback: tuple[str, ...] = ()
    place: int | None = field(default=None, compare=False)
    """Where the journal has it in the cell's output; None where it has not."""


Output = Stream | DisplayData | ExecuteResult | Error

Status = Literal["ok", "error", "aborted", "queued", "running", "asking", "lost"]


@dataclass(frozen=True)
class Question:
    """What a running cell asks with `input()` (`input_request` message on the stdin channel)."""

    id: str
    """The request's own message id: an answer to an earlier question of the same cell is told apart by it."""
    prompt: str


@dataclass(frozen=True)
class Result:
    """The state of one execution at one moment.

    `status`: `ok` and `error` are the kernel's own words for a finished cell; `aborted` was never run (another
    client's failing cell cleared the queue); `queued` was sent and waits behind someone else's cell; `running` goes on;
    `asking` stands still until its `question` is answered; `lost` ended with its kernel or connection.
    """

    execution: int
    """The bridge's own number of this execution, unique within one connection to a kernel."""
    status: Status
    outputs: tuple[Output, ...] = ()
    execution_count: int | None = None
    """The kernel's `In [n]` number; shared by all its clients."""
    notes: tuple[str, ...] = ()
    """Sentences for the reader that are not part of the cell's output."""
    left_out: int = 0
    """Bytes of output that are missing in the middle, because the cell printed more than is kept in memory."""
    lines_left_out: int = 0
    """Lines of text among them."""
    cursor: int | None = None
    """The place in all of the cell's output where reading on begins after this; None where it is not kept."""
    remaining: int | None = None
    """Of a page of the output: the bytes that are kept beyond it. None where this is its head and tail."""
    ended_kernel: bool = False
    """The cell called `exit` or `quit`, which ends an ipykernel (`ask_exit` payload of `execute_reply`)."""
    question: Question | None = None
    """What it waits for an answer to, where its status is `asking`."""
