"""A cell's result as text and images for a model."""

from __future__ import annotations

import base64
import io
import random
import re
import struct
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mcp.types as T  # noqa: N812
import pytest
from PIL import Image

from bridge import pictures, render
from bridge.outputs import DisplayData, Error, ExecuteResult, Output, Question, Result, Status, Stream

FIGURE = "<Figure size 640x480 with 1 Axes>"
OBJECT = "<IPython.core.display.HTML object>"


def png(width: int = 4, height: int = 3, *, noise: int = 0) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress((b"\0" + b"\xff\0\0" * width) * height)
    extra = chunk(b"teXt", random.Random(4).randbytes(noise)) if noise else b""  # noqa: S311
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    application = b"\xff\xe0\x00\x10JFIF\0\1\1\0\0\1\0\1\0\0"
    frame = b"\xff\xc0\x00\x11\x08" + struct.pack(">HH", height, width) + b"\3\1\x22\0\2\x11\1\3\x11\1"
    return b"\xff\xd8" + application + frame + b"\xff\xd9"


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def render_all(
    *found: Output,
    status: Status = "ok",
    max_output: int = 48 << 10,
    max_result: int = 900 << 10,
    notices: Sequence[str] = (),
    **more: Any,
) -> T.CallToolResult:
    return render.to_tool_result(
        Result(17, status, tuple(found), **more),
        kernel="alpha",
        max_output=max_output,
        max_result=max_result,
        notices=notices,
    )


def content(result: T.CallToolResult) -> list[str]:
    """Texts as they are, images as their type."""
    found = []
    for block in result.content:
        assert isinstance(block, T.TextContent | T.ImageContent)
        found.append(block.text if isinstance(block, T.TextContent) else block.mime_type)
    return found


def text(result: T.CallToolResult) -> str:
    (only,) = content(result)
    return only


def shown(data: Mapping[str, Any]) -> str:
    return text(render_all(ExecuteResult(data)))


def image_bytes(result: T.CallToolResult) -> bytes:
    (only,) = result.content
    assert isinstance(only, T.ImageContent), only
    return base64.b64decode(only.data)


# --- streams ---------------------------------------------------------------------------------------------------------


def test_texts_of_one_stream_are_one_text_even_where_a_sequence_is_split() -> None:
    assert text(render_all(Stream("stdout", "a\x1b[3"), Stream("stdout", "1mb\n"), Stream("stdout", "c"))) == "ab\nc"


def test_a_progress_over_many_messages_shows_its_last_state() -> None:
    bars = [Stream("stderr", f"\r{percent:3}%|{'#' * percent}") for percent in range(101)]
    assert text(render_all(*bars)) == "[stderr]\n100%|" + "#" * 100


def test_stderr_is_marked_where_it_begins_and_where_it_ends() -> None:
    result = render_all(
        Stream("stdout", "one\n"),
        Stream("stderr", "warning\n"),
        Stream("stdout", ""),
        Stream("stderr", "again\n"),
        Stream("stdout", "two\n"),
        Stream("stderr", "last"),
        ExecuteResult({"text/plain": "42"}),
    )
    assert text(result) == "one\n[stderr]\nwarning\nagain\n[stdout]\ntwo\n[stderr]\nlast\n[result]\n42"


def test_output_without_stderr_has_no_marks() -> None:
    assert text(render_all(Stream("stdout", "one\n"), ExecuteResult({"text/plain": "42"}))) == "one\n42"


@pytest.mark.parametrize("found", [(), (Stream("stdout", ""),), (Stream("stdout", "\n"),), (DisplayData({}),)])
def test_a_finished_cell_without_output_says_so(found: tuple[Output, ...]) -> None:
    assert text(render_all(*found)) == "[no output]"


def test_a_page_beyond_the_end_says_so_and_not_that_there_was_no_output() -> None:
    assert text(render_all(cursor=7, remaining=0)) == "No more output."
    assert text(render_all(cursor=0, remaining=0)) == "[no output]"
    assert text(render_all(cursor=7)) == "[no output]"


# --- state -----------------------------------------------------------------------------------------------------------


def test_notices_come_first_and_notes_and_status_last() -> None:
    result = render_all(
        Stream("stdout", "out\n"), status="running", notices=["The variables are gone."], notes=("A note.",), left_out=9
    )
    assert text(result).split("\n") == [
        "The variables are gone.",
        "out",
        "A note.",
        "Still running: execution 17 in kernel alpha. get_execution(execution=17) reads on.",
        "Left out here are 9 bytes in the middle of its output.",
    ]


@pytest.mark.parametrize(
    ("status", "begin"),
    [
        ("ok", "[no output]"),
        ("error", "[no output]"),
        ("running", "Still running: execution 17 in kernel alpha. get_execution(execution=17) reads on."),
        ("asking", "Waiting for input: ``, asked by execution 17."),
        ("queued", "Sent as execution 17, but not begun yet; it cannot be withdrawn."),
        ("aborted", "Aborted: execution 17 was not run"),
        ("lost", "Lost: kernel alpha"),
    ],
)
def test_each_status_says_what_happened_and_only_error_and_lost_are_errors(status: Status, begin: str) -> None:
    result = render_all(status=status)
    assert text(result).startswith(begin)
    assert result.is_error is (status in {"error", "lost"})
    assert result.structured_content is None


def test_a_question_is_told_as_a_person_would_see_it_with_how_to_answer() -> None:
    told = text(render_all(status="asking", question=Question("q", "\x1b[1mName\ud800: ")))
    assert told.startswith("Waiting for input: `Name\ufffd:`, asked by execution 17. Kernel alpha stands still")
    assert "send_input(text=…, execution=17)" in told


def test_a_cell_that_ended_its_kernel_says_so() -> None:
    assert "exit, which ended kernel alpha" in text(render_all(ended_kernel=True))


# --- errors ----------------------------------------------------------------------------------------------------------


def test_a_traceback_is_shown_without_colours_after_the_output_before_it() -> None:
    error = Error("ValueError", "bad", ("\x1b[31m-----\x1b[0m", "Traceback", "\x1b[31mValueError\x1b[39m: bad"))
    result = render_all(Stream("stdout", "before\n"), error, status="error")
    assert text(result) == "before\n-----\nTraceback\nValueError: bad"
    assert result.is_error


def test_an_error_without_traceback_is_its_name_and_value() -> None:
    assert text(render_all(Error("KeyError", "'x'"), status="error")) == "KeyError: 'x'"
    assert text(render_all(Error("KeyboardInterrupt", ""), status="error")) == "KeyboardInterrupt"


def test_the_end_of_a_traceback_survives_the_cut() -> None:
    found = (Stream("stdout", "noise\n" * 50_000), Error("ValueError", "bad", ("Traceback", "ValueError: bad")))
    result = text(render_all(*found, status="error", max_output=2000, notices=["First."]))
    assert len(result.encode()) <= 2000
    assert result.startswith("First.\nnoise\n")
    assert result.endswith("noise\nTraceback\nValueError: bad")
    assert re.search(r"\n… \d+ bytes, \d+ lines left out …\n", result)


def test_the_frames_of_a_recursion_are_shown_once_and_counted() -> None:
    calls = ["Cell In[1], line 1, in a(n)\n----> 1 return b(n)\n", "Cell In[1], line 2, in b(n)\n----> 2 return a(n)\n"]
    error = Error("RecursionError", "deep", ("Traceback", *calls * 500, "RecursionError: deep"))
    told = text(render_all(error, status="error"))
    assert told == f"Traceback\n{calls[0]}\n{calls[1]}\n[… 998 frames like those above …]\n\nRecursionError: deep"


def test_a_frame_that_stands_in_both_of_two_chained_tracebacks_is_shown_in_both() -> None:
    call = "Cell In[1], line 1\n----> 1 f()\n"
    error = Error("E", "", ("A: x", call, "\nThe above exception was the direct cause:\n", call, "E"))
    assert text(render_all(error, status="error")).count("----> 1 f()") == 2


def test_the_failing_line_is_marked_where_the_kernel_marks_none() -> None:
    frames = (
        "  Cell \x1b[92mIn[7]\x1b[39m, line 3\n    f(0)\n",
        '  File "/a b.py", line 2 in f\n    return 1/x\n',
        "E: bad\n",
    )
    assert text(render_all(Error("E", "bad", ("Traceback:\n", *frames)), status="error")) == (
        'Traceback:\n\n  Cell In[7], line 3\n--> f(0)\n\n  File "/a b.py", line 2 in f\n--> return 1/x\n\nE: bad\n'
    )


def test_the_caret_of_a_syntax_error_stays_below_its_place() -> None:
    lines = "  Cell In[1], line 1\n    def g(:\n          ^\nSyntaxError: invalid syntax\n"
    told = text(render_all(Error("SyntaxError", "", (lines,)), status="error")).split("\n")
    assert told[1:3] == ["--> def g(:", "          ^"]
    assert told[1].index(":") == told[2].index("^")


def test_a_traceback_with_a_huge_message_leaves_room_for_the_output_before_it() -> None:
    error = Error("ValueError", "", ("Traceback", "ValueError: " + "x" * 10_000_000, "the end"))
    told = text(render_all(Stream("stdout", "printed\n" * 1000), error, status="error"))
    assert told.count("printed") == 1000
    assert "ValueError: xxx" in told
    assert told.endswith("xxx\nthe end")


# --- rich output -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"text/plain": "   a\n0  1", "text/html": "<table><tr><td>1</td></tr></table>"}, "   a\n0  1"),
        ({"text/plain": OBJECT, "text/html": "<b>bold</b> text"}, "bold text"),
        ({"text/plain": "<pandas.io.formats.style.Styler at 0x7f00aa>", "text/html": "<p>styled"}, "styled"),
        ({"text/plain": OBJECT, "text/html": "<script>x</script>"}, OBJECT),
        ({"text/html": "<p>alone"}, "alone"),
        ({"text/plain": "x**2", "text/latex": "$x^2$"}, "$x^2$"),
        ({"text/plain": "m", "text/markdown": "# m", "text/latex": "$l$"}, "# m"),
        ({"text/plain": "x = 1", "text/latex": "\\begin{Verbatim}\n\\PY{n}{x}"}, "x = 1"),
        ({"text/plain": "<IPython.core.display.Latex object>", "text/latex": "\\begin{equation}"}, "\\begin{equation}"),
        (
            {"text/plain": "<IFrame at 0x7f>", "text/html": "<iframe src='https://x.org'></iframe>"},
            "[frame: https://x.org]",
        ),
        ({"text/plain": ["two ", "lines"]}, "two lines"),
        (
            {"text/plain": "<IPython.core.display.JSON object>", "application/json": {"é": [1]}},
            '{\n "é": [\n  1\n ]\n}',
        ),
        ({"text/csv": "a,b"}, "a,b"),
        ({"text/plain": FIGURE}, FIGURE),
        ({"text/plain": None}, "[no output]"),
        ({"application/pdf": "JVBERi0="}, "[application/pdf: can only be shown in a notebook]"),
        (
            {"application/vnd.plotly.v1+json": {"data": []}, "text/html": "<div><script>x</script></div>"},
            "[plotly chart: drawn only in a notebook]",
        ),
        (
            {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "IntSlider(value=3)"},
            "[a widget, alive only in a notebook; when it was displayed it was:]\nIntSlider(value=3)",
        ),
    ],
)
def test_the_most_readable_text_form_is_shown(data: dict[str, Any], expected: str) -> None:
    assert shown(data) == expected


def test_what_is_changed_in_an_earlier_cells_output_is_told_as_that() -> None:
    result = render_all(Stream("stdout", "a\n"), DisplayData({"text/plain": "new"}, elsewhere=True))
    assert text(result) == "a\n[what an earlier cell displayed was changed, it shows now:]\nnew"


def test_the_first_images_in_html_are_shown_as_images() -> None:
    image = f'<img alt="" src="data:image/png;base64,{b64(png())}">'
    animation = f"<script>frames[0] = 'data:image/png;base64,{base64.encodebytes(png()).decode()}'</script>"
    logo = f"<style>a {{background: url(data:image/png;base64,{b64(png())})}}</style>"
    broken = animation.replace("\n", "\\\n")
    assert content(render_all(DisplayData({"text/html": image * 5 + "<p>end"}))) == [
        "[image] [image] [image] [image] [image]\nend",
        *["image/png"] * 3,
    ]
    assert content(render_all(DisplayData({"text/plain": OBJECT, "text/html": broken + logo}))) == [OBJECT, "image/png"]


def test_deep_json_is_neither_an_error_nor_blown_up() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert shown({"application/json": deep}) == "[application/json: nested too deeply to be shown]"
    wide: list[Any] = [1] * 20_000
    for _ in range(100):
        wide = [wide]
    assert len(text(render_all(ExecuteResult({"application/json": wide}), max_output=10**6))) < 70_000


# --- tables ----------------------------------------------------------------------------------------------------------


def table(*rows: str) -> str:
    """The HTML of a data frame as pandas writes it."""
    cells = ["".join(f"<td>{cell}</td>" for cell in row.split()) for row in rows]
    style = "<style scoped>\n.dataframe th {}\n</style>"
    body = "</tr>\n<tr>".join(cells)
    return f'<div>\n{style}\n<table border="1" class="dataframe">\n<tr>{body}</tr>\n</table>\n</div>'


def test_a_table_that_is_not_broken_is_shown_as_plain_text() -> None:
    plain = "   a  b\n0  1  x\n1  2  y"
    assert shown({"text/plain": plain, "text/html": table("- a b", "0 1 x", "1 2 y")}) == plain


def test_a_table_whose_plain_text_is_broken_into_blocks_is_shown_as_markdown() -> None:
    plain = "   a  b  \\\n0  1  x   \n1  2  y   \n\n   c\n0  3\n1  4"
    source = table("- a b c", "0 1 x 3", "1 2 y 4") + "<p>2 rows, 3 columns</p>"
    assert shown({"text/plain": plain, "text/html": source}).split("\n") == [
        "| - | a | b | c |",
        "| --- | --- | --- | --- |",
        "| 0 | 1 | x | 3 |",
        "| 1 | 2 | y | 4 |",
        "2 rows, 3 columns",
    ]


def test_a_table_with_lines_around_its_cells_is_shown_as_markdown() -> None:
    lines = "shape: (1, 2)\n┌─────┬─────┐\n│ a   ┆ b   │\n╞═════╪═════╡\n│ 1   ┆ x   │\n└─────┴─────┘"
    source = "<div><small>shape: (1, 2)</small><table><thead><tr><th>a<th>b</thead><tr><td>1<td>x</table></div>"
    assert shown({"text/plain": lines, "text/html": source}).split("\n")[1:] == [
        "| a | b |",
        "| --- | --- |",
        "| 1 | x |",
    ]


def test_html_that_is_more_than_a_table_does_not_take_the_place_of_the_plain_text() -> None:
    source = "<ul><li>Dimensions<li>Coordinates<li>Data</ul><table><tr><td>1<tr><td>2<tr><td>3</table>"
    plain = "<xarray.Dataset> Size: 64B\nDimensions:  (x: 2, y: 3)\n" + "long " * 100
    assert shown({"text/plain": plain, "text/html": source}) == plain


# --- images ----------------------------------------------------------------------------------------------------------


def test_an_image_stands_between_the_texts_before_and_after_it_without_its_text_form() -> None:
    figure = DisplayData({"image/png": b64(png()), "text/plain": FIGURE})
    assert content(render_all(Stream("stdout", "a\n"), figure, figure, Stream("stdout", "b\n"))) == [
        "a",
        "image/png",
        "image/png",
        "b",
    ]


def test_base64_with_line_breaks_is_accepted_and_sent_without() -> None:
    result = render_all(DisplayData({"image/png": base64.encodebytes(png(40, 40, noise=500)).decode()}))
    (only,) = result.content
    assert isinstance(only, T.ImageContent)
    assert only.data == b64(png(40, 40, noise=500))


FORMATS = {
    png(30, 20): "image/png",
    jpeg(30, 20): "image/jpeg",
    b"GIF89a" + struct.pack("<HH", 30, 20) + b"\0\0\0;": "image/gif",
    b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\x1d\0\0\x13\0\0": "image/webp",
    b"RIFF\0\0\0\0WEBPVP8L\x0a\0\0\0\x2f" + struct.pack("<I", 29 | 19 << 14): "image/webp",
    b"RIFF\0\0\0\0WEBPVP8 \x0a\0\0\0\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 30, 20): "image/webp",
}


@pytest.mark.parametrize(("raw", "mime_type"), FORMATS.items())
def test_an_image_is_sent_as_what_it_is_not_as_what_it_is_called(raw: bytes, mime_type: str) -> None:
    for declared in ("image/png", "image/jpeg", "image/gif", "image/webp"):
        assert content(render_all(DisplayData({declared: b64(raw)}))) == [mime_type]


@pytest.mark.parametrize("raw", FORMATS)
def test_every_format_tells_its_size(raw: bytes) -> None:
    found = content(render_all(*[DisplayData({"image/png": b64(raw)})] * 21))
    assert ", 30x20 pixels, " in found[20]


@pytest.mark.parametrize(
    "broken",
    [
        *("not base64!", "QUJ", "", "é", "\ud800"),
        *map(b64, (b"ABC", png()[:20], png(0, 5), jpeg(3, 3)[:9], b"\xff\xd8\xff\xe0\0\0", b"GIF89a")),
        b64(b"\xff\xd8\xff\xe0\0\2" + jpeg(3, 3)[20:].replace(b"\xff", b"x")),
        *map(b64, (b"RIFF\0\0\0\0WEBPVP8X", b"RIFF\0\0\0\0WEBPxxxx")),
    ],
)
def test_a_broken_image_is_a_line_and_its_text_form(broken: str) -> None:
    result = text(render_all(DisplayData({"image/png": broken, "text/plain": FIGURE})))
    assert result.startswith(f"[image/png, {len(broken)} bytes as text: cannot be shown: ")
    assert result.endswith("]\n" + FIGURE)


def test_a_broken_image_gives_way_to_a_sound_one_of_another_type() -> None:
    told, image = content(render_all(DisplayData({"image/png": "!", "image/jpeg": b64(jpeg(3, 3)), "text/plain": "x"})))
    assert told.startswith("[image/png, 1 bytes as text: cannot be shown: ")
    assert image == "image/jpeg"


def test_an_image_that_does_not_fit_is_a_line_with_its_type_size_and_bytes() -> None:
    small, large = b64(png()), b64(png(640, 480, noise=200_000))
    found = [DisplayData({"image/png": data, "text/plain": FIGURE}) for data in (small, large, small)]
    first, told, last = content(render_all(*found, max_output=4 << 10, max_result=30_000))
    assert (first, last) == ("image/png", "image/png")
    size = len(base64.b64decode(large))
    assert told.startswith(f"[image/png, 640x480 pixels, {size} bytes: left out, it is too large for one result")
    assert told.endswith(FIGURE)


def scaled(raw: bytes, **budgets: Any) -> tuple[str, tuple[str, int, int]]:
    """The line that tells of it, and what the image is now."""
    told, image = render_all(DisplayData({"image/png": b64(raw), "text/plain": FIGURE}), **budgets).content
    assert isinstance(told, T.TextContent)
    assert isinstance(image, T.ImageContent)
    kind, width, height = pictures.measure(base64.b64decode(image.data))
    assert image.mime_type == kind
    return told.text, (kind, width, height)


def test_an_image_that_an_api_would_refuse_is_made_smaller() -> None:
    told, image = scaled(png(8001, 40))
    assert image == ("image/png", 1600, 8)
    assert re.fullmatch(r"\[image/png, 8001x40 pixels, \d+ bytes: scaled to 1600x8\]", told)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_an_image_is_made_smaller_whatever_its_format(kind: str) -> None:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((8200, 82)).save(file, kind)
    told, image = scaled(file.getvalue())
    assert image == ("image/png", 1600, 16)
    assert told.endswith(": scaled to 1600x16]")


def test_an_image_that_does_not_fit_is_made_so_much_smaller_that_it_does() -> None:
    file = io.BytesIO()
    Image.frombytes("RGB", (400, 300), random.Random(7).randbytes(400 * 300 * 3)).save(file, "PNG")  # noqa: S311
    told, (_, width, height) = scaled(file.getvalue(), max_output=1000, max_result=len(file.getvalue()))
    assert 200 <= width < 400
    assert abs(width / height - 4 / 3) < 0.02
    assert told.endswith(f": scaled to {width}x{height}]")


def test_of_several_large_images_each_gets_a_part_of_the_room() -> None:
    noise = Image.frombytes("RGB", (900, 900), random.Random(8).randbytes(900 * 900 * 3))  # noqa: S311
    file = io.BytesIO()
    noise.save(file, "PNG")
    found = content(render_all(*[DisplayData({"image/png": b64(file.getvalue())})] * 2))
    assert found[1::2] == ["image/png"] * 2


def test_what_cannot_be_made_smaller_is_told_in_a_line_with_its_text_form() -> None:
    bomb = png()[:16] + struct.pack(">II", 30_000, 30_000) + png()[24:]
    result = text(render_all(DisplayData({"image/png": b64(bomb), "text/plain": FIGURE})))
    assert result.startswith(f"[image/png, 30000x30000 pixels, {len(bomb)} bytes: left out, ")
    assert result.endswith(FIGURE)


def test_only_so_many_images_are_sent_and_the_others_are_lines() -> None:
    found = content(render_all(*[DisplayData({"image/png": b64(png())})] * 25))
    assert found[:20] == ["image/png"] * 20
    assert found[20].count("left out, 20 images are the most in one result]") == 5
    assert "too large" not in found[20]


def test_texts_and_images_together_stay_within_the_budgets_whatever_they_are() -> None:
    chance = random.Random(5)  # noqa: S311
    image = b64(png(noise=300))
    choices: list[Output] = [
        Stream("stdout", "text\n" * 30),
        Stream("stderr", "é" * 100),
        DisplayData({"image/png": image, "text/plain": FIGURE}),
        DisplayData({"image/png": "broken"}),
        ExecuteResult({"text/plain": "日本\n" * 20}),
        Error("ValueError", "bad", ("Traceback", "ValueError: bad")),
    ]
    for _ in range(300):
        found = chance.choices(choices, k=chance.randrange(8))
        max_result = chance.randrange(5000)
        max_output = chance.randrange(max_result + 100)
        result = render_all(*found, max_output=max_output, max_result=max_result, notices=["A notice."])
        texts = [block.text for block in result.content if isinstance(block, T.TextContent)]
        images = [block.data for block in result.content if isinstance(block, T.ImageContent)]
        assert sum(len(each.encode()) for each in texts) <= max_output
        assert sum(len(each.encode()) for each in texts + images) <= max_result
        assert all(texts)


def test_the_cut_leaves_images_where_they_are() -> None:
    long = Stream("stdout", "text\n" * 1000)
    image = DisplayData({"image/png": b64(png())})
    begin, first, second, end = content(
        render_all(long, image, Stream("stdout", "lost\n"), image, long, max_output=1000)
    )
    assert begin.endswith(" left out …\n")
    assert (first, second) == ("image/png", "image/png")
    assert set(end.split("\n")) == {"text"}


# --- SVG -------------------------------------------------------------------------------------------------------------


def svg(body: str, size: str = 'width="20" height="10"') -> str:
    links = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f"<svg {links} {size}>{body}</svg>"


def drawn(source: str) -> bytes:
    return image_bytes(render_all(DisplayData({"image/svg+xml": source, "text/plain": "<x.SVG object>"})))


def size_of(raw: bytes) -> tuple[int, ...]:
    return struct.unpack_from(">II", raw, 16)


def test_an_svg_is_drawn_as_png() -> None:
    blank, red = drawn(svg("")), drawn(svg('<rect width="20" height="10" fill="red"/>'))
    assert size_of(blank) == (20, 10)
    assert blank != red


def test_an_svg_with_the_head_and_the_units_that_matplotlib_writes_is_drawn() -> None:
    head = '<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "svg11.dtd">'
    assert size_of(drawn(head + svg("", 'width="72pt" height="36pt" viewBox="0 0 72 36"'))) == (96, 48)


@pytest.mark.parametrize(
    "size",
    ['width="5000" height="2500"', 'width="100%" viewBox="0 0 50000 25000"', 'width="100in" height="50in"'],
)
def test_a_large_svg_is_drawn_no_larger_than_models_see(size: str) -> None:
    assert size_of(drawn(svg("", size))) == (1600, 800)


@pytest.mark.parametrize("attribute", ["href", "xlink:href"])
@pytest.mark.parametrize("element", ["<image {} width='20' height='10'/>", "<filter id='f'><feImage {}/></filter>"])
@pytest.mark.parametrize("place", ["{}", "file://{}", " {}", "../../../../../../../../../..{}"])
def test_an_svg_cannot_show_a_file_of_the_host(tmp_path: Path, attribute: str, element: str, place: str) -> None:
    file = tmp_path / "secret.png"
    file.write_bytes(png(20, 10))
    body = element.format(f'{attribute}="{place.format(file)}"') + '<rect width="20" height="10" filter="url(#f)"/>'
    assert drawn(svg(body)) == drawn(svg(body.replace(str(file), "/none")))
    inside = body.replace(place.format(file), f"data:image/png;base64,{b64(png(20, 10))}")
    assert drawn(svg(inside)) != drawn(svg(body))


def test_an_svg_inside_an_svg_cannot_show_a_file_either(tmp_path: Path) -> None:
    file = tmp_path / "secret.png"
    file.write_bytes(png(20, 10))
    inner = b64(svg(f'<image href="{file}" width="20" height="10"/>').encode())
    for mime_type in ("image/svg+xml", "image/png"):
        body = f'<image href="data:{mime_type};base64,{inner}" width="20" height="10"/>'
        assert drawn(svg(body)) == drawn(svg(""))


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("no SVG", id="not XML"),
        pytest.param(svg("<text>\ud800</text>"), id="a surrogate"),
        pytest.param('<!DOCTYPE svg [<!ENTITY a "aaaa">]>' + svg("<text>&a;</text>"), id="entities"),
        pytest.param(svg("<g>" * 100_000 + "</g>" * 100_000), id="very deep"),
        pytest.param(
            svg("<g opacity='.5'>" * 500 + "<path d='M0 0h9v9'/>" + "</g>" * 500), id="a stack overflow in resvg"
        ),
        pytest.param(svg("", 'width="1e30" height="9"'), id="a huge number"),
        pytest.param(svg('<rect width="1000000" height="1000000"/>', ""), id="a huge canvas"),
        pytest.param(svg("", 'width="0" height="0"'), id="no size"),
        pytest.param("<svg>" + " " * (5 << 20) + "</svg>", id="too long"),
    ],
)
def test_an_svg_that_cannot_be_drawn_is_a_line_and_the_bridge_lives(source: str) -> None:
    result = text(render_all(DisplayData({"image/svg+xml": source, "text/plain": OBJECT})))
    assert re.fullmatch(r"\[image/svg\+xml, \d+ bytes as text: cannot be shown: [^\n]+\]", result)


def test_drawing_is_bounded_in_time_for_the_whole_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "_SVG_SECONDS", 0.5)
    waves = '<feTurbulence numOctaves="100" baseFrequency=".05"/>' * 300
    slow = svg(
        f'<filter id="f">{waves}</filter><rect width="1600" height="1600" filter="url(#f)"/>',
        'width="1600" height="1600"',
    )
    began = time.monotonic()
    result = text(render_all(*[DisplayData({"image/svg+xml": slow})] * 5))
    assert result.count("drawing takes too long") == 5
    assert time.monotonic() - began < 10


# --- safety ----------------------------------------------------------------------------------------------------------


def test_nothing_in_a_result_can_break_its_encoding() -> None:
    evil = "\ud800\0\x1b[31m\udfff"
    bundle: dict[str, Any] = {
        f"text/{evil}": evil,
        f"application/{evil}": evil,
        f"image/{evil}": evil,
        "image/png": evil,
    }
    result = render.to_tool_result(
        Result(
            1,
            "running",
            (Stream("stdout", evil), Error(evil, evil, (evil,)), Error(evil, evil), DisplayData(bundle)),
            notes=(evil,),
        ),
        kernel=evil,
        max_output=9999,
        max_result=9999,
        notices=[evil],
    )
    result.model_dump_json().encode()
    assert "\ufffd␀\ufffd" in text(result)
    assert "\x1b" not in text(result)


def test_random_results_are_always_sendable() -> None:
    chance = random.Random(6)  # noqa: S311
    alphabet = "\0\b\r\n\x1b[]m<>&;|ab{}\"'/\ud800\udfff\x9b=,+é"
    names = [
        "text/plain",
        "text/html",
        "text/markdown",
        "application/json",
        "image/png",
        "image/jpeg",
        "image/svg+xml",
        "x",
    ]

    def noise() -> str:
        return "".join(chance.choices(alphabet, k=chance.randrange(30)))

    for _ in range(1000):
        found: list[Output] = []
        for _ in range(chance.randrange(3)):
            found += [
                Stream(chance.choice(["stdout", "stderr"]), noise()),
                DisplayData({chance.choice(names): noise() for _ in range(chance.randrange(4))}),
                ExecuteResult({chance.choice(names): b64(chance.randbytes(9))}),
                Error(noise(), noise(), tuple(noise() for _ in range(chance.randrange(3)))),
            ]
        chance.shuffle(found)
        result = render_all(*found, max_output=200, notices=[noise()], notes=(noise(),))
        result.model_dump_json().encode()
        assert sum(len(each.encode()) for each in content(result)) <= 200 + 20 * len("image/jpeg")


# -- links to what a result cannot hold


def links(result: T.CallToolResult) -> list[str]:
    return [str(each.uri) for each in result.content if isinstance(each, T.ResourceLink)]


def all_bytes(result: T.CallToolResult) -> int:
    return sum(len(each.model_dump_json()) for each in result.content if isinstance(each, T.ResourceLink)) + sum(
        len(each.data) if isinstance(each, T.ImageContent) else len(each.text.encode())
        for each in result.content
        if isinstance(each, T.ImageContent | T.TextContent)
    )


def test_an_image_that_does_not_fit_is_linked_to_behind_its_words() -> None:
    image = DisplayData({"image/png": b64(png(noise=50_000))}, place=4)
    result = render_all(Stream("stdout", "before"), image, Stream("stdout", "after"), max_result=20_000)
    first, link, last = result.content
    assert isinstance(first, T.TextContent)
    assert "left out, it is too large" in first.text
    assert isinstance(link, T.ResourceLink)
    assert str(link.uri) == "kernel-bridge://kernels/alpha/executions/17/outputs/4"
    assert isinstance(last, T.TextContent)
    assert last.text == "after"


def test_an_image_that_fits_has_no_link_and_one_made_smaller_has() -> None:
    assert links(render_all(DisplayData({"image/png": b64(png())}, place=0))) == []
    buffer = io.BytesIO()
    Image.frombytes("RGB", (600, 600), random.Random(1).randbytes(600 * 600 * 3)).save(buffer, "PNG")  # noqa: S311
    smaller = render_all(DisplayData({"image/png": b64(buffer.getvalue())}, place=0), max_result=600_000)
    assert any(isinstance(each, T.ImageContent) for each in smaller.content)
    assert links(smaller) == ["kernel-bridge://kernels/alpha/executions/17/outputs/0"]


def test_a_chart_is_linked_to_and_what_is_not_kept_is_not() -> None:
    chart = {"application/vnd.plotly.v1+json": {"data": [{"type": "bar", "x": [1], "y": [2]}], "layout": {}}}
    assert len(links(render_all(DisplayData(chart, place=0)))) == 1
    assert links(render_all(DisplayData(chart))) == []


@pytest.mark.parametrize("max_result", [1024, 4096, 16_384])
def test_links_stay_within_the_budget_of_a_result_and_are_not_without_number(max_result: int) -> None:
    chart: dict[str, Any] = {"application/vnd.x+json": {}}
    result = render_all(*(DisplayData(chart, place=n) for n in range(200)), max_output=1000, max_result=max_result)
    assert all_bytes(result) <= max_result
    assert len(links(result)) <= 20
    assert any(isinstance(each, T.TextContent) for each in result.content)


# -- one output in full


@pytest.mark.parametrize(
    ("output", "content", "mime_type"),
    [
        (Stream("stdout", "\x1b[31mred\x1b[0m\n"), "red\n", "text/plain"),
        (ExecuteResult({"text/plain": "42"}), "42", "text/plain"),
        (DisplayData({"image/jpeg": b64(png()), "text/plain": FIGURE}), png(), "image/png"),
        (DisplayData({"image/svg+xml": "<svg/>", "text/plain": "x"}), "<svg/>", "image/svg+xml"),
        (
            DisplayData({"text/plain": "x", "application/vnd.x+json": {"a": 1}}),
            '{\n "a": 1\n}',
            "application/vnd.x+json",
        ),
        (DisplayData({"image/png": "no image", "text/plain": "what it was"}), "what it was", "text/plain"),
    ],
)
def test_an_output_in_full_has_its_true_type(output: Output, content: str | bytes, mime_type: str) -> None:
    assert render.whole(output) == (content, mime_type)


def test_an_error_in_full_is_its_traceback_without_colour() -> None:
    assert render.whole(Error("E", "v", ("\x1b[31mTraceback\x1b[0m", "E: v"))) == ("Traceback\nE: v", "text/plain")
