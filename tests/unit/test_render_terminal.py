"""Foreign text as plain text: what a terminal shows, what HTML says, and the cut in the middle."""

from __future__ import annotations

import random
import re
import time

import pytest

from bridge import terminal

# A linear rendering takes about one second of processor time; a quadratic one many minutes.
LINEAR = 20.0


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("plain\n\ttext \n", "plain\n\ttext \n"),
        ("one\r\ntwo\r\r\nthree", "one\ntwo\nthree"),
        ("10%\r20%\r100%\n", "100%\n"),
        ("10%\r20%\r", "20%"),
        ("\r 5%|  | 1/20\r10%|# | 2/20", "10%|# | 2/20"),
        ("longer text\rshort", "shortr text"),
        ("done: all of it\r               \r", ""),
        ("ab\bc", "ac"),
        ("_\bx_\by", "xy"),
        ("\b\b\bx", "x"),
        ("ab\b", "ab"),
        ("downloading a\r\x1b[Kdone", "done"),
        ("downloading a\x1b[2K\rdone", "done"),
        ("downloading a\x1b[1K\rdone", "done"),
        ("outer 0%\ninner 0%\x1b[A\router 9%\n\rinner 5%", "outer 9%\ninner 5%"),
        ("a\nb\nc\x1b[2A\r\x1b[Jd", "d"),
        ("abc\x1b[2Kd", "   d"),
        ("x" * 300 + "\na\x1b[999Cb", "x" * 300 + "\na" + " " * 199 + "b"),
        ("ab\x1b[2Dc", "cb"),
        ("a\x1b[3Cb", "a   b"),
        ("abc\x1b[1GX", "Xbc"),
        ("a\nb\x1b[Ac\x1b[Bd", "ac\nb d"),
        ("kept\n\x1b[2J\x1b[Hmore", "kept\nmore"),
    ],
)
def test_overwritten_text_is_shown_as_a_terminal_shows_it(written: str, shown: str) -> None:
    assert terminal.shown(written) == shown


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[38:2::255:0:0mred\x1b[m", "red"),
        ("\x1b[?25lhidden cursor\x1b[?25h", "hidden cursor"),
        ("\x1b]0;a title\x07text", "text"),
        ("\x1b]8;;https://example.org\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b(Btext\x1b)0", "text"),
        ("\x1b7saved\x1b8", "saved"),
        ("\x1bPq#0;2;0\n~~\x1b\\sixel", "sixel"),
        ("\x1b_Ga=T;AAAA\x1b\\kitty", "kitty"),
        ("\x9b31mred\x9b0m \x9d0;title\x9c\x84text", "red text"),
        ("lone \x1b", "lone "),
        ("lone \x1b\x1b[1mbold", "lone bold"),
        ("\x1b]never ended\nand more", "never ended\nand more"),
        ("\x1b[31", ""),
    ],
)
def test_escape_sequences_are_removed(written: str, shown: str) -> None:
    assert terminal.shown(written) == shown


def test_other_control_characters_are_made_visible_and_the_bell_is_dropped() -> None:
    assert terminal.shown("a\0b\x01\x7f\ac\x0bd\x0ce\x85f") == "a␀b␁␡c\nd\ne\nf"


def test_lone_surrogates_become_replacement_characters_and_other_scripts_stay() -> None:
    assert terminal.shown("\ud800 é 日本 😀 \udfff") == "\ufffd é 日本 😀 \ufffd"


def test_random_control_characters_leave_nothing_but_printable_text() -> None:
    chance = random.Random(1)  # noqa: S311
    alphabet = "\0\a\b\t\n\r\x1b\x1b\x1b[[]();?:0123ABCDGJKPX\\mhé日\ud800\udc00\x7f\x85\x90\x9b\x9c\x9d\u2028 x"
    for _ in range(5000):
        written = "".join(chance.choices(alphabet, k=chance.randrange(60)))
        shown = terminal.shown(written)
        shown.encode()
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown), ascii(written)
        assert terminal.shown(shown) == shown


def test_text_without_control_characters_is_not_changed() -> None:
    chance = random.Random(2)  # noqa: S311
    for _ in range(500):
        written = "".join(chance.choices("ab \t\n[é日😀", k=40))
        assert terminal.shown(written) == written


@pytest.mark.parametrize(
    "written",
    [
        pytest.param("x" * 10_000_000, id="a line of 10 MB"),
        pytest.param("x" * 10_000_000 + "\b", id="a line of 10 MB and a backspace"),
        pytest.param("\r" * 1_000_000, id="carriage returns"),
        pytest.param("\r 50%|####    |" * 300_000, id="a long progress"),
        pytest.param("ab\b" * 300_000, id="backspaces"),
        pytest.param("\x1b]" * 300_000, id="strings that never end"),
        pytest.param("\x9d" * 300_000, id="strings that never end, in one byte"),
        pytest.param("\x90" * 300_000, id="device strings that never end"),
        pytest.param("\x1b[" + "1" * 1_000_000, id="a long parameter"),
        pytest.param("x" * 300_000 + "\x1b[2Ka" * 300_000, id="erasing a long line"),
        pytest.param("x" * 300_000 + "\x1b[1Ka" * 300_000, id="erasing the start of a long line"),
        pytest.param("\n" * 300_000 + "x" * 300_000 + "\x1b[Aa" * 300_000, id="a column far right, up"),
        pytest.param("\x1b[9999C" * 300_000 + "a", id="far right"),
    ],
)
def test_hostile_text_takes_linear_time_and_space(written: str) -> None:
    began = time.process_time()
    shown = terminal.shown(written)
    assert time.process_time() - began < LINEAR
    assert len(shown) <= 2 * len(written)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("<p>one</p><p>two<br>three</p>", "one\ntwo\nthree"),
        ("a <b>bold</b>\n   word &amp; &lt;tag&gt; &eacute;", "a bold word & <tag> é"),
        ("<ul><li>one<li>two</ul>", "- one\n- two"),
        ("<script>if (a<b) {x='</p>'}</script><style>p {}</style>seen<!-- <p>not</p> -->", "seen"),
        ("<pre>  a\n  b</pre>", "  a\n  b"),
        ("<!DOCTYPE html><html><head><title>t</title></head><body>x</body></html>", "x"),
        ("a < b and c > d", "a < b and c > d"),
        ("<p title='a > b' class=\"it's\">text</p><p it's>more", "text\nmore"),
        ("<script>never closed <p>x", ""),
        ("<h1>Map</h1><img src='https://example.org/a.png' alt='a &amp; b'>text", "Map\n[image: a & b] text"),
        ('<img src="data:image/png;base64,AAAA">', "[image]"),
        ("<video controls><source src='x.mp4'>Your browser cannot.</video>seen", "[video] seen"),
        ('<iframe\n  width="300"\n  src="https://example.org/x"\n></iframe>', "[frame: https://example.org/x]"),
        ("half \ud83d of a pair", "half \ufffd of a pair"),
        ("&#" + "9" * 5000 + ";", "&#" + "9" * 5000 + ";"),
        ("", ""),
    ],
)
def test_html_becomes_its_text(source: str, text: str) -> None:
    assert terminal.read_html(source) == text


def test_an_html_table_becomes_markdown_rows() -> None:
    source = """<table border="1"><thead><tr><th></th><th>name</th></tr></thead>
      <tbody><tr><th>0</th><td>a|b</td></tr><tr><th>1<td><div>two</div> <div>lines</div></table>after"""
    assert terminal.read_html(source).split("\n") == [
        "|  | name |",
        "| --- | --- |",
        "| 0 | a\\|b |",
        "| 1 | two lines |",
        "after",
    ]


@pytest.mark.parametrize(
    ("source", "rows"),
    [
        pytest.param(
            "<table><caption>Cap</caption><tr><td>1<td>2</table>", ["Cap", "| 1 | 2 |", "| --- | --- |"], id="a caption"
        ),
        pytest.param(
            "<tr><th></th><th colspan='2'>A</th></tr><tr><th></th><th>x</th><th>y</th></tr>"
            '<tr><th rowspan="2">p</th><td>1</td><td>2</td></tr><tr><td>3</td><td>4</td></tr><tr><th>q<td>5<td>6',
            ["|  | A | A |", "| --- | --- | --- |", "|  | x | y |", "| p | 1 | 2 |", "| p | 3 | 4 |", "| q | 5 | 6 |"],
            id="cells over several rows and columns",
        ),
        pytest.param(
            "<table><tr><td>1<td rowspan=2>end</tr><tr><td>2</table><table><tr><td>3</table>",
            ["| 1 | end |", "| --- | --- |", "| 2 | end |", "| 3 |", "| --- |"],
            id="a cell that reaches down at the end of a row",
        ),
        pytest.param(
            "<table><tr><td>a<td><table><tr><td>1</td><td>2</td></tr></table></td><td>z</table>after",
            ["| a | 1 2 | z |", "| --- | --- | --- |", "after"],
            id="a table in a cell",
        ),
        pytest.param("<tr><td><pre>a\nb</pre></td></tr>", ["| a b |", "| --- |"], id="lines in a cell"),
    ],
)
def test_every_row_of_a_table_has_its_cells_in_their_columns(source: str, rows: list[str]) -> None:
    assert terminal.read_html(source).split("\n") == rows


@pytest.mark.parametrize(
    "piece", ["<td colspan=999 rowspan=999>a", "<tr><td rowspan=999>a", "<tr><td rowspan=999>a<td colspan=999>b"]
)
def test_cells_over_a_thousand_rows_and_columns_take_no_more_than_twice_their_source(piece: str) -> None:
    began = time.process_time()
    assert len(terminal.read_html(piece * 50_000)) <= 3 * len(piece * 50_000)
    assert time.process_time() - began < LINEAR


@pytest.mark.parametrize(
    "piece",
    [
        "<table><td>",
        "<img src='",
        "<img alt=",
        "<video>",
        "<td rowspan=",
        "<!--",
        "<a ",
        "<a '",
        "<!",
        "</",
        "&#9",
        "<script>",
        "<td>",
        "<tr><td>a",
        "<pre>",
    ],
)
def test_hostile_html_takes_linear_time(piece: str) -> None:
    began = time.process_time()
    terminal.read_html(piece * 100_000)
    assert time.process_time() - began < LINEAR


def test_a_text_within_the_limit_is_not_cut() -> None:
    assert terminal.cut(["é" * 10, "b"], 21) == ["é" * 10, "b"]


def test_the_cut_keeps_two_thirds_from_the_start_and_one_from_the_end_at_line_ends() -> None:
    lines = [f"line {number}\n" for number in range(1000)]
    (text,) = terminal.cut(["".join(lines)], 1000)
    head, told, tail = re.split(r"(… \d+ bytes, \d+ lines left out …\n)", text)
    missing, count = map(int, re.findall(r"\d+", told))
    assert "".join(lines).startswith(head)
    assert "".join(lines).endswith(tail)
    assert head.endswith("\n")
    assert tail.startswith("line ")
    assert (len(head) + missing + len(tail), head.count("\n") + count + tail.count("\n")) == (len("".join(lines)), 1000)
    assert 600 < len(head) < 667
    assert 280 < len(tail) < 334


def test_the_cut_goes_through_several_texts_and_keeps_their_places() -> None:
    first, middle, last = terminal.cut(["a" * 100, "b" * 100, "c" * 100], 150)
    assert first.startswith("a" * 60)
    assert first.endswith(" left out …\n")
    assert middle == ""
    assert set(last) == {"c"}


def test_a_cut_of_any_text_at_any_limit_stays_within_it_and_keeps_characters_whole() -> None:
    chance = random.Random(3)  # noqa: S311
    for _ in range(3000):
        texts = ["".join(chance.choices("aé日😀\n", k=chance.randrange(60))) for _ in range(chance.randrange(4))]
        limit = chance.randrange(200)
        kept = terminal.cut(texts, limit)
        assert len(kept) == len(texts)
        assert len("".join(kept).encode()) <= limit
        if len("".join(texts).encode()) <= limit:
            assert kept == texts
