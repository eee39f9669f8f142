"""A sandbox's file as a model reads it: as it stands, in pages that together are the file, within every bound."""

from __future__ import annotations

import base64
import re

import mcp.types as T  # noqa: N812 - the SDK's own examples name it so
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.kernels.transfers import Page
from bridge.looking.files import Piece
from bridge.render import to_file_result
from tests.unit.test_render import image_bytes, jpeg, png

OUTPUT, RESULT = 48 << 10, 900 << 10
READ_ON = re.compile(r"(\d+) of (\d+) bytes are left: get_file with offset=(\d+) reads on\.")


def shown(
    content: bytes, *, start: int = 0, output: int = OUTPUT, result: int = RESULT, notices: tuple[str, ...] = ()
) -> T.CallToolResult:
    piece = Piece(content[start : start + result], start, len(content), "1")
    return to_file_result(Page("lab", "data/x", piece, notices), max_output=output, max_result=result)


def blob(result: T.CallToolResult) -> T.BlobResourceContents | None:
    found = [each.resource for each in result.content if isinstance(each, T.EmbeddedResource)]
    assert all(isinstance(each, T.BlobResourceContents) for each in found)
    return found[0] if found else None  # type: ignore[return-value]


def texts(result: T.CallToolResult) -> list[str]:
    return [each.text for each in result.content if isinstance(each, T.TextContent)]


def read_all(content: bytes, output: int, result: int) -> bytes:
    """Read page after page, as a model does that is told how; each must bring something."""
    got, start = b"", 0
    while True:
        page = shown(content, start=start, output=output, result=result)
        told = texts(page)
        attached = blob(page)
        following = READ_ON.search(told[-1]) if told else None
        got += base64.b64decode(attached.blob) if attached else told[0].encode() if start < len(content) else b""
        assert sum(map(len, map(str.encode, told))) <= output
        assert len(page.model_dump_json()) <= 2 * result + 4096
        if not following:
            return got
        assert int(following[3]) > start
        assert int(following[1]) == len(content) - int(following[3])
        start = int(following[3])


def test_text_stands_as_it_is() -> None:
    content = "one\r\ntwo\f\ttab שלום\u200f \U0001f468\u200d\U0001f469\n"
    assert texts(shown(content.encode())) == [content]


OBEYED = ["\x1b[2J", "\x1b]52;c;bHM=\x07", "\a", "\b", "\v", "\x7f", "\x85", "\x9b2J", "\u202e", "\u2066", "\u2069"]


@pytest.mark.parametrize("control", OBEYED, ids=ascii)
def test_what_a_terminal_or_a_reader_would_obey_comes_as_bytes_and_the_reason_is_told(control: str) -> None:
    content = f"before{control}after\n".encode()
    result = shown(content)
    attached = blob(result)
    assert attached
    assert base64.b64decode(attached.blob) == content
    why = f"holds control characters (U+{ord(control[0]):04X} first), so it is not shown as text"
    assert texts(result) == [f"data/x {why}; with this come its bytes 0 to {len(content)}."]


def test_only_the_page_with_control_characters_comes_as_bytes() -> None:
    content = b"a line\n" * 10_000 + b"\x1b[2J\n"
    assert blob(shown(content)) is None
    assert blob(shown(content, start=70_000))
    assert read_all(content, OUTPUT, RESULT) == content


def test_a_long_text_ends_with_a_line_and_says_how_to_read_on() -> None:
    content = b"".join(b"line number %d\n" % number for number in range(20_000))
    page, told = texts(shown(content))
    assert page.endswith("\n")
    assert len(page) > OUTPUT // 2
    assert (
        told
        == f"{len(content) - len(page)} of {len(content)} bytes are left: get_file with offset={len(page)} reads on."
    )


def test_one_endless_line_is_cut_between_characters() -> None:
    content = "€".encode() * 20_000
    assert (OUTPUT - 512) % 3
    assert blob(shown(content)) is None
    assert read_all(content, OUTPUT, RESULT) == content


CONTENT = st.one_of(st.binary(max_size=400), st.text("ab\n\0\x1bé\U0001f600", max_size=400).map(str.encode))


@settings(max_examples=40)
@given(st.lists(CONTENT, min_size=1, max_size=4), st.integers(1024, 1600))
def test_the_pages_of_any_file_are_the_file(parts: list[bytes], output: int) -> None:
    content = b"".join(each * 4 for each in parts)
    if content:
        assert read_all(content, output, 16 << 10) == content


def test_bytes_come_as_bytes_in_pages_within_the_bound() -> None:
    content = bytes(range(256)) * 8000
    page = shown(content)
    attached = blob(page)
    assert attached
    assert attached.uri == "kernel-bridge://kernels/lab/files/data/x"
    assert len(page.model_dump_json()) <= RESULT
    assert texts(page)[0].startswith("data/x is no UTF-8 text; with this come its bytes 0 to ")
    assert read_all(content, OUTPUT, RESULT) == content


@pytest.mark.parametrize("content", [b"text\0text", b"\xff\xfe", "ä".encode()[:1], b"caf\xe9"])
def test_what_is_no_text_comes_as_bytes(content: bytes) -> None:
    attached = blob(shown(content))
    assert attached
    assert base64.b64decode(attached.blob) == content


def test_nothing_and_nothing_more_are_told() -> None:
    assert texts(shown(b"")) == ["[data/x is empty]"]
    assert texts(shown(b"abc", start=3)) == ["No more: data/x has 3 bytes."]
    assert texts(shown(b"abc", start=99)) == ["No more: data/x has 3 bytes."]


@pytest.mark.parametrize("picture", [png(), jpeg(20, 10)])
def test_a_picture_is_shown_as_one(picture: bytes) -> None:
    result = shown(picture)
    assert image_bytes(result) == picture
    assert texts(result) == []


def test_a_picture_that_is_too_large_is_made_smaller() -> None:
    picture = png(600, 600, noise=600 * 600 * 3)
    piece = Piece(picture, 0, len(picture), "1")
    result = to_file_result(Page("lab", "x", piece), max_output=OUTPUT, max_result=200 << 10)
    assert len(result.model_dump_json()) < 200 << 10
    assert "scaled to" in texts(result)[0]


def test_what_only_begins_as_a_picture_comes_as_bytes() -> None:
    assert blob(shown(png()[:12]))
    assert blob(shown(png() + bytes(RESULT)))


def test_what_became_of_the_kernel_is_told_first() -> None:
    assert texts(shown(b"abc", notices=("It is new.",))) == ["It is new.", "abc"]
    assert texts(shown(png(), notices=("It is new.",))) == ["It is new."]
    assert texts(shown(b"\xff", notices=("It is new.",)))[0] == "It is new."
