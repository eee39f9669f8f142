"""One MCP client on stdin and stdout: its lines as messages, and our messages as lines.

The one rule: what cannot be read is answered too, by the request's id where that can be told, and costs that one line.
The SDK's own transport drops such lines in silence, reads lines of any length, and takes a client that closes only its
end of stdout for a crash.

A client that asks and asks is bounded: too many requests at once are refused, and while it does not read what we have
to say, nothing more of it is read.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import select
import threading
from collections.abc import Awaitable, Callable
from typing import BinaryIO

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp.types import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    PARSE_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError

LARGEST = 4 * 1024 * 1024
"""Bytes of one message. The largest that is sent is a cell's code."""
AT_ONCE = 200
"""Requests that may be under way; over HTTP there are no more connections than that."""
UNREAD = 20
"""Messages that wait for the client to read before no more of its own are read."""
LAST_ANSWERS = 0.3
"""Seconds at the end for calls to answer that their kernel was left."""
LOOK_AGAIN = 0.5
"""Seconds after which a client that is not read from is looked at again: has it left?"""

# Of a line that is too long; clients write the id at one end of it, or at the other.
_EDGE = 4096
_ID = rb'"id"\s*:\s*("(?:[^"\\]|\\.){0,200}"|-?\d{1,15})\s*'
_FIRST = re.compile(rb'\s*\{(?:\s*"(?:jsonrpc|method)"\s*:\s*"[^"\\]*"\s*,)*\s*' + _ID + rb"[,}]")
_LAST = re.compile(rb"[,{]\s*" + _ID + rb"\}\s*\Z")

Serve = Callable[
    [MemoryObjectReceiveStream[SessionMessage | Exception], MemoryObjectSendStream[SessionMessage]], Awaitable[None]
]


class Stdio:
    """The transport of a process that serves one client; from now on nothing else reads its stdin or writes its stdout.

    `on_left` is called, from any thread, once the client has closed one of them. Messages that have come are served on
    until `close`.
    """

    def __init__(self, on_left: Callable[[], None]) -> None:
        self._on_left = on_left
        # what else prints goes to stderr, and children read nothing
        self._stdin, self._stdout = _taken(0, os.open(os.devnull, os.O_RDONLY)), _taken(1, os.dup(2))
        self._comes, self._come = anyio.create_memory_object_stream[SessionMessage | Exception]()
        self._goes, self._go = anyio.create_memory_object_stream[SessionMessage]()
        self._asked: set[RequestId] = set()
        """Requests that were neither answered nor taken back."""
        self._written = asyncio.Event()
        self._one_at_a_time = anyio.CapacityLimiter(1)

    async def serve(self, serve: Serve) -> None:
        """Serve until `close`, and return once nothing is being served any more."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._write)
            # a thread, for stdin may be a file too; no signal and no end of ours wakes it, so nobody waits for it
            loop = asyncio.get_running_loop()
            threading.Thread(target=self._read, args=(loop,), name="stdin", daemon=True).start()
            await serve(self._come, self._goes.clone())
            self._goes.close()

    async def close(self) -> None:
        """Take no more messages; what is not answered in a moment is cancelled."""
        with anyio.move_on_after(LAST_ANSWERS):
            while self._asked:
                await self._next_written()
        self._comes.close()

    # -- in the reader's thread

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            with open(self._stdin, "rb") as stdin:  # noqa: PTH123 - a descriptor
                while (message := _next(stdin)) and self._is_taken(message, loop):
                    pass
        except OSError:  # of a terminal that is gone
            pass
        finally:
            self._on_left()

    def _is_taken(self, message: SessionMessage | JSONRPCError, loop: asyncio.AbstractEventLoop) -> bool:
        taking = asyncio.run_coroutine_threadsafe(self._take(message), loop)
        while True:
            try:
                taking.result(LOOK_AGAIN)
            except TimeoutError:
                if _hung_up(self._stdin):
                    return False
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return False
            else:
                return True

    # -- on the event loop

    async def _take(self, message: SessionMessage | JSONRPCError) -> None:
        while self._go.statistics().tasks_waiting_send > UNREAD:
            await self._next_written()
        if isinstance(message, SessionMessage):
            refused = self._one_too_many(message.message)
            if refused is None:
                await self._comes.send(message)
                return
            message = refused
        await self._goes.send(SessionMessage(message))

    def _one_too_many(self, message: JSONRPCMessage) -> JSONRPCError | None:
        """Count a request, or return why it is refused."""
        if isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
            taken_back = (message.params or {}).get("requestId")
            if isinstance(taken_back, str | int):
                self._asked.discard(taken_back)
        if not isinstance(message, JSONRPCRequest):
            return None
        if len(self._asked) >= AT_ONCE:
            told = f"{AT_ONCE} requests are under way. Nothing was done; ask again once one of them was answered."
            return _refusal(INTERNAL_ERROR, told, message.id)
        self._asked.add(message.id)
        return None

    async def _next_written(self) -> None:
        self._written.clear()
        await self._written.wait()

    async def _write(self) -> None:
        async with self._go:
            async for message in self._go:
                line = _line(message)
                try:
                    await anyio.to_thread.run_sync(_write_all, self._stdout, line, limiter=self._one_at_a_time)
                except OSError:
                    break
                if isinstance(message.message, JSONRPCResponse | JSONRPCError) and message.message.id is not None:
                    self._asked.discard(message.message.id)
                self._written.set()
        self._on_left()


def _taken(descriptor: int, instead: int) -> int:
    """Return a private duplicate of a standard stream, in whose place another one is from now on."""
    private = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.dup2(instead, descriptor)
    os.close(instead)
    return private


def _next(stdin: BinaryIO) -> SessionMessage | JSONRPCError | None:
    """Return the next message, or what a line that is none is answered; None at the end."""
    while line := stdin.readline(LARGEST + 1):
        if len(line) > LARGEST and not line.endswith(b"\n"):
            first = last = line[:_EDGE]
            while not last.endswith(b"\n") and (more := stdin.readline(LARGEST)):
                last = (last + more)[-_EDGE:]
            told = f"This message has more than the {LARGEST} bytes of one. Nothing was done; send less at a time."
            return _refusal(INVALID_REQUEST, told, _id_in(first, last))
        if not line.isspace():
            return _read_line(line)
    return None


def _read_line(line: bytes) -> SessionMessage | JSONRPCError:
    try:
        # not pydantic's own reader, which refuses half a surrogate pair: the tools tell of it in words
        decoded = json.loads(line)
    except (ValueError, RecursionError):
        # it may be cut off, so what stands at its end may belong to anything
        return _refusal(PARSE_ERROR, "This line is no JSON in UTF-8. Nothing was done.", _id_in(line, b""))
    number = decoded.get("id") if isinstance(decoded, dict) and "method" in decoded else None
    try:
        message = jsonrpc_message_adapter.validate_python(decoded, by_name=False)
    except ValidationError:
        message = None
    if message is None or (isinstance(message, JSONRPCNotification) and "id" in decoded):
        is_one = isinstance(number, str | int) and not isinstance(number, bool)
        told = "This is no JSON-RPC request, notification or response. Nothing was done."
        return _refusal(INVALID_REQUEST, told, number if is_one else None)
    return SessionMessage(message)


def _id_in(first: bytes, last: bytes) -> RequestId | None:
    """Return the id of a request that cannot be read as a whole, from its beginning and its end."""
    found = _FIRST.match(first) or _LAST.search(last)
    try:
        number: RequestId | None = json.loads(found[1]) if found else None
    except ValueError:
        return None
    return number


def _refusal(code: int, message: str, number: RequestId | None) -> JSONRPCError:
    return JSONRPCError(jsonrpc="2.0", id=number, error=ErrorData(code=code, message=message))


def _line(message: SessionMessage) -> bytes:
    try:
        return message.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
    except ValueError:  # half a surrogate pair that the client sent, as in an id, which goes back as an escape
        return json.dumps(message.message.model_dump(by_alias=True, exclude_unset=True)).encode() + b"\n"


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def _hung_up(descriptor: int) -> bool:
    """Tell whether the other side has closed, also where it has left something to be read."""
    looking = select.poll()
    looking.register(descriptor, select.POLLRDHUP)
    return bool(looking.poll(0))
