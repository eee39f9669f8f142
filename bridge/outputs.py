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


@dataclass(frozen=True)
class ExecuteResult:
    """The value of a cell's last expression (`execute_result` message)."""

    data: Mapping[str, Any]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    execution_count: int | None = None


@dataclass(frozen=True)
class Error:
    """What the user's code raised (`error` message); `traceback` lines carry ANSI colour codes."""

    ename: str
    evalue: str
    traceback: tuple[str, ...] = ()


Output = Stream | DisplayData | ExecuteResult | Error

Status = Literal["ok", "error", "aborted", "queued", "running", "lost"]


@dataclass(frozen=True)
class Result:
    """The state of one execution at one moment.

    `status`: `ok` and `error` are the kernel's own words for a finished cell; `aborted` was never run (another
    client's failing cell cleared the queue); `queued` was sent and waits behind someone else's cell; `running` goes on;
    `lost` ended with its kernel or connection.
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
    """Bytes of stream text that were dropped in the middle, because the cell printed more than is kept."""
    ended_kernel: bool = False
    """The cell called `exit` or `quit`, which ends an ipykernel (`ask_exit` payload of `execute_reply`)."""
