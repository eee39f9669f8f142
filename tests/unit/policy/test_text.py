"""The YAML reader takes only what every reader would read alike, and says where anything else stands."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.policy.text import MAX_BYTES, Problem, decode, read


def test_plain_values_of_every_kind_are_read_with_their_lines() -> None:
    document = read('a: text\nb: [1, -2, 0.5, true, false, null, "null", "3.10"]\nc:\n  d: ~/x\n')
    assert document.problems == ()
    assert document.value == {"a": "text", "b": (1, -2, 0.5, True, False, None, "null", "3.10"), "c": {"d": "~/x"}}
    assert [document.line(path) for path in ((), ("a",), ("b", 3), ("c", "d"), ("c", "not written"))] == [1, 1, 2, 4, 3]


@pytest.mark.parametrize(
    "written",
    ["2GiB", "45s", "sha256:abc", "127.0.0.1:80", "kernel-bridge/python:3.13", "3.13-slim", "3.13.1", "a b", "no!"],
)
def test_text_that_no_reader_takes_for_anything_else_needs_no_quotes(written: str) -> None:
    document = read(f"a: {written}")
    assert document.value == {"a": written}
    assert not document.problems


@pytest.mark.parametrize(
    "written",
    [
        "yes",
        "no",
        "Yes",
        "NO",
        "on",
        "off",
        "y",
        "N",
        "True",
        "FALSE",
        "Null",
        "NULL",
        "~",
        "0400",
        "0o17",
        "0x7fffffff",
        "0b11",
        "+1",
        "1_000",
        "-0",
        "007",
        "1:30",
        "22:22",
        "1:30.5",
        ".inf",
        "-.INF",
        ".nan",
        ".NaN",
        "1e3",
        "1.5e3",
        ".5",
        "5.",
        "2026-01-31",
        "=",
    ],
)
def test_what_yaml_readers_read_differently_is_refused(written: str) -> None:
    (problem,) = read(f"x: 1\na: {written}").problems
    assert (problem.line, problem.where) == (2, "a")
    assert "read differently" in problem.text
    assert "quotes" in problem.text


@pytest.mark.parametrize(
    ("written", "line", "where", "fragment"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "a", "stands twice, first in line 1"),
        ("a:\n  b: {c: 1, c: 1}\n", 2, "a.b.c", "stands twice, first in line 2"),
        ("a: 1\n'a': 2\n", 2, "a", "stands twice"),
        ("a: &x 1\n", 1, "a", "the anchor &x"),
        ("a: 1\nb: *x\n", 2, "b", "the alias *x"),
        ("a: 1\n<<: {b: 2}\n", 2, "", "the merge key"),
        ("a: !!str 1\n", 1, "a", "a tag"),
        ("a: !!python/object/apply:os.system [x]\n", 1, "a", "a tag"),
        ("a: ! x\n", 1, "a", "a tag"),
        ("!!map {a: 1}\n", 1, "", "a tag"),
        ("!!str a: 1\n", 1, "", "anchor or tag on a key"),
        ("%YAML 1.2\n---\na: 1\n", 1, "", "directive"),
        ("%TAG ! x\n---\na: 1\n", 1, "", "directive"),
        ("a: 1\n---\nb: 1\n", 2, "", "a second document"),
        ("1: a\n", 1, "", "the key '1' is not plain text"),
        ("true: a\n", 1, "", "the key 'true' is not plain text"),
        ("null: a\n", 1, "", "the key 'null' is not plain text"),
        ("? \n: a\n", 1, "", "the key '' is not plain text"),
        ("? [a, b]\n: c\n", 1, "", "a key that is not plain text"),
        ("? {a: b}\n: c\n", 1, "", "a key that is not plain text"),
        ("a:\n", 1, "a", "nothing is written here"),
        ("a: [1, ]\nb: {c}\n", 2, "b.c", "nothing is written here"),
        ('a: "x\\0y"\n', 1, "a", "U+0000"),
        ('a: "x\\u202ey"\n', 1, "a", "U+202E RIGHT-TO-LEFT OVERRIDE"),
        ('a: "x\\ud800y"\n', 1, "a", "U+D800"),
        ('"a\\u200b": 1\n', 1, "", "is not plain text"),
        ("a: |\n  x\n  y\n", 1, "a", "U+000A"),
        (f"a: {'9' * 19}\n", 1, "a", "more than 18 characters"),
        (f"a: 0.{'1' * 5000}\n", 1, "a", "more than 18 characters"),
        ("", 1, "", "the file is empty"),
        ("# only a comment\n", 1, "", "the file is empty"),
        ("a: 1\n" + "b: " + "[" * 12 + "]" * 12 + "\n", 2, "", "nested more than 12 deep"),
        ("[" * 5000, 1, "", "nested more than 12 deep"),
        ("- " * 5000, 1, "", "nested more than 12 deep"),
        ("a: 1\nb: [1\n", 3, "", "this is not YAML"),
        ("a: b: c\n", 1, "", "a colon where none can stand"),
        ("a: 1\n b: 2\n", 2, "", "a colon where none can stand"),
        ("  a: 1\nb: 2\n", 2, "", "the indentation does not fit"),
        ("a: 1\nb: @x\n", 2, "", "put the text in quotes"),
        ("a: 1\nb: 'x\n", 3, "", "a quote is not closed"),
        ('a: "\\U00110000"\n', 1, "", "no character"),
        ("a: 1\n\tb: 2\n", 2, "", "a tab"),
        ("a: 1\t# comment\n", 1, "", "a tab"),
        ("a: 1\rb: 2\n", 1, "", "U+000D"),
        ("\ufeffa: 1\n", 1, "", "byte order mark"),
        ("a: 1\nb\u200b: 2\n", 2, "", "U+200B ZERO WIDTH SPACE"),
        ("a: 1 # \u202e\n", 1, "", "U+202E"),
        ("a:\u00a01\n", 1, "", "U+00A0 NO-BREAK SPACE"),
        ("a: 1\u2028b: 2\n", 1, "", "U+2028"),
        ("a: 1\u0085b: 2\n", 1, "", "U+0085"),
        ("a: x\x07\n", 1, "", "U+0007"),
        ("a: x\ud800\n", 1, "", "U+D800"),
        ("a: x\ue000\n", 1, "", "U+E000"),
        ("a: x\uffff\n", 1, "", "U+FFFF"),
    ],
)
def test_what_is_refused_is_told_with_its_line(written: str, line: int, where: str, fragment: str) -> None:
    problems = read(written).problems
    assert [(problem.line, problem.where) for problem in problems if fragment in problem.text] == [(line, where)], (
        problems
    )
    assert len(problems) == 1, problems


def test_problems_are_collected_and_reading_goes_on() -> None:
    document = read("a: yes\nb: 1\nb: 2\nc: &x 5\nd: *x\ne: fine\n")
    assert [problem.line for problem in document.problems] == [1, 3, 4, 5]
    assert document.complete
    assert document.value["b"] == 1
    assert document.value["e"] == "fine"
    assert document.broken == {("a",), ("b",), ("c",), ("d",)}


def test_an_alias_bomb_is_refused_without_being_built() -> None:
    lines = ["a0: &a0 [x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}]" for i in range(1, 40))]
    document = read("\n".join(lines))
    assert len([problem for problem in document.problems if "alias" in problem.text]) == 39 * 3


def test_where_reading_stops_nothing_is_said_to_be_missing() -> None:
    assert not read("a: [1").complete


def test_line_ends_of_windows_are_taken() -> None:
    assert read("a: 1\r\nb: 2\r\n").value == {"a": 1, "b": 2}


def test_a_text_of_the_largest_size_is_read_and_a_larger_one_is_not() -> None:
    fits = "a: 1 #" + "x" * (MAX_BYTES - 6)
    assert read(fits).value == {"a": 1}
    (problem,) = read(fits + "x").problems
    assert "64 KiB" in problem.text


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a: 1", "a: 1"),
        ("a: é".encode(), "a: é"),
        (b"a: 1\nb: \xff", Problem(2, "", "this line is not UTF-8; save the file as UTF-8")),
        ("a: é".encode("utf-16"), Problem(1, "", "this line is not UTF-8; save the file as UTF-8")),
        (b"x" * (MAX_BYTES + 1), Problem(1, "", "the file is larger than 64 KiB; a policy is at most that")),
    ],
)
def test_bytes_are_text_only_as_utf_8_and_within_the_size(data: bytes, expected: Any) -> None:
    assert decode(data) == expected
