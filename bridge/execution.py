"""One `execute_request`, from queued over running to done: a pure fold over the messages that answer it.

The one rule: no clock, and no I/O but handing each output on to a `journal.Record`, which keeps all of it. Whatever the
order in which reply, idle and outputs arrive, the result is the same: shell and iopub are two sockets, and either may
be ahead. `session` owns the waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from bridge.journal import Record
from bridge.messages import Message, Missed, items, mapping, number, text_of
from bridge.outputs import DisplayData, Error, ExecuteResult, Output, Question, Result, Status, Stream

# What one execution keeps in memory: far more than any model is shown, little enough for some of them.
KEPT_BYTES = 8 * 1024 * 1024
# Executions that are kept in memory; of earlier ones the journal tells.
KEPT_EXECUTIONS = 2
UNREPLIED = (
    "No reply of the kernel to it has come, as where one is interrupted while it replies; how it ended is not known."
)
LATE = "A thread of the cell has put out more since its end: get_execution(execution={}, cursor=0) has it."
FASTER = (
    "Of its output {0.messages} messages with {0.size} bytes are missing in the middle: they came faster than they "
    "could be read, and nothing has kept them."
)
# Executions whose number is known; a few hundred bytes each.
KNOWN_EXECUTIONS = 10_000
# A longer text is cut into pieces of this size, so that the middle of one huge message can be left out too.
PIECE = 64 * 1024
# A question is read by a person, in a dialog; what is longer than some screens is no question.
LONGEST_PROMPT = 4000


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
        self._is_torn = False
        self.left_out = self.lines_left_out = 0

    def add(self, output: Output, display_id: str | None = None) -> str | None:
        """Keep an output; returns a sentence where only a part of it was small enough to be kept."""
        output, note = _fitted(output, self._half)
        size = _size(output)
        if not self._tail and not self._is_torn and self._head_size + size <= self._half:
            self._head.append(_Piece(output, size, display_id))
            self._head_size += size
            return note
        self._tail.append(_Piece(output, size, display_id))
        self._tail_size += size
        while self._tail_size > self._half:
            dropped = self._tail.popleft()
            self._tail_size -= dropped.size
            self.left_out += dropped.size
            if isinstance(dropped.output, Stream):
                self.lines_left_out += dropped.output.text.count("\n")
        return note

    def miss(self, size: int) -> None:
        """Something is missing here: what was before it stays the head."""
        self._is_torn = True
        self.left_out += size

    def holds(self, display_id: str) -> bool:
        return any(piece.display_id == display_id for piece in (*self._head, *self._tail))

    def update(self, display_id: str, data: DisplayData) -> str | None:
        note = None
        for pieces in (self._head, self._tail):
            for piece in pieces:
                if piece.display_id != display_id:
                    continue
                room = 2 * self._half - self._head_size - self._tail_size + piece.size
                shown = data if isinstance(piece.output, Stream) else replace(data, place=piece.output.place)
                piece.output, note = _fitted(shown, min(self._half, room))
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
        # the end of a traceback says where it happened, and the start of its last line what
        lines = tuple(map(_ends, output.traceback[-20:]))
        return Error(output.ename, _ends(output.evalue), lines), "The traceback was too large; shown is its end."
    data = dict(output.data)
    dropped = {}
    for form in sorted(data, key=lambda form: _form_size(data[form]), reverse=True):
        if sum(map(_form_size, data.values())) <= limit:
            break
        dropped[form] = f"{form} ({_form_size(data[form]):,} characters)"
        data[form] = text_of(data[form])[:PIECE] if form == "text/plain" else ""
    data = {form: content for form, content in data.items() if content != ""}
    note = f"Of one output this was too large: {', '.join(dropped.values())}."
    return replace(output, data=data, dropped=tuple(dropped)), note


def _ends(line: str) -> str:
    return line if len(line) <= PIECE else f"{line[: PIECE // 2]} … {line[-PIECE // 2 :]}"


class Execution:
    """One cell. `feed` takes every message whose parent is `msg_id`; `result` tells how far it is.

    `number` is 0 for a cell of someone else, which is known from when it has begun, and whose reply never comes to us,
    so that its idle is its end.
    """

    def __init__(
        self, number: int, msg_id: str, code: str, *, keep: int = KEPT_BYTES, record: Record | None = None
    ) -> None:
        self.number = number
        self.msg_id = msg_id
        self.code = code
        self._kept = _Kept(keep)
        self._record = record
        self._failed = False
        # displays of other cells that this one has changed: no `clear_output` of this cell reaches them
        self._elsewhere = _Kept(keep // 8)
        self._clear_before_next = False
        self._started = not number
        self._idle = False
        self._ending: Status | None = None
        self._closed = False
        self._notes: list[str] = []
        self._gaps: list[str] = []
        self._missed = Missed()
        self._count: int | None = None
        self._ended_kernel = False
        self._question: Question | None = None
        self._raised: Error | None = None
        self._pages: list[DisplayData] = []
        self._goes_on = False
        self.has_gap = False
        """The kernel that runs may know more of its output than is here."""

    def resume(self, count: int | None, outputs: Iterable[Output]) -> None:
        """Know what was seen of it by a bridge that has ended, whose record goes on: `In [n]`, and what it put out."""
        self._started, self._count = count is not None, count
        for each in outputs:
            self._kept.add(each)

    def miss(self, sentence: str) -> None:
        """Nobody heard what it put out for a while, or how it ended, as the sentence says."""
        self.has_gap = True
        self._gaps.append(sentence)
        self.note(sentence)

    def recover(self, outputs: Sequence[Output], sentence: str) -> None:
        """Have what the kernel itself has kept of an ended cell in place of the texts, value and error that were heard.

        Displays, which it does not keep, stay as they were, behind that.
        """
        displays = [each for each in self._kept.merged() if isinstance(each, DisplayData)]
        self.has_gap, self._missed = False, Missed()
        self._notes = [sentence, *(each for each in self._notes if each not in self._gaps)]
        self._clear()
        for each in (*outputs, *displays):
            place = self._record.add(each) if self._record else None
            self._kept.add(each if isinstance(each, Stream) else replace(each, place=place))
        if self._ending == "lost":
            self._failed = any(isinstance(each, Error) for each in outputs)
            self._ending = "error" if self._failed else "ok"
        if self._record:
            self._record.end(self.status, self._count)

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
    def unreplied(self) -> bool:
        """It has ended, as its idle says, and its reply is on its way; or it was lost."""
        return self._idle and not self.replied

    @property
    def done(self) -> bool:
        """Nothing more is expected: reply and idle came, or it was closed or lost."""
        return self._closed

    @property
    def question(self) -> Question | None:
        """What it asks and nobody has answered yet."""
        return self._question if self.running else None

    def feed(self, message: Message) -> None:
        """Take one message that answers this request; of an unknown type it changes nothing.

        The first reply counts. What was published after the idle, by a thread of the cell, is kept and is in no result:
        it would be there or not, as the reply happens to be late or early.
        """
        if message.missed:
            self._miss(message.missed)
        elif self._closed:
            self._late(message)
        elif message.msg_type == "execute_reply":
            if not self.replied:
                self._reply(message.content)
        elif message.msg_type == "status":
            self._status(message.content.get("execution_state"))
        elif message.msg_type == "execute_input":
            self._started = True
            self._count = number(message.content.get("execution_count"), self._count)
            if self._record:
                self._record.start(self._count)
        elif message.msg_type == "input_request":
            self._ask(message)
        elif not self._idle:
            self._output(message)
        else:
            self._late(message)

    def ask(self, question: Question | None) -> None:
        """Ask what the kernel was found to wait for; None for what is never asked."""
        self._started = True
        self._question = question and replace(question, prompt=question.prompt[:LONGEST_PROMPT])
        if self._record:
            self._record.ask(self._question.prompt if self._question else None)

    def close_question(self, note: str | None = None) -> None:
        """Ask no longer: it was answered, or given up for the reason that the note tells."""
        self._question = None
        if self._record:
            self._record.ask_no_more()
        self.note(note)

    def close(self, note: str | None = None) -> None:
        """Expect nothing more: its idle did not come in time after the reply."""
        if note:
            self._notes.append(note)
        self._close()

    def end_unreplied(self) -> None:
        """Expect nothing more: its idle came, and no reply to it, as one to a later request shows."""
        if self.unreplied and not self._closed:
            self._ending = "error"
            self.close(UNREPLIED)

    def lose(self, sentence: str, *, goes_on: bool = False) -> None:
        """Record that the kernel or the way to it ended before the cell did.

        `goes_on`: the cell itself does, as far as is known, so that its record is left without an end.
        """
        if not self._closed:
            self._ending = self._ending or "lost"
            self._goes_on = goes_on and self._ending == "lost"
            self._gaps.append(sentence)
            self.close(sentence)

    @property
    def status(self) -> Status:
        """How far it is, or how it ended."""
        if self._ending:
            return self._ending
        return "asking" if self.question else "running" if self._started else "queued"

    @property
    def count(self) -> int | None:
        """The kernel's `In [n]`, once it is known."""
        return self._count

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the reader that are no output."""
        trouble = self._record.trouble if self._record else None
        missed = FASTER.format(self._missed) if self._missed.messages else None
        return tuple(filter(None, (*self._notes, missed, trouble)))

    def result(self) -> Result:
        """Return what is known now."""
        outputs = (*self._kept.merged(), *self._elsewhere.merged())
        if self._raised and not _tells(outputs, self._raised):
            outputs = (*outputs, self._raised)
        # first the cursor: it writes what waits, and shows whether that can be
        cursor = self._record.cursor if self._record else None
        if self._record and self._record.trouble:
            cursor = None
        return Result(
            execution=self.number,
            status=self.status,
            outputs=outputs,
            execution_count=self._count,
            notes=self.notes,
            left_out=self._kept.left_out + self._elsewhere.left_out,
            lines_left_out=self._kept.lines_left_out,
            cursor=cursor,
            ended_kernel=self._ended_kernel,
            question=self.question,
        )

    def write(self) -> None:
        """Write what waits to be written together with more."""
        if self._record:
            self._record.write()

    def _miss(self, missed: Missed) -> None:
        self._missed += missed
        if not self._closed:
            self._kept.miss(missed.size)
        if self._record:
            self._record.miss(missed.size)

    def _late(self, message: Message) -> None:
        if self._record and message.msg_type in ("stream", "display_data", "error"):
            told, self._kept = self._kept, _Kept(KEPT_BYTES)
            self._output(message)
            self._kept = told
            self.note(LATE.format(self.number))

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            for page in self._pages:  # not before: the reply may be ahead of what the cell has printed
                self._keep({}, page)
            if self._record:
                if self._raised and not self._failed and not _tells(tuple(self._kept.merged()), self._raised):
                    self._record.add(self._raised)
                if self._goes_on:
                    self._record.write()
                else:
                    self._record.end(self._ending or "ok", self._count)

    def _reply(self, content: Any) -> None:
        status = content.get("status")
        # "abort" was the word before protocol 5.1
        self._ending = "aborted" if status in ("aborted", "abort") else "ok" if status == "ok" else "error"
        self._count = number(content.get("execution_count"), self._count)
        if self._ending == "error" and content.get("ename"):
            self._raised = Error(text_of(content["ename"]), text_of(content.get("evalue"))[:PIECE])
        payload = [each for each in items(content.get("payload")) if isinstance(each, dict)]
        # the help of `name?`, which a notebook shows beside the cell
        pages = (_display(each) for each in payload if each.get("source") == "page")
        self._pages = [each for each in pages if each.data]
        self._ended_kernel = any(each.get("source") == "ask_exit" and not each.get("keepkernel") for each in payload)
        if self._idle or self._ending == "aborted":
            self._close()

    def _status(self, state: Any) -> None:
        if state == "busy":
            self._started = True
        elif state == "idle" and (self._started or not self.number):
            self._idle = True
            if not self.number:
                self._ending = "error" if self._failed else "ok"
            if self.replied:
                self._close()

    def _ask(self, message: Message) -> None:
        # stdin may be ahead of iopub; a password is never asked for
        prompt = text_of(message.content.get("prompt"))
        is_password = bool(message.content.get("password"))
        self.ask(None if is_password else Question(str(message.header.get("msg_id", "")), prompt))

    def _output(self, message: Message) -> None:
        content, kind = message.content, message.msg_type
        if kind == "clear_output":
            if content.get("wait"):
                self._clear_before_next = True
            else:
                self._clear()
            return
        if kind == "update_display_data":
            self._update(content)
            return
        if kind not in ("stream", "display_data", "execute_result", "error"):
            return
        self._started = True  # also where nobody heard it begin
        if self._clear_before_next:
            self._clear()
            self._clear_before_next = False
        if kind == "stream":
            self._stream(content)
        elif kind == "display_data":
            self._keep(content, _display(content))
        elif kind == "execute_result":
            data, metadata = mapping(content.get("data")), mapping(content.get("metadata"))
            self._keep(content, ExecuteResult(data, metadata, number(content.get("execution_count"), None)))
        else:
            self._failed = True
            lines = tuple(map(text_of, items(content.get("traceback"))))
            self._keep(content, Error(text_of(content.get("ename")), text_of(content.get("evalue")), lines))

    def _clear(self) -> None:
        self._kept.clear()
        if self._record:
            self._record.clear()

    def _update(self, content: Any) -> None:
        display_id, display = _display_id(content), _display(content)
        if display_id is None:
            return
        if self._record:
            self._record.update(display_id, display)
        if self._kept.holds(display_id):
            self.note(self._kept.update(display_id, display))
            return
        display = replace(display, elsewhere=True)
        if self._elsewhere.holds(display_id):
            self.note(self._elsewhere.update(display_id, display))
        else:
            self.note(self._elsewhere.add(display, display_id))

    def _keep(self, content: Any, output: DisplayData | ExecuteResult | Error) -> None:
        display_id = _display_id(content)
        place = self._record.add(output, display_id) if self._record else None
        self.note(self._kept.add(replace(output, place=place), display_id))

    def note(self, sentence: str | None) -> None:
        """Tell the reader something that is no output, once."""
        # a cell that updates one display a thousand times is told so once
        if sentence and sentence not in self._notes:
            self._notes.append(sentence)

    def _stream(self, content: Any) -> None:
        text = text_of(content.get("text"))
        name: Literal["stdout", "stderr"] = "stderr" if content.get("name") == "stderr" else "stdout"
        if self._record:
            self._record.add(Stream(name, text))
        for start in range(0, len(text), PIECE):
            self._kept.add(Stream(name, text[start : start + PIECE]))


def _tells(outputs: Sequence[Output], raised: Error) -> bool:
    """Whether the output says already what the reply does.

    Some errors come in the reply alone, as those whose traceback no message can carry; of a group or a magic's misuse
    IPython writes the text to stderr.
    """
    if any(isinstance(each, Error) for each in outputs):
        return True
    last = outputs[-1] if outputs else None
    return isinstance(last, Stream) and last.name == "stderr" and f"{raised.ename}: {raised.evalue}" in last.text


def _display(content: Any) -> DisplayData:
    return DisplayData(mapping(content.get("data")), mapping(content.get("metadata")))


def _display_id(content: Any) -> str | None:
    found = mapping(content.get("transient")).get("display_id")
    return found if isinstance(found, str) else None


class Executions:
    """The executions of one kernel by number: also beyond the session that sent them."""

    def __init__(self) -> None:
        self._next = 1
        self._kept: dict[int, Execution] = {}
        self._records: dict[int, Record] = {}

    def begin(self, msg_id: str, code: str, record: Callable[[int], Record | None] | None = None) -> Execution:
        """Number an execution and keep it; the oldest one is no longer kept in memory. `record` begins its record."""
        number, self._next = self._next, self._next + 1
        begun = record(number) if record else None
        execution = self._kept[number] = Execution(number, msg_id, code, record=begun)
        if begun:
            self._records[number] = begun
        for table, most in ((self._kept, KEPT_EXECUTIONS), (self._records, KNOWN_EXECUTIONS)):
            while len(table) > most:
                del table[next(iter(table))]
        return execution

    def inherit(self, records: Mapping[int, Record]) -> None:
        """Know the ended executions of bridges before this one by their numbers; those to come have higher ones."""
        self._records = dict(sorted({**records, **self._records}.items()))
        self._next = max([self._next, *(number + 1 for number in records)])

    def adopt(self, execution: Execution, record: Record) -> None:
        """Keep one that a bridge before this one sent, and that may still run."""
        self._kept[execution.number] = execution
        self.inherit({execution.number: record})

    def forget(self, execution: Execution) -> None:
        """Keep it no longer: it was never sent."""
        self._kept.pop(execution.number, None)
        record = self._records.pop(execution.number, None)
        if record:
            record.forget()

    def get(self, number: int) -> Execution | None:
        """Return the one of a number, where it is still kept in memory."""
        return self._kept.get(number)

    def of(self, msg_id: str) -> Execution | None:
        """Return the one that a message answers."""
        return next((each for each in self._kept.values() if each.msg_id == msg_id), None)

    def page(self, number: int, cursor: int, *, text: int, size: int) -> Result | None:
        """Return an execution with a part of its output, as `Record.page`; None where it is no longer kept."""
        record = self._records.get(number)
        page, cell = (record.page(cursor, text=text, size=size), record.read()) if record else (None, None)
        if page is None or cell is None:
            return None
        now = self._kept.get(number)
        lost = f"{page.missing} bytes of the cell's output could not be kept." if page.missing else ""
        return Result(
            execution=number,
            status=now.status if now else cell.status,
            outputs=page.outputs,
            execution_count=now.count if now else cell.count,
            notes=(*(now.notes if now else ()), *([lost] if lost else ())),
            question=now.question if now else None,
            cursor=page.cursor,
            remaining=page.remaining,
        )

    def cell(self, number: int) -> int | None:
        """Return the journal's number of an execution; None for one that is not known."""
        record = self._records.get(number)
        return record.cell if record else None

    def known(self) -> tuple[int, int] | None:
        """Return the first and the last number of which something can be told."""
        numbers = sorted({*self._kept, *self._records})
        return (numbers[0], numbers[-1]) if numbers else None

    def __iter__(self) -> Iterator[Execution]:
        """All that are kept in memory, the oldest first."""
        return iter(self._kept.values())
