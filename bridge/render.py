"""A cell's result as a model reads it: text and images, within one result's budget.

The one rule: this is the only file that knows both vocabularies, `outputs` and MCP, and no result can break the
protocol: every text encodes to UTF-8, no text or image is larger than the caller allows. What is left out is said.

Drawing an SVG or making an image smaller starts a process (see `pictures`), so call this from a worker thread, not
from an event loop.
"""

from __future__ import annotations

import base64
import codecs
import itertools
import json
import operator
import re
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mcp.types as T  # noqa: N812 - the SDK's own examples name it so

from bridge import charts, outputs, pictures, terminal
from bridge.addresses import FileAddress, OutputAddress
from bridge.kernels.transfers import Page
from bridge.looking.files import Piece

_IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_SVG = "image/svg+xml"
_MAX_IMAGES = 20
"""Images in one result: with more in one request, Claude's API takes smaller images only."""
_MAX_LINKS = 20
"""Links in one result: a cell may show a thousand charts."""
_MAX_SIDE = 8000
"""Pixels: a model's API refuses larger images, and with them the whole conversation from then on."""
_SVG_SECONDS = 8.0
"""All the time that drawing and making smaller may take in one result."""
_SHRUNK = 32 << 10
"""Bytes of room: with less no image is worth being made smaller."""
_HTML_IMAGES = 3
"""Images taken out of one HTML form; an animation holds hundreds."""
_TABLE = 1 << 20
"""Characters of HTML: a larger table is shown as its plain text, which is shorter."""
_TRACEBACK = 16 << 10
"""Bytes: a longer one has a huge message or a thousand frames; its start and its end tell all."""
_PRETTY_JSON = 20_000
"""Characters: indented, deeply nested JSON grows with the square of its depth."""

_NAME = 100
"""Characters of a file's path."""
_AROUND, _AROUND_BYTES = 512, 4 << 10
"""Bytes: what is told with a page of a file, and with bytes of one, whose address is longer."""
_LEAST = 128
"""Bytes of a file in a page, however much is told before it, so that reading on comes to an end."""

_OBEYED = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What moves a cursor, talks to a terminal or reorders the text around it, and is not needed to lay text out."""

_PLAIN = "text/plain"
_BYTES = "application/octet-stream"
_JSON = "application/json"
_WIDGET = "application/vnd.jupyter.widget-view+json"
_RANKED = {"text/markdown", "text/latex", "text/plain", "text/html"}

_PLACEHOLDER = re.compile(r"<[^<>\n]*(?: object| at 0x[0-9a-fA-F]+)\b[^<>\n]*>")
"""`<IPython.core.display.HTML object>`: a text form that says nothing, for objects that have another one."""


_HTML_IMAGE = re.compile(r"""=\s*["']data:(image/(?:png|jpeg|gif|webp));base64,([A-Za-z0-9+/=\s\\]++)["']""")
"""The source of an `<img>`, or a frame of matplotlib's animations, which break their lines with a backslash."""
_UNMARKED = re.compile(r"""^(  (?:File "|Cell In\[)[^\n]*, line \d[^\n]*\n)    (?=\S)""", re.MULTILINE)
"""A frame of which only the failing line is shown, as `%xmode Plain` does, and a SyntaxError."""


@dataclass(frozen=True)
class _LeftOut:
    """What stands for something that a result cannot hold: an image that does not fit, a chart, a widget.

    `place`: that of the whole of it in the cell's output, where it can be read as a resource.
    """

    text: str
    place: int | None = None


@dataclass(frozen=True)
class _Image:
    """A sound image, and what stands for it where it does not fit, or comes after as many as one result may have."""

    data: str
    mime_type: str
    width: int
    height: int
    about: str
    instead: _LeftOut
    surplus: _LeftOut


_Part = str | _Image | _LeftOut
_Block = str | _Image | T.ResourceLink


def to_tool_result(
    result: outputs.Result, *, kernel: str, max_output: int, max_result: int, notices: Sequence[str] = ()
) -> T.CallToolResult:
    """The content of an execution tool's answer about the cell `result`, run in the kernel named `kernel`.

    Order: `notices` (the kernel's state), outputs, notes, and what goes on where the cell did not finish. All text
    together is at most `max_output` bytes of UTF-8 and loses its middle first; text and images (as base64) together
    are at most `max_result` bytes; images that do not fit are made smaller, or become a line of text.
    """
    deadline = time.monotonic() + _SVG_SECONDS
    shown = list(_outputs(result.outputs, deadline))
    if not shown and result.status in {"ok", "error"}:
        is_beyond = result.remaining is not None and result.cursor and not result.outputs
        shown = ["No more output." if is_beyond else "[no output]"]
    closing = list(_closing(result, kernel))
    size = _size([*notices, *shown, *closing])
    missing = (0, 0)
    if size + result.left_out > max_output and result.cursor is not None:
        closing.append(f"get_execution(execution={result.execution}, cursor=0) reads all of it, page by page.")
    if size > max_output:
        missing = (result.left_out, result.lines_left_out)
    elif result.left_out:
        closing.append(f"Left out here are {result.left_out} bytes in the middle of its output.")
    parts = [*map(terminal.shown, notices), *shown, *map(terminal.shown, closing)]

    def link(place: int) -> T.ResourceLink:
        uri = str(OutputAddress(kernel, result.execution, place))
        return T.ResourceLink(name=f"output {place} of execution {result.execution}, in full", uri=uri)

    content = list(_fit(parts, link, max_output, max_result, missing, deadline))
    return T.CallToolResult(content=content, is_error=result.status in {"error", "lost"})


def to_file_result(page: Page, *, max_output: int, max_result: int) -> T.CallToolResult:
    """The content of an answer about a file: its text as it stands, a picture, or its bytes; and how to read on.

    Text with control characters comes as bytes: shown it would be obeyed, cleaned it would not be the file.
    Text is at most `max_output` bytes and ends with a line where one ends there; all together at most `max_result`.
    """
    piece, before = page.piece, [terminal.shown(each) for each in page.notices]
    name = terminal.shown(page.path[:_NAME])
    image = _picture(piece.data, name) if piece.start == 0 and len(piece.data) == piece.size else None
    if image is not None:
        deadline = time.monotonic() + _SVG_SECONDS
        return T.CallToolResult(
            content=list(_fit([*before, image], _no_link, max_output, max_result, (0, 0), deadline))
        )
    room = max(min(max_output, max_result) - _size(before) - _AROUND, _LEAST)
    text, why_not = _page_of_text(piece, room)
    after = []
    content: T.ContentBlock
    if why_not:
        data = piece.data[: (max_result - _size(before) - _AROUND_BYTES) // 4 * 3]
        address = str(FileAddress(page.kernel, page.path[:_NAME]))
        blob = T.BlobResourceContents(uri=address, mime_type=_BYTES, blob=base64.b64encode(data).decode())
        content = T.EmbeddedResource(resource=blob)
        after.append(f"{name} {why_not}; with this come its bytes {piece.start} to {piece.start + len(data)}.")
    else:
        data = text.encode()
        content = T.TextContent(text=text)
    end = piece.start + len(data)
    if not data:
        after.append(f"[{name} is empty]" if not piece.size else f"No more: {name} has {piece.size} bytes.")
    elif end < piece.size:
        after.append(f"{piece.size - end} of {piece.size} bytes are left: get_file with offset={end} reads on.")
    blocks = [T.TextContent(text="\n".join(each)) if each else None for each in (before, after)]
    return T.CallToolResult(content=[each for each in (blocks[0], content if data else None, blocks[1]) if each])


def _page_of_text(piece: Piece, room: int) -> tuple[str, str]:
    """As much of a piece as there is room for, as text, and why it is not shown as such where it is not."""
    data = piece.data[:room]
    is_end = piece.start + len(data) >= piece.size
    if not is_end and (line := data.rfind(b"\n", room // 2) + 1):
        data = data[:line]
    try:
        # a character that is cut at the end of the room belongs to the next page
        text = codecs.getincrementaldecoder("utf-8")().decode(data, is_end)
    except UnicodeDecodeError:
        text = None
    if text is None or "\0" in text:
        return "", "is no UTF-8 text"
    if obeyed := _OBEYED.search(text):
        first = f"U+{ord(obeyed[0]):04X}"
        return "", f"holds control characters ({first} first), so it is not shown as text"
    return text, ""


def _picture(data: bytes, name: str) -> _Image | None:
    try:
        mime_type, _, _ = pictures.measure(data)
    except (ValueError, struct.error, IndexError):
        return None
    whole = f"{name} as it is: the user's `kernel-bridge get`"
    image = _image(mime_type, base64.b64encode(data).decode(), whole, None, 0.0)
    return image if isinstance(image, _Image) else None


def _no_link(place: int) -> T.ResourceLink:
    raise AssertionError(place)  # a file has no place in an output


def _closing(result: outputs.Result, kernel: str) -> Iterator[str]:
    yield from result.notes
    if result.ended_kernel:
        yield f"The cell called exit, which ended kernel {kernel} for everyone who uses it: its variables are gone."
    place = "" if result.cursor is None else f", cursor={result.cursor}"
    read_on = f"get_execution(execution={result.execution}{place}) reads on."
    if result.remaining:
        yield f"More output is kept, {result.remaining} bytes: {read_on}"
    match result.status:
        case "running":
            yield f"Still running: execution {result.execution} in kernel {kernel}. {read_on}"
        case "asking":
            prompt = result.question.prompt.strip() if result.question else ""
            yield (
                f"Waiting for input: `{prompt}`, asked by execution {result.execution}. Kernel {kernel} stands still "
                f"until send_input(text=…, execution={result.execution}) answers; ask the user what is theirs to say."
            )
        case "queued":
            yield (f"Sent as execution {result.execution}, but not begun yet; it cannot be withdrawn. {read_on}")
        case "aborted":
            yield (
                f"Aborted: execution {result.execution} was not run, because another client's failing cell cleared the "
                f"queue of kernel {kernel}. Send the code again if it is still wanted."
            )
        case "lost":
            yield (
                f"Lost: kernel {kernel} or the connection to it ended before execution {result.execution} did. "
                "How much of the code ran is not known. kernel_status tells what is left."
            )


def _size(parts: Sequence[_Part]) -> int:
    """Bytes of the parts as text."""
    return sum(len(_words(part).encode("utf-8", "replace")) + 1 for part in parts)


def _fit(
    parts: Sequence[_Part],
    link: Callable[[int], T.ResourceLink],
    max_output: int,
    max_result: int,
    missing: tuple[int, int],
    deadline: float,
) -> Iterator[T.ContentBlock]:
    """The parts as content within both budgets; neighbouring texts become one block.

    A link stands behind the words for what it leads to: not every client shows links.
    """
    max_output = min(max_output, max_result)
    room, free, links = max_result - min(max_output, _size(parts)), _MAX_IMAGES, _MAX_LINKS
    fitting: list[_Block] = []
    for each in parts:
        part = each.surplus if isinstance(each, _Image) and not free else each
        image = _fitting(part, room, deadline) if isinstance(part, _Image) else None
        if image is not part:
            fitting.append(f"[{image.about}]" if image else _words(part))
        if image is not None:
            fitting.append(image)
            room, free = room - len(image.data), free - 1
        place = _instead(part).place if image is not part else None
        if place is not None and links and room >= (size := len(link(place).model_dump_json())):
            fitting.append(link(place))
            room, links = room - size, links - 1
    blocks: list[_Block] = []
    for is_text, group in itertools.groupby(fitting, lambda part: isinstance(part, str)):
        several = list(group)
        blocks.extend(["\n".join(map(str, several))] if is_text else several)
    # Where no text stands, it is empty, unless the line that tells of the cut falls there.
    texts = terminal.cut([block if isinstance(block, str) else "" for block in blocks], max_output, missing)
    for block, text in zip(blocks, texts, strict=True):
        if isinstance(block, _Image):
            yield T.ImageContent(data=block.data, mime_type=block.mime_type)
        elif isinstance(block, T.ResourceLink):
            yield block
        if text:
            yield T.TextContent(text=text)


def _words(part: _Part) -> str:
    return _instead(part).text


def _instead(part: _Part) -> _LeftOut:
    """What stands for a part where it does not fit; a text stands for itself."""
    return part.instead if isinstance(part, _Image) else part if isinstance(part, _LeftOut) else _LeftOut(part)


def _fitting(image: _Image, room: int, deadline: float) -> _Image | None:
    """The image itself, or one made smaller in half of the room, so that the next ones have some too."""
    if len(image.data) <= room and max(image.width, image.height) <= _MAX_SIDE:
        return image
    if room < _SHRUNK:
        return None
    try:
        raw = pictures.shrink(base64.b64decode(image.data), room // 2 // 4 * 3, deadline)
        mime_type, width, height = pictures.measure(raw)
    except (ValueError, struct.error, IndexError):
        return None
    about = f"{image.about}: scaled to {width}x{height}"
    return _Image(base64.b64encode(raw).decode(), mime_type, width, height, about, image.instead, image.surplus)


def _outputs(found: Sequence[outputs.Output], deadline: float) -> Iterator[_Part]:
    """Each output's form; a line in brackets names what comes next wherever stderr begins or ends."""
    last = ""
    written = (output for output in found if not (isinstance(output, outputs.Stream) and not output.text))
    for name, group in itertools.groupby(written, _source):
        parts = list(_forms(list(group), deadline))
        if not parts:
            continue
        if name != last and (name == "stderr" or (last == "stderr" and name != "error")):
            yield f"[{name}]"
        last = name
        yield from parts


def _source(output: outputs.Output) -> str:
    match output:
        case outputs.Stream(name=name):
            return name
        case outputs.ExecuteResult():
            return "result"
        case outputs.DisplayData():
            return "display"
        case outputs.Error():
            return "error"


def _forms(group: Sequence[outputs.Output], deadline: float) -> Iterator[_Part]:
    # A terminal sees a stream as one text: an escape sequence or a line may be spread over many messages.
    written = terminal.shown("".join(output.text for output in group if isinstance(output, outputs.Stream)))
    if written.strip():
        yield written.rstrip("\n")
    for output in group:
        if isinstance(output, outputs.Error):
            yield _error(output)
        elif not isinstance(output, outputs.Stream):
            if isinstance(output, outputs.DisplayData) and output.elsewhere:
                yield "[what an earlier cell displayed was changed, it shows now:]"
            yield from _bundle(output.data, output.place, deadline)
            dropped = ", ".join(form for form in output.dropped if not form.startswith("text/"))
            if dropped:
                yield _LeftOut(terminal.shown(f"[{dropped}: too large for one result]"), output.place)


def _error(error: outputs.Error) -> str:
    text = "\n".join(_frames(error.traceback)) or ": ".join(filter(None, (error.ename, error.evalue)))
    (text,) = terminal.cut([terminal.shown(text)], _TRACEBACK)
    return _UNMARKED.sub(r"\1--> ", text)


def _frames(traceback: Sequence[str]) -> Iterator[str]:
    """A traceback without the frames that stand in it already, where a recursion made many of them."""
    first = {frame: number for number, frame in reversed([*enumerate(traceback)])}
    known = [("\n" in frame and first[frame] < number, frame) for number, frame in enumerate(traceback)]
    for is_known, group in itertools.groupby(known, operator.itemgetter(0)):
        frames = [frame for _, frame in group]
        yield from [f"[… {len(frames)} frames like those above …]\n"] if is_known and len(frames) > 3 else frames


def _bundle(data: Mapping[str, Any], place: int | None, deadline: float) -> Iterator[_Part]:
    """The best form for a model of one object: an image, else what a chart holds, else the most readable text."""
    text = terminal.shown(_readable(data))
    for mime_type in (*_IMAGES, _SVG):
        if mime_type in data:
            image = _image(mime_type, _string(data[mime_type]), text, place, deadline)
            yield image if isinstance(image, _Image) else terminal.shown(image)
            if isinstance(image, _Image):
                return
    chart = charts.told(data)
    if chart:
        yield _LeftOut(terminal.shown(chart), place)
        return
    unshown = [name for name in data if not name.startswith("text/") and name not in {*_IMAGES, _SVG, _JSON}]
    if _WIDGET in data:
        yield _LeftOut("[a widget, alive only in a notebook; when it was displayed it was:]")
    elif unshown:
        yield _LeftOut(terminal.shown(f"[{', '.join(unshown)}: can only be shown in a notebook]"), place)
    if text:
        yield text
    for found in itertools.islice(_HTML_IMAGE.finditer(_string(data.get("text/html"))), _HTML_IMAGES):
        image = _image(found[1], found[2].replace("\\", ""), "", None, deadline)
        yield image if isinstance(image, _Image) else terminal.shown(image)


def whole(output: outputs.Output) -> tuple[str | bytes, str]:
    """One output in full, as a resource: its content and true MIME type; of several forms what is lost in a result."""
    if isinstance(output, outputs.Stream):
        return terminal.shown(output.text), _PLAIN
    if isinstance(output, outputs.Error):
        return _error(output), _PLAIN
    data = output.data
    for mime_type in filter(data.__contains__, _IMAGES):
        try:
            raw = base64.b64decode("".join(_string(data[mime_type]).split()), validate=True)
            return raw, pictures.measure(raw)[0]
        except (ValueError, struct.error, IndexError):
            continue
    form = next((each for each in data if each not in _IMAGES and not each.startswith("text/")), None)
    if form is not None:
        content = data[form]
        return content if isinstance(content, str) else _pretty(content), form
    return terminal.shown(_readable(data)), _PLAIN


def _readable(data: Mapping[str, Any]) -> str:
    return next(filter(None, _forms_of_text(data)), "")


def _forms_of_text(data: Mapping[str, Any]) -> Iterator[str]:
    """The text forms of one object, best first; some may be empty."""
    plain, latex, source = (_string(data.get(name)) for name in ("text/plain", "text/latex", "text/html"))
    yield _string(data.get("text/markdown"))
    # A formula; other LaTeX, of tables or of code with colours, is harder to read than the plain text.
    yield latex if latex.startswith("$") else ""
    yield _table(source, plain) if "<table" in source and len(source) <= _TABLE else ""
    if not _PLACEHOLDER.fullmatch(plain.strip()):
        yield plain
    if _JSON in data:
        yield _pretty(data[_JSON])
    yield terminal.read_html(source)
    yield latex
    yield from (_string(data[name]) for name in data if name.startswith("text/") and name not in _RANKED)
    # Better than nothing, but not than the line that tells of a form that is not shown.
    yield "" if any(not name.startswith("text/") for name in data) else plain


def _table(source: str, plain: str) -> str:
    """An HTML table as Markdown where the plain text is worse; empty where it is not, or the HTML is more than a table.

    pandas breaks a wide table into blocks of columns, with a backslash in the first line; others draw lines around
    cells, or leave out columns that are in the HTML.
    """
    lines = terminal.read_html(source).split("\n")
    rows = sum(line.startswith("| ") for line in lines)
    markdown = "\n".join(lines) if len(lines) - rows <= 2 < rows else ""
    broken = plain.partition("\n")[0].rstrip().endswith("\\")
    return markdown if broken or len(markdown.encode()) < len(terminal.shown(plain).encode()) else ""


def _string(content: object) -> str:
    """A form's content; notebook files split theirs into lines."""
    try:
        if isinstance(content, list):
            return "".join(map(str, content))
        return "" if content is None else str(content)
    except RecursionError:
        return "[nested too deeply to be shown]"


def _pretty(content: object) -> str:
    try:
        text = json.dumps(content, ensure_ascii=False, default=str)
        return text if len(text) > _PRETTY_JSON else json.dumps(content, ensure_ascii=False, default=str, indent=1)
    except (RecursionError, ValueError):
        return f"[{_JSON}: nested too deeply to be shown]"


def _image(mime_type: str, content: str, text: str, place: int | None, deadline: float) -> _Image | str:
    """The image, checked; or a line that says why there is none. `text` is the object's text form."""
    try:
        if mime_type == _SVG:
            raw = pictures.draw(content, deadline)
        else:
            raw = base64.b64decode("".join(content.split()), validate=True)
        # The declared type is not trusted: an API refuses an image that is not what it is said to be.
        mime_type, width, height = pictures.measure(raw)
    except (ValueError, struct.error, IndexError) as problem:
        return f"[{mime_type}, {len(content)} bytes as text: cannot be shown: {problem}]"
    about = f"{mime_type}, {width}x{height} pixels, {len(raw)} bytes"
    instead, surplus = (
        _LeftOut("\n".join(filter(None, (f"[{about}: left out, {why}]", text))), place)
        for why in (
            "it is too large for one result; make it smaller or save it to a file",
            f"{_MAX_IMAGES} images are the most in one result",  # shorter: room was made for the other
        )
    )
    return _Image(base64.b64encode(raw).decode(), mime_type, width, height, about, instead, surplus)
