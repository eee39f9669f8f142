"""Our cells in a connected kernel, and what is read of its cells again.

The one rule: what is sent to the kernel is in the audit before it is sent; what is only read is not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from bridge.addresses import OutputAddress
from bridge.errors import BridgeError, KernelDied, KernelError, NoAnswer, NoSuchKernel, NotAudited, UsageError
from bridge.execution import Executions
from bridge.journal import Journal
from bridge.kernels import watching
from bridge.kernels.connected import Connected
from bridge.kernels.listing import Outcome
from bridge.kernels.opening import REOPEN_TIMEOUT, Opening
from bridge.looking.outputs import outputs_expression, read_outputs
from bridge.outputs import Output, Result
from bridge.policy import Calls
from bridge.session import Ask, OnMessage

# Of a page of output for what is said around it.
PAGE_MARGIN = 512

RECOVERED = (
    "Nobody listened for a while when it ran: its texts, value and error are as the kernel itself has kept them; of "
    "what it displayed, some may be missing."
)
LEFT_OUT = " {} characters in the middle were too many."

AskFor = Callable[[str, str], Awaitable[str | None]]
"""A session's `Ask`, with the kernel's name before the question."""


async def execute(
    opening: Opening,
    name: str | None,
    code: str,
    *,
    timeout: float | None,
    on_message: OnMessage | None,
    ask: AskFor | None,
) -> Outcome:
    """Run a cell; see `KernelSession.execute`. Where only the connection is lost, it is followed on in another one."""
    deadline = None if timeout is None else time.monotonic() + timeout
    connected = await opening.live(name, timeout)
    run = partial(_run, code=code, ask=ask, timeout=timeout, on_message=on_message)
    try:
        result = await run(connected)
    except KernelDied:
        if not connected.session.lost:
            raise
        # it was lost between the look and the sending: nothing was sent, so the call may begin again, once
        connected = await opening.live(connected.name, timeout)
        result = await run(connected)
    while connected.session.is_adrift(result.execution):
        left = None if deadline is None else deadline - time.monotonic()
        try:
            connected, trouble = await followed_on(opening, connected, left)
        except asyncio.CancelledError:
            connected.session.take_back(result.execution)
            raise
        if trouble:
            return Outcome(connected.name, (*connected.take_notices(), trouble), _now(connected, result))
        result = await connected.session.go_on(
            result.execution, timeout=left and max(0.0, left), ask=_audited(connected, ask)
        )
    return Outcome(connected.name, connected.take_notices(), await _recovered(connected, result))


async def followed_on(opening: Opening, connected: Connected, timeout: float | None) -> tuple[Connected, str]:
    """Connect anew to a kernel in which a cell of ours may go on; returns why that could not be done, in a sentence."""
    try:
        return await opening.live(connected.name, None if timeout is None else max(timeout, REOPEN_TIMEOUT)), ""
    except BridgeError as error:
        return connected, str(error)


def _now(connected: Connected, result: Result) -> Result:
    execution = connected.session.executions.get(result.execution)
    return execution.result() if execution else result


async def _run(connected: Connected, *, code: str, ask: AskFor | None, **given: Any) -> Result:
    def sending(number: int) -> Callable[[Result | None], None]:
        audit = connected.audit
        return audit.begin("execute", kernel=connected.about(), execution=number, **audit.code(code)).ended

    on_send = sending if connected.audit.is_on else None
    return await connected.session.execute(code, ask=_audited(connected, ask), on_send=on_send, **given)


async def read(
    connected: Connected,
    number: int,
    calls: Calls,
    *,
    wait: float,
    cursor: int | None,
    on_message: OnMessage | None,
    ask: AskFor | None,
) -> Result:
    """Return how far an execution is; from a cursor on, one page of its output. See `Kernels.read`."""
    executions, result = connected.session.executions, None
    if executions.get(number):
        result = await connected.session.read(number, wait=wait, on_message=on_message, ask=_audited(connected, ask))
        result = await _recovered(connected, result)
    if result is None or (cursor is not None and result.cursor is not None):
        text, size = (each - PAGE_MARGIN for each in (calls.max_output, calls.max_result))
        result = executions.page(number, cursor or 0, text=text, size=size)
    if result is None:
        raise _not_kept(number, executions)
    return result


async def _recovered(connected: Connected, result: Result) -> Result:
    """Return a result with the output that the kernel itself has kept, where nobody listened for a while."""
    execution = connected.session.executions.get(result.execution)
    if execution is None or execution.count is None or not (execution.done and execution.has_gap):
        return result
    try:
        put_out = read_outputs(await connected.session.look(outputs_expression(execution.count)), execution.count)
    except (KernelError, UsageError):
        return result  # IPython before 9 keeps none, and the result says already that some is missing
    execution.recover(put_out.outputs, RECOVERED + (LEFT_OUT.format(put_out.left_out) if put_out.left_out else ""))
    return execution.result()


def output(connected: Connected, journal: Journal, address: OutputAddress, *, most: int) -> Output:
    """Return one whole output; raises `NoSuchKernel` where there is none, `UsageError` for more bytes than most."""
    executions = connected.session.executions
    cell = executions.cell(address.cell) if address.is_execution else address.cell
    if cell is None:
        raise _not_kept(address.cell, executions)
    if not address.is_execution and not watching.is_of(journal, cell, connected.name, connected.processes):
        raise NoSuchKernel(f"No cell {cell} of someone else is kept for kernel {connected.name}.")
    found, size = journal.output(cell, address.place, most=most)
    if found is None and size:
        raise UsageError(
            f"This output has {size} bytes, more than the {most} of one resource. Have the kernel write it to a "
            "file, or make it smaller."
        )
    if found is None:
        raise NoSuchKernel(f"Nothing is kept at place {address.place} of that cell's output.")
    return found


def _audited(connected: Connected, ask: AskFor | None) -> Ask | None:
    """Return what a session asks a cell's question: an answer is in the audit before it is sent."""
    if ask is None:
        return None

    async def asked(question: str) -> str | None:
        answer = await ask(connected.name, question)
        if answer is not None:
            try:
                connected.audit.begin("input", kernel=connected.about()).end("ok")
            except NotAudited as error:
                raise NoAnswer(f"{error} The cell that asked was interrupted.") from None
        return answer

    return asked


def _not_kept(execution: int, executions: Executions) -> NoSuchKernel:
    known = executions.known()
    kept = f"kept are {known[0]} to {known[1]}" if known else "none has been run yet"
    return NoSuchKernel(f"Execution {execution} is not kept for this kernel; {kept}.")
