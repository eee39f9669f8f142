"""One `execute_request`, from queued over running to done: a pure fold over the messages that answer it.

The one rule: no I/O and no clock. Whatever the order in which reply, idle and outputs arrive, the result is the same:
shell and iopub are two sockets, and either may be ahead. `session` owns the waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from bridge.messages import Message
from bridge.outputs import DisplayData, Error, ExecuteResult, Output, Result, Status, Stream

# What one execution keeps in memory: far more than any model is shown, little enough for ten of them.
KEPT_BYTES = 8 * 1024 * 1024
# Finished executions whose output can still be read.
KEPT_EXECUTIONS = 10
# A longer text is cut into pieces of this size, so that the middle of one huge message can be left out too.
PIECE = 64 * 1024


@dataclass
class _Piece:
    output: Output
    size: int
    display_id: str | None = None


class _Kept:
    """The outputs of one execution in order, bounded: a head and a tail; what falls out between them is counted."""

    def __init__(self, limit: int) -> None:
        self._half = limit // 2
        self.clear()

    def clear(self) -> None:
        self._head: list[_Piece] = []
        self._tail: deque[_Piece] = deque()
        self._head_size = self._tail_size = 0
        self.left_out = 0

    def add(self, output: Output, display_id: str | None = None) -> str | None:
        """Keep an output; returns a sentence where only a part of it was small enough to be kept."""
        output, note = _fitted(output, self._half)
        size = _size(output)
        if not self._tail and self._head_size + size <= self._half:
            self._head.append(_Piece(output, size, display_id))
            self._head_size += size
            return note
        self._tail.append(_Piece(output, size, display_id))
        self._tail_size += size
        while self._tail_size > self._half:
            dropped = self._tail.popleft()
            self._tail_size -= dropped.size
            self.left_out += dropped.size
        return note

    def update(self, display_id: str, data: DisplayData) -> str | None:
        note = None
        for pieces in (self._head, self._tail):
            for piece in pieces:
                if piece.display_id != display_id:
                    continue
                room = 2 * self._half - self._head_size - self._tail_size + piece.size
                piece.output, note = _fitted(data, min(self._half, room))
                grown = _size(piece.output) - piece.size
                piece.size += grown
                if pieces is self._head:
                    self._head_size += grown
                else:
                    self._tail_size += grown
        return note

    def merged(self) -> Iterator[Output]:
        texts: list[str] = []
        name: Literal["stdout", "stderr"] | None = None
        for piece in (*self._head, *self._tail):
            output = piece.output
            if isinstance(output, Stream) and output.name == name:
                texts.append(output.text)
                continue
            if name:
                yield Stream(name, "".join(texts))
            name, texts = (output.name, [output.text]) if isinstance(output, Stream) else (None, [])
            if not isinstance(output, Stream):
                yield output
        if name:
            yield Stream(name, "".join(texts))


def _size(output: Output) -> int:
    if isinstance(output, Stream):
        return len(output.text)
    if isinstance(output, Error):
        return len(output.ename) + len(output.evalue) + sum(map(len, output.traceback))
    return sum(map(_form_size, output.data.values()))


def _form_size(content: Any) -> int:
    return len(content) if isinstance(content, str) else 1024


def _fitted(output: Output, limit: int) -> tuple[Output, str | None]:
    """Return an output that is at most as large as the limit, and a sentence on what was taken from it."""
    if isinstance(output, Stream) or _size(output) <= limit:
        return output, None
    if isinstance(output, Error):
        # the end of a traceback says where it happened, and its last line what
        cut = Error(output.ename, output.evalue[:PIECE], tuple(line[-PIECE:] for line in output.traceback[-20:]))
        return cut, "The traceback was too large to keep; shown is its end."
    data = dict(output.data)
    dropped = []
    for form in sorted(data, key=lambda form: _form_size(data[form]), reverse=True):
        if sum(map(_form_size, data.values())) <= limit:
            break
        dropped.append(f"{form} ({_form_size(data[form]):,} characters)")
        data[form] = _text(data[form])[:PIECE] if form == "text/plain" else ""
    data = {form: content for form, content in data.items() if content != ""}
    return replace(output, data=data), f"Of one output this was too large to keep: {', '.join(dropped)}."


class Execution:
    """One cell that was sent. `feed` takes every message whose parent is `msg_id`; `result` tells how far it is."""

    def __init__(self, number: int, msg_id: str, code: str, *, keep: int = KEPT_BYTES) -> None:
        self.number = number
        self.msg_id = msg_id
        self.code = code
        self._kept = _Kept(keep)
        self._clear_before_next = False
        self._started = False
        self._idle = False
        self._ending: Status | None = None
        self._closed = False
        self._notes: list[str] = []
        self._count: int | None = None
        self._ended_kernel = False

    @property
    def started(self) -> bool:
        """The kernel has begun to run it."""
        return self._started

    @property
    def running(self) -> bool:
        """The kernel works on it: neither reply nor idle has come, of which either may be the first."""
        return self._started and not self._idle and self._ending is None

    @property
    def replied(self) -> bool:
        """The kernel has replied; outputs may still be on their way until it is `done`."""
        return self._ending is not None

    @property
    def done(self) -> bool:
        """Nothing more is expected: reply and idle came, or it was closed or lost."""
        return self._closed

    def feed(self, message: Message) -> None:
        """Take one message that answers this request; of an unknown type it changes nothing.

        The first reply counts, and nothing that was published after the idle: what a thread of the cell writes then
        would be in the result or not, as the reply happens to be late or early.
        """
        if self._closed:
            return
        if message.msg_type == "execute_reply":
            if not self.replied:
                self._reply(message.content)
        elif message.msg_type == "status":
            self._status(message.content.get("execution_state"))
        elif message.msg_type == "execute_input":
            self._started = True
            self._count = _number(message.content.get("execution_count"), self._count)
        elif not self._idle:
            self._output(message)

    def close(self, note: str | None = None) -> None:
        """Expect nothing more: its idle did not come in time after the reply."""
        self._closed = True
        if note:
            self._notes.append(note)

    def lose(self, sentence: str) -> None:
        """Record that the kernel or the way to it ended before the cell did."""
        if not self._closed:
            self._ending = self._ending or "lost"
            self.close(sentence)

    def result(self) -> Result:
        """Return what is known now."""
        ending: Status = self._ending or "running"
        if ending == "running" and not self._started:
            ending = "queued"
        return Result(
            execution=self.number,
            status=ending,
            outputs=tuple(self._kept.merged()),
            execution_count=self._count,
            notes=tuple(self._notes),
            left_out=self._kept.left_out,
            ended_kernel=self._ended_kernel,
        )

    def _reply(self, content: Any) -> None:
        status = content.get("status")
        # "abort" was the word before protocol 5.1
        self._ending = "aborted" if status in ("aborted", "abort") else "ok" if status == "ok" else "error"
        self._count = _number(content.get("execution_count"), self._count)
        payload = [each for each in _items(content.get("payload")) if isinstance(each, dict)]
        self._ended_kernel = any(each.get("source") == "ask_exit" and not each.get("keepkernel") for each in payload)
        self._closed = self._idle or self._ending == "aborted"

    def _status(self, state: Any) -> None:
        if state == "busy":
            self._started = True
        elif state == "idle" and self._started:
            self._idle = True
            self._closed = self.replied

    def _output(self, message: Message) -> None:
        content, kind = message.content, message.msg_type
        if kind == "clear_output":
            if content.get("wait"):
                self._clear_before_next = True
            else:
                self._kept.clear()
            return
        if kind == "update_display_data":
            display_id = _mapping(content.get("transient")).get("display_id")
            if display_id:
                self._note(self._kept.update(display_id, _display(content)))
            return
        if kind not in ("stream", "display_data", "execute_result", "error"):
            return
        if self._clear_before_next:
            self._kept.clear()
            self._clear_before_next = False
        if kind == "stream":
            self._stream(content)
        elif kind == "display_data":
            self._keep(content, _display(content))
        elif kind == "execute_result":
            data, metadata = _mapping(content.get("data")), _mapping(content.get("metadata"))
            self._keep(content, ExecuteResult(data, metadata, _number(content.get("execution_count"), None)))
        else:
            lines = tuple(map(_text, _items(content.get("traceback"))))
            self._keep(content, Error(_text(content.get("ename")), _text(content.get("evalue")), lines))

    def _keep(self, content: Any, output: Output) -> None:
        self._note(self._kept.add(output, _mapping(content.get("transient")).get("display_id")))

    def _note(self, sentence: str | None) -> None:
        # a cell that updates one display a thousand times is told so once
        if sentence and sentence not in self._notes:
            self._notes.append(sentence)

    def _stream(self, content: Any) -> None:
        text = _text(content.get("text"))
        name: Literal["stdout", "stderr"] = "stderr" if content.get("name") == "stderr" else "stdout"
        for start in range(0, len(text), PIECE):
            self._kept.add(Stream(name, text[start : start + PIECE]))


def _display(content: Any) -> DisplayData:
    return DisplayData(_mapping(content.get("data")), _mapping(content.get("metadata")))


# Code in the kernel can sign anything: what is not of the type that the specification says is taken as missing.


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any, otherwise: int | None) -> int | None:
    return value if isinstance(value, int) else otherwise


class Executions:
    """The executions of one kernel by number, the last of them kept: also beyond the session that sent them."""

    def __init__(self) -> None:
        self._next = 1
        self._kept: dict[int, Execution] = {}

    def begin(self, msg_id: str, code: str) -> Execution:
        """Number an execution and keep it; the oldest one is no longer kept."""
        execution = Execution(self._next, msg_id, code)
        self._next += 1
        self._kept[execution.number] = execution
        while len(self._kept) > KEPT_EXECUTIONS:
            del self._kept[next(iter(self._kept))]
        return execution

    def forget(self, execution: Execution) -> None:
        """Keep it no longer: it was never sent."""
        self._kept.pop(execution.number, None)

    def get(self, number: int) -> Execution | None:
        """Return the one of a number, where it is still kept."""
        return self._kept.get(number)

    def of(self, msg_id: str) -> Execution | None:
        """Return the one that a message answers."""
        return next((each for each in self._kept.values() if each.msg_id == msg_id), None)

    def __iter__(self) -> Iterator[Execution]:
        """All that are kept, the oldest first."""
        return iter(self._kept.values())
