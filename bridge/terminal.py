"""Foreign text as a person would see it in a terminal or a browser, as plain text; and the cut in its middle.

The one rule: pure functions that take linear time for any input and whose result always encodes to UTF-8. The text
comes from code that nobody vouches for, so nothing here backtracks, and html.parser is not used: an unclosed tag
repeated over 100 KB keeps it busy for more than a minute.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

_MOVE = r"(?:\x1b\[|\x9b)[0-9]{0,4}[ABCDGJK]"
"""The control sequences that progress displays (tqdm, rich, pip) redraw with; `_Screen` obeys them."""

_ESCAPE = re.compile(
    rf"(?!{_MOVE})(?:"
    # Without its terminator a string sequence would hide all that follows: then only its introducer goes.
    r"(?:\x1b\]|\x9d)(?:[^\x07\n\x1b\x80-\x9f]*+(?:\x07|\x1b\\|\x9c))?"
    r"|(?:\x1b[PX^_]|[\x90\x98\x9e\x9f])(?:[^\x1b\x80-\x9f]*+(?:\x1b\\|\x9c))?"
    r"|(?:\x1b\[|\x9b)[0-?]*+[ -/]*+[@-~]?"
    r"|\x1b(?:[ -/]{0,2}[0-~])?"
    r"|[\x80-\x84\x86-\x8f\x91-\x97\x99\x9a\x9c]"
    r")"
)
_TOKEN = re.compile(r"(?:\x1b\[|\x9b)([0-9]{0,4})([ABCDGJK])|([\n\r\b])|([^\x1b\x9b\n\r\b]+)")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NEW_LINE = re.compile(r"[\x0b\x0c\x85]")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")

_LINE, _LINE_SOURCE = 80, 1000
"""Characters that a line of code is recognised by, and of its source that are looked at."""

_WIDTH = 200
"""The cursor is not moved further right than this, unless the line is longer."""


def shown(text: str) -> str:
    """What a terminal shows after `text` was written to it, without colour.

    Escape sequences are gone, what was overwritten is gone, NUL and other controls are Unicode's control pictures
    (the bell is dropped), lone surrogates are U+FFFD. Only newlines and tabs remain of the control characters.
    """
    text = _SURROGATE.sub("\ufffd", text)
    text = _ESCAPE.sub("", text).replace("\a", "")
    text = _NEW_LINE.sub("\n", text)
    if "\b" in text or "\x1b" in text or "\x9b" in text:
        text = _Screen(text).text()
    elif "\r" in text:
        text = "\n".join(_overwritten(line) if "\r" in line else line for line in text.split("\n"))
    return _CONTROL.sub(_picture, text)


def first_line(text: str) -> str:
    """The first line of what others say of themselves, as a person would see it, cut where it is long."""
    return next(iter(shown(text[:_LINE_SOURCE]).strip().splitlines()), "").replace("\t", " ")[:_LINE]


def _picture(control: re.Match[str]) -> str:
    code = ord(control[0])
    return "\u2421" if code == 0x7F else chr(0x2400 + code)


def _overwritten(line: str) -> str:
    """A line whose parts were each written from its first column. Only text longer than all after it shows through."""
    left = ""
    for part in reversed(line.split("\r")):
        if len(part) > len(left):
            left += part[len(left) :]
    return left.rstrip(" ")


class _Screen:
    """A terminal without a height, one character a column; only what redrawing lines needs."""

    def __init__(self, text: str) -> None:
        self._rows: list[list[str]] = [[]]
        self._row = 0
        self._column = 0
        self._blanks = len(text)
        """Blanks that cursor movements may still cost: a four-byte movement must not buy a row of them each time."""
        for token in _TOKEN.finditer(text):
            number, letter, control, written = token.groups()
            if written:
                self._write(written)
            elif control:
                self._control(control)
            elif letter in "JK":
                self._erase(letter, int(number or 0))
            else:
                self._move(letter, int(number or 0) or 1)

    def text(self) -> str:
        return "\n".join("".join(row).rstrip(" ") for row in self._rows)

    def _write(self, text: str) -> None:
        row = self._rows[self._row]
        if self._column > len(row):
            blanks = min(self._column - len(row), self._blanks)
            self._blanks -= blanks
            row.extend(" " * blanks)
            self._column = len(row)
        row[self._column : self._column + len(text)] = text
        self._column += len(text)

    def _control(self, control: str) -> None:
        if control == "\b":
            self._column = max(0, self._column - 1)
            return
        self._column = 0
        if control == "\n":
            self._row += 1
            if self._row == len(self._rows):
                self._rows.append([])

    def _move(self, letter: str, number: int) -> None:
        match letter:
            case "A":
                self._row = max(0, self._row - number)
            case "B":
                self._row = min(len(self._rows) - 1, self._row + number)
            case "C":
                self._column += number
            case "D":
                self._column = max(0, self._column - number)
            case _:  # G, the column itself
                self._column = number - 1
        self._column = min(self._column, max(_WIDTH, len(self._rows[self._row])))

    def _erase(self, letter: str, number: int) -> None:
        row = self._rows[self._row]
        if number == 0:
            del row[self._column :]
            if letter == "J":
                del self._rows[self._row + 1 :]
        elif letter == "K" and (number == 2 or self._column >= len(row)):
            row.clear()
        # Clearing the whole screen is not obeyed: what came before is still output.


# A `>` may stand in a quoted value; at a `<` all alternatives stop, which is what keeps time linear.
_TAG = re.compile(r"""<(/?)([a-zA-Z][a-zA-Z0-9]*)((?:[^<>"']|"[^"<]*"|'[^'<]*')*+>|[^<>]*>)|<[!?/][^<>]*>""")
_ATTRIBUTE = re.compile(r"""\b(alt|title|src|colspan|rowspan)=(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""")
_UNSEEN = frozenset({"script", "style", "template", "title", "noscript"})
_MEDIA = {"img": "image", "audio": "audio", "video": "video", "iframe": "frame", "canvas": "drawing"}
"""What is seen but has no text, and the word for it; what stands inside is for browsers that cannot show it."""
_BLOCK = re.compile(
    "address|article|aside|blockquote|br|caption|dd|details|div|dl|dt|fieldset|figcaption|figure|footer|form|h[1-6]|"
    "header|hr|li|main|nav|ol|option|p|pre|section|summary|table|tbody|td|tfoot|th|thead|tr|ul"
)


def read_html(source: str) -> str:
    """The text of an HTML fragment: a line for each block, a Markdown row for each table row, without scripts."""
    first, *others = _SURROGATE.sub("\ufffd", source).split("<!--")
    source = first + "".join(piece.partition("-->")[2] for piece in others)
    page = _Page(len(source))
    unseen, end = "", 0
    for tag in _TAG.finditer(source):
        if not unseen:
            page.write(source[end : tag.start()])
        end = tag.end()
        closing, name = bool(tag[1]), (tag[2] or "").lower()
        if unseen:
            unseen = "" if closing and name == unseen else unseen
        elif name in _UNSEEN:
            unseen = "" if closing else name
        elif name in _MEDIA and not closing:
            page.write(_medium(_MEDIA[name], _attributes(tag[3])))
            unseen = "" if name == "img" else name
        elif _BLOCK.fullmatch(name):
            page.tag(name, _attributes(tag[3]) if name in {"td", "th"} else {}, closing=closing)
    if not unseen:
        page.write(source[end:])
    return page.text()


def _attributes(source: str) -> dict[str, str]:
    return {found[1]: found[2] or found[3] or found[4] or "" for found in _ATTRIBUTE.finditer(source)}


def _medium(kind: str, attributes: dict[str, str]) -> str:
    source = attributes.get("src", "")
    about = attributes.get("alt") or attributes.get("title") or ("" if source.startswith("data:") else source)
    return f" [{kind}: {about[:200]}] " if about else f" [{kind}] "


class _Page:
    """The lines that tags have ended, and the cells of the table row that is open."""

    def __init__(self, size: int) -> None:
        self._lines: list[str] = []
        self._words: list[str] = []
        self._cells: list[str] | None = None
        self._in_cell = False
        self._span = (1, 1)
        self._below: dict[int, tuple[str, int]] = {}
        """Cells that reach down into the next rows: by column, the text and the number of rows."""
        self._copies = size
        """Characters that cells over several columns or rows may still cost: a short tag must not buy a thousand."""
        self._nested = 0
        self._rows = 0
        self._verbatim = False

    def write(self, text: str) -> None:
        # A character number of more than 4300 digits is an error to Python.
        try:
            self._words.append(html.unescape(text))
        except ValueError:
            self._words.append(text)

    def tag(self, name: str, attributes: dict[str, str], *, closing: bool) -> None:
        if self._nested or (self._in_cell and name == "table" and not closing):
            self._words.append(" ")  # a table within a cell is text of the cell
            if name == "table":
                self._nested += -1 if closing else 1
        elif name in {"td", "th"}:
            self._end_text()
            self._in_cell = not closing
            self._span = _span(attributes.get("colspan")), _span(attributes.get("rowspan"))
            self._cells = self._cells if self._cells is not None else []
        elif name in {"tr", "table", "thead", "tbody", "tfoot"}:
            self._end_row()
            self._rows = 0 if name == "table" else self._rows
            if name != "tr":
                self._below.clear()
        elif self._in_cell:
            self._words.append(" ")
        else:
            self._end_text()
            if name == "pre":
                self._verbatim = not closing
            elif name == "li" and not closing:
                self._words.append("- ")

    def text(self) -> str:
        self._end_row()
        return "\n".join(self._lines)

    def _end_text(self) -> None:
        text = "".join(self._words)
        text = text.strip("\n") if self._verbatim and not self._in_cell else " ".join(text.split())
        self._words = []
        if self._in_cell and self._cells is not None:
            self._end_cell(self._cells, text.replace("|", "\\|"))
        elif text:
            self._lines.append(text)

    def _end_cell(self, cells: list[str], text: str) -> None:
        """Put a cell into each column that it covers, now and in the rows below: a reader sees which it belongs to."""
        columns, rows = self._span
        for column in range(columns):
            self._fill(cells)
            if column and not self._afford(text):
                return
            cells.append(text)
            if rows > 1:
                self._below[len(cells) - 1] = text, rows - 1

    def _fill(self, cells: list[str]) -> None:
        """Put what reaches down from the rows above into the next columns."""
        while (column := len(cells)) in self._below:
            text, rows = self._below.pop(column)
            if not self._afford(text):
                self._below.clear()
                return
            cells.append(text)
            if rows > 1:
                self._below[column] = text, rows - 1

    def _afford(self, text: str) -> bool:
        self._copies -= len(text) + 3
        return self._copies >= 0

    def _end_row(self) -> None:
        self._end_text()
        if self._cells:
            self._fill(self._cells)
            self._lines.append(_row(self._cells))
            if self._rows == 0:
                self._lines.append(_row(["---"] * len(self._cells)))
            self._rows += 1
        self._cells, self._in_cell = None, False


def _span(number: str | None) -> int:
    return int(number) if number and re.fullmatch("[1-9][0-9]{0,2}", number) else 1


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def cut(texts: Sequence[str], limit: int, missing: tuple[int, int] = (0, 0)) -> list[str]:
    """`texts`, together at most `limit` bytes of UTF-8: two thirds from the start, one third from the end.

    Between them stands one line that says what is missing, with the bytes and lines that were `missing` before. The
    texts keep their number and order (some become empty). Cuts are made at line ends where one is near, never inside a
    character. A limit that has no room for the line gets the start alone.
    """
    whole = "".join(texts).encode()
    if len(whole) <= limit:
        return list(texts)
    size, lines = missing
    longest = len(_gap(len(whole) + size, whole.count(b"\n") + lines)) + len(b"s\n\n")
    room = limit - longest
    if room < 0:
        head = _head_end(whole, max(0, limit))
        return _slices(texts, whole, head, len(whole), b"")
    head = _head_end(whole, room * 2 // 3)
    tail = _tail_start(whole, len(whole) - (room - room * 2 // 3))
    gap = _gap(tail - head + size, whole.count(b"\n", head, tail) + lines) + b"\n"
    return _slices(texts, whole, head, tail, gap if head == 0 or whole[head - 1 : head] == b"\n" else b"\n" + gap)


def _gap(missing: int, lines: int) -> bytes:
    return f"… {missing} bytes, {lines} line{'s' * (lines != 1)} left out …".encode()


def _head_end(whole: bytes, end: int) -> int:
    line_end = whole.rfind(b"\n", end // 2, end)
    if line_end >= 0:
        return line_end + 1
    while 0 < end < len(whole) and whole[end] & 0xC0 == 0x80:
        end -= 1
    return end


def _tail_start(whole: bytes, start: int) -> int:
    line_end = whole.find(b"\n", start - 1, (start + len(whole)) // 2)
    if line_end >= 0:
        return line_end + 1
    while start < len(whole) and whole[start] & 0xC0 == 0x80:
        start += 1
    return start


def _slices(texts: Sequence[str], whole: bytes, head: int, tail: int, gap: bytes) -> list[str]:
    """Each text's share of what is left; the gap's line goes where the head ends."""
    slices, start, told = [], 0, False
    for text in texts:
        end = start + len(text.encode())
        kept = whole[start : max(start, min(end, head))]
        if not told and head <= end:
            kept, told = kept + gap, True
        slices.append((kept + whole[max(start, min(tail, end)) : end]).decode())
        start = end
    return slices
