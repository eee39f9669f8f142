"""One live connection to one kernel process: the only package with tasks, locks and time-outs.

The one rule: a session is for one kernel process and one connection. When either ends, the session is over: every
waiting call is told why, and `kernels` opens another one for the next call. So nothing is ever restored silently. A
cell that may run on is handed to that one.

What a shared kernel demands of it (the numbers are those of the design's "Rules of a shared kernel"):
1. A sent `execute_request` cannot be withdrawn, so it is sent only when nobody else's code is known to run. To wait, a
   `kernel_info_request` is put on the shell channel: the kernel answers in turn, so its reply is the event.
2. Busy is a set of requests, not the last status; on attach it is unknown, which counts as busy.
3. Only our own running cell is ever interrupted.
4. `stop_on_error` is always false; where someone else's failing cell aborted ours, it is sent again.
8. `timeout` ends the waiting, not the cell. A cancel before it interrupts our cell.
10. While our cell asks with `input()`, the kernel stands still for everyone: so a question has an end, in any case.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from bridge.channels import open_channels
from bridge.connection import ConnectionInfo
from bridge.execution import Executions
from bridge.journal import Book
from bridge.session.background import Background
from bridge.session.kernel import KernelSession, Loss
from bridge.session.questions import PATIENCE, Ask
from bridge.session.sent import OnMessage
from bridge.session.turns import OnSend, SessionState

__all__ = [
    "PATIENCE",
    "Ask",
    "Background",
    "KernelSession",
    "Loss",
    "OnMessage",
    "OnSend",
    "SessionState",
    "open_session",
]


async def open_session(
    info: ConnectionInfo,
    *,
    username: str,
    explain: Callable[[], Awaitable[Loss]],
    timeout: float,
    starting: bool = False,
    before: KernelSession | None = None,
    identity: bytes | None = None,
    book: Book | None = None,
    on_activity: Callable[[], None] | None = None,
    on_unattended: Callable[[], None] | None = None,
    patience: float = PATIENCE,
) -> KernelSession:
    """Connect to a kernel within `timeout` seconds; it may be in the middle of a long cell.

    `before` is the session that this one takes the place of, its connection closed: numbers go on, what was kept is
    read, and where the process is the same one, cells of ours that ran are followed on; where it is not, they end.
    `identity` is that of a bridge that has ended, by which the kernel replies to a cell of its that is to be adopted.
    `book` is where all cells are kept that are seen from now on; `on_activity` is called when one of someone else's
    begins or ends.
    `username` signs our messages for the other clients; `explain` is asked, once, how the kernel ended; `starting` as
    in `channels.open_channels`, whose `KernelNotResponding` is raised. After `patience` seconds without an answer a
    cell of ours that asks is interrupted; where the connection is lost meanwhile, `on_unattended` is called then, for
    whoever opens another session, which does it.
    """
    if before is not None and before.runs_a_cell:
        identity = before.identity
    channels = await open_channels(info, username=username, timeout=timeout, starting=starting, identity=identity)
    executions = before.executions if before is not None else Executions()
    session = KernelSession(channels, explain, executions, book, on_activity, on_unattended, patience)
    if before is not None:
        session.go_on_from(before)
    return session
