"""When a sandbox is over: the rules alone, with a clock that the tests set."""

from __future__ import annotations

import math
from typing import Any

import pytest

HOUR = 3600.0
DAY = 24 * HOUR


def play(ends: Any, limits: dict[str, float | None], looks: list[tuple[float, dict[str, bool]]]) -> list[Any]:
    """Look at the times that are given, with what is seen then; returns each time's event with what it names."""
    sandbox = ends.Ends(ends.Limits(**limits), 0.0)
    told = [(now, sandbox.look(now, ends.Seen(**seen))) for now, seen in looks]
    return [(now, notice.event, notice.limit, notice.seconds) for now, notice in told if notice]


def every(step: float, until: float, **seen: bool) -> list[tuple[float, dict[str, bool]]]:
    return [(step * number, seen) for number in range(1, round(until / step) + 1)]


def test_one_that_is_never_used_is_announced_ten_minutes_before_it_is_over(ends: Any) -> None:
    assert play(ends, {"idle_timeout": DAY}, every(60, DAY)) == [
        (DAY - 600, "ending", "idle_timeout", 600),
        (DAY, "over", "idle_timeout", None),
    ]


def test_a_short_limit_is_announced_when_a_tenth_of_it_is_left(ends: Any) -> None:
    assert play(ends, {"idle_timeout": 60.0}, every(3, 60)) == [
        (54, "ending", "idle_timeout", 6),
        (60, "over", "idle_timeout", None),
    ]


def test_one_in_use_is_never_over_and_its_time_begins_anew_when_that_ends(ends: Any) -> None:
    used = [(3.0 * number, {"used": number <= 100}) for number in range(1, 121)]
    assert play(ends, {"idle_timeout": 60.0}, used) == [
        (354, "ending", "idle_timeout", 6),
        (360, "over", "idle_timeout", None),
    ]


def test_who_comes_after_the_announcement_keeps_it_from_being_over(ends: Any) -> None:
    looks = [*every(3, 57), (60, {"used": True}), *((60 + now, seen) for now, seen in every(3, 60))]
    assert play(ends, {"idle_timeout": 60.0}, looks) == [
        (54, "ending", "idle_timeout", 6),
        (60, "stays", "idle_timeout", None),
        (114, "ending", "idle_timeout", 6),
        (120, "over", "idle_timeout", None),
    ]


def test_who_only_asks_whether_it_answers_does_not_lengthen_its_time_and_it_is_not_over_meanwhile(ends: Any) -> None:
    looks = [(3.0 * number, {"connected": number in (19, 20, 21)}) for number in range(1, 23)]
    assert play(ends, {"idle_timeout": 60.0}, looks) == [
        (54, "ending", "idle_timeout", 6),
        (66, "over", "idle_timeout", None),
    ]


def test_who_holds_the_end_of_an_unused_one_off_does_not_hold_off_that_of_its_lifetime(ends: Any) -> None:
    assert play(ends, {"idle_timeout": 60.0, "max_lifetime": 120.0}, every(3, 120, connected=True)) == [
        (54, "ending", "idle_timeout", 6),
        (108, "ending", "max_lifetime", 12),
        (120, "over", "max_lifetime", None),
    ]


def test_the_agents_limit_holds_until_a_person_was_there_once(ends: Any) -> None:
    limits: dict[str, float | None] = {"idle_timeout": DAY, "idle_timeout_of_agents": 2 * HOUR}
    assert play(ends, limits, every(60, 2 * HOUR)) == [
        (2 * HOUR - 600, "ending", "idle_timeout_of_agents", 600),
        (2 * HOUR, "over", "idle_timeout_of_agents", None),
    ]
    visited = [(60.0 * number, {"person": number == 119}) for number in range(1, 1441)]
    assert play(ends, limits, visited) == [
        (2 * HOUR - 600, "ending", "idle_timeout_of_agents", 600),
        (2 * HOUR - 60, "stays", "idle_timeout_of_agents", None),
        (DAY - 600, "ending", "idle_timeout", 600),
        (DAY, "over", "idle_timeout", None),
    ]
    assert play(ends, {"idle_timeout_of_agents": HOUR}, [(60, {"person": True}), *every(60, DAY)[1:]]) == []


def test_its_lifetime_is_over_whatever_is_seen(ends: Any) -> None:
    seen = {"connected": True, "used": True, "person": True}
    assert play(ends, {"idle_timeout": HOUR, "max_lifetime": 8 * HOUR}, every(60, 8 * HOUR, **seen)) == [
        (8 * HOUR - 600, "ending", "max_lifetime", 600),
        (8 * HOUR, "over", "max_lifetime", None),
    ]


def test_of_two_limits_the_nearer_one_is_told_and_the_other_when_it_has_become_that(ends: Any) -> None:
    looks = [(3.0 * number, {"used": number == 19}) for number in range(1, 23)]
    assert play(ends, {"idle_timeout": 60.0, "max_lifetime": 66.0}, looks) == [
        (54, "ending", "idle_timeout", 6),
        (57, "stays", "idle_timeout", None),
        (60, "ending", "max_lifetime", 6),
        (66, "over", "max_lifetime", None),
    ]


def test_what_was_frozen_was_not_unused_meanwhile_and_nothing_is_over_unannounced(ends: Any) -> None:
    limits: dict[str, float | None] = {"idle_timeout": 60.0}
    assert play(ends, limits, [*every(3, 30), (30 + DAY, {}), (33 + DAY, {})]) == []
    assert play(ends, {"max_lifetime": 60.0}, [(DAY, {}), (DAY + 3, {})]) == [
        (DAY, "ending", "max_lifetime", 3),
        (DAY + 3, "over", "max_lifetime", None),
    ]


def test_without_a_limit_nobody_looks_and_nothing_is_over(ends: Any) -> None:
    assert ends.Ends(ends.Limits(), 0.0).next_look == math.inf
    assert play(ends, {}, every(60, DAY)) == []


@pytest.mark.parametrize(
    ("limits", "step"), [({"idle_timeout": DAY}, 60), ({"idle_timeout": DAY, "max_lifetime": 60.0}, 3)]
)
def test_it_is_looked_once_a_minute_or_twenty_times_in_the_shortest_limit(
    ends: Any, limits: dict[str, float], step: float
) -> None:
    sandbox = ends.Ends(ends.Limits(**limits), 100.0)
    assert sandbox.next_look == 100 + step
    sandbox.look(500.0, ends.Seen())
    assert sandbox.next_look == 500 + step


def test_each_limit_is_told_in_words(ends: Any) -> None:
    def texts(**limits: float) -> list[str]:
        sandbox = ends.Ends(ends.Limits(**limits), 0.0)
        return [notice.text for now, _ in every(3, 60) if (notice := sandbox.look(now, ends.Seen()))]

    unused = "it may be unused for 60 s, and nobody is connected and nothing runs (idle_timeout)"
    assert texts(idle_timeout=60.0) == [
        f"this sandbox ends in 6 s, unless somebody connects or runs something: {unused}",
        f"this sandbox is over: {unused}",
    ]
    assert "60 s where only agents ever were" in texts(idle_timeout_of_agents=60.0)[1]
    assert texts(max_lifetime=60.0) == [
        "this sandbox ends in 6 s, whatever runs in it: it may run for 60 s (max_lifetime)",
        "this sandbox is over: it may run for 60 s (max_lifetime)",
    ]


def test_limits_are_read_from_the_orders(ends: Any) -> None:
    assert ends.read({"connection": {}}) == ends.Limits()
    asked = {"idle_timeout": 86400, "idle_timeout_of_agents": 7200.5, "max_lifetime": None}
    assert ends.read(asked) == ends.Limits(86400, 7200.5, None)


@pytest.mark.parametrize("seconds", [0, -1, True, "60", math.inf, math.nan, [60]])
def test_what_is_no_number_of_seconds_is_refused(ends: Any, seconds: Any) -> None:
    with pytest.raises(ValueError, match="max_lifetime"):
        ends.read({"max_lifetime": seconds})
