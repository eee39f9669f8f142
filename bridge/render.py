"""A cell's result as a model reads it: text and images, within one result's budget.

The one rule: this is the only file that knows both vocabularies, `outputs` and MCP, and no result can break the
protocol: every text encodes to UTF-8, no text or image is larger than the caller allows. What is left out is said.

Drawing an SVG starts a process (see `pictures.draw`), so call this from a worker thread, not from an event loop.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mcp.types as T  # noqa: N812

from bridge import outputs, pictures, terminal

_IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_SVG = "image/svg+xml"
_MAX_IMAGES = 20
"""Images in one result: with more in one request, Claude's API takes smaller images only."""
_MAX_SIDE = 8000
"""Pixels: a model's API refuses larger images, and with them the whole conversation from then on."""
_SVG_SECONDS = 8.0
"""All the time that drawing may take in one result."""
_PRETTY_JSON = 20_000
"""Characters: indented, deeply nested JSON grows with the square of its depth."""

_JSON = "application/json"
_RANKED = {"text/markdown", "text/latex", "text/plain", "text/html"}

_PLACEHOLDER = re.compile(r"<[^<>\n]*(?: object| at 0x[0-9a-fA-F]+)\b[^<>\n]*>")
"""`<IPython.core.display.HTML object>`: a text form that says nothing, for objects that have another one."""


@dataclass(frozen=True)
class _Image:
    """A sound image, and the text that stands for it where it does not fit."""

    data: str
    mime_type: str
    instead: str


_Part = str | _Image


def to_tool_result(
    result: outputs.Result, *, kernel: str, max_output: int, max_result: int, notices: Sequence[str] = ()
) -> T.CallToolResult:
    """The content of an execution tool's answer about the cell `result`, run in the kernel named `kernel`.

    Order: `notices` (the kernel's state), outputs, notes, and what goes on where the cell did not finish. All text
    together is at most `max_output` bytes of UTF-8 and loses its middle first; text and images (as base64) together
    are at most `max_result` bytes, and images that do not fit become a line of text.
    """
    shown = list(_outputs(result.outputs, time.monotonic() + _SVG_SECONDS))
    if not shown and result.status in {"ok", "error"}:
        shown = ["[no output]"]
    parts = [*map(terminal.shown, notices), *shown, *map(terminal.shown, _closing(result, kernel))]
    content = list(_fit(parts, max_output, max_result))
    return T.CallToolResult(content=content, is_error=result.status in {"error", "lost"})


def _closing(result: outputs.Result, kernel: str) -> Iterator[str]:
    yield from result.notes
    if result.left_out:
        yield f"The cell printed more than is kept: {result.left_out} bytes in the middle of its output are lost."
    if result.ended_kernel:
        yield f"The cell called exit, which ended kernel {kernel} for everyone who uses it: its variables are gone."
    read_on = f"get_execution(execution={result.execution}) reads on."
    match result.status:
        case "running":
            yield f"Still running: execution {result.execution} in kernel {kernel}. {read_on}"
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


def _fit(parts: Sequence[_Part], max_output: int, max_result: int) -> Iterator[T.ContentBlock]:
    """The parts as content within both budgets; neighbouring texts become one block."""
    wanted = sum(len((part if isinstance(part, str) else part.instead).encode()) + 1 for part in parts)
    max_output = min(max_output, max_result)
    room, free = max_result - min(max_output, wanted), _MAX_IMAGES
    fitting: list[_Part] = []
    for part in parts:
        if isinstance(part, _Image) and free and len(part.data) <= room:
            fitting.append(part)
            room, free = room - len(part.data), free - 1
        else:
            fitting.append(part if isinstance(part, str) else part.instead)
    blocks: list[_Part] = []
    for is_image, group in itertools.groupby(fitting, lambda part: isinstance(part, _Image)):
        several = list(group)
        blocks.extend(several if is_image else ["\n".join(map(str, several))])
    # Where an image stands, the text is empty, unless the line that tells of the cut falls there.
    texts = terminal.cut(["" if isinstance(block, _Image) else block for block in blocks], max_output)
    for block, text in zip(blocks, texts, strict=True):
        if isinstance(block, _Image):
            yield T.ImageContent(data=block.data, mime_type=block.mime_type)
        if text:
            yield T.TextContent(text=text)


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
            text = "\n".join(output.traceback) or ": ".join(filter(None, (output.ename, output.evalue)))
            yield terminal.shown(text)
        elif not isinstance(output, outputs.Stream):
            yield from _bundle(output.data, deadline)


def _bundle(data: Mapping[str, Any], deadline: float) -> Iterator[_Part]:
    """The best form for a model of one object: an image, else the most readable text."""
    text = terminal.shown(_text(data))
    for mime_type in (*_IMAGES, _SVG):
        if mime_type in data:
            image = _image(mime_type, _string(data[mime_type]), text, deadline)
            yield image if isinstance(image, _Image) else terminal.shown(image)
            if isinstance(image, _Image):
                return
    if text:
        yield text


def _text(data: Mapping[str, Any]) -> str:
    """The most readable text form, after a line for the forms that only a notebook can show; may be empty."""
    unshown = [name for name in data if not name.startswith("text/") and name not in {*_IMAGES, _SVG, _JSON}]
    line = f"[{', '.join(unshown)}: can only be shown in a notebook]" if unshown else ""
    return "\n".join(filter(None, (line, next(filter(None, _readable(data)), ""))))


def _readable(data: Mapping[str, Any]) -> Iterator[str]:
    """The text forms of one object, best first; some may be empty."""
    plain = _string(data.get("text/plain"))
    yield _string(data.get("text/markdown"))
    yield _string(data.get("text/latex"))
    if not _PLACEHOLDER.fullmatch(plain.strip()):
        yield plain
    if _JSON in data:
        yield _pretty(data[_JSON])
    yield terminal.read_html(_string(data.get("text/html")))
    yield from (_string(data[name]) for name in data if name.startswith("text/") and name not in _RANKED)
    # Better than nothing, but not than the line that tells why an image is missing.
    yield "" if any(name.startswith("image/") for name in data) else plain


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


def _image(mime_type: str, content: str, text: str, deadline: float) -> _Image | str:
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
    if max(width, height) > _MAX_SIDE:
        return f"[{about}: left out, a side is longer than {_MAX_SIDE} pixels]"
    instead = f"[{about}: left out, it does not fit into one result; make it smaller or save it to a file]"
    return _Image(base64.b64encode(raw).decode(), mime_type, "\n".join(filter(None, (instead, text))))
