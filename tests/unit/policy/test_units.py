"""Sizes and durations carry their unit, and what is shown can be written back."""

from __future__ import annotations

import pytest

from bridge.policy import format_duration, format_size, parse_duration, parse_size
from bridge.policy.units import shown


@pytest.mark.parametrize(
    ("text", "size"),
    [("0B", 0), ("1B", 1), ("48KiB", 49152), ("512MiB", 536870912), ("2GiB", 2 << 30), ("1TiB", 1 << 40)],
)
def test_a_size_is_a_whole_number_with_a_binary_unit(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert format_size(size) == text


@pytest.mark.parametrize(
    "text", ["512", "512MB", "512M", "512mib", "1.5GiB", "-1GiB", "01GiB", " 1GiB", "1 GiB", "", "٣GiB", "1GiB\n"]
)
def test_any_other_size_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match="like 512MiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0), ("45s", 45), ("10m", 600), ("1h", 3600), ("2d", 172800), ("61s", 61)]
)
def test_a_duration_is_a_whole_number_with_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert format_duration(seconds) == text


@pytest.mark.parametrize("text", ["45", "45S", "45ms", "1.5h", "1:30", "-1s", "1h30m", "", "inf"])
def test_any_other_duration_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match="like 45s"):
        parse_duration(text)


def test_a_size_without_a_round_unit_is_shown_exactly() -> None:
    assert format_size(1025) == "1025B"
    assert parse_size(format_size(3 * 1024 + 1)) == 3 * 1024 + 1


def test_values_are_shown_as_a_policy_writes_them() -> None:
    values = [None, True, False, 3.13, "x", {}, (), object()]
    words = [
        "null",
        "true",
        "false",
        "the number 3.13",
        'the text "x"',
        "a mapping (keys and values)",
        "a list",
        "a object",
    ]
    assert [shown(value) for value in values] == words
    assert len(shown("x" * 1000)) < 100
