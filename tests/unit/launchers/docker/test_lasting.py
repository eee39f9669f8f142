"""How long a sandbox lasts, as its supervisor is told and as a person reads it."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bridge.launchers import End
from bridge.launchers.docker import connections, endings, lasting, owner
from bridge.policy import SandboxRequest, SandboxSpec, built_in, decide
from tests.images import program

STARTED = "2026-11-01T10:00:00.123456789Z"
BY_AGENT = {"idle_timeout": 86400.0, "idle_timeout_of_agents": 7200.0}


def after(**time: float) -> datetime:
    return datetime(2026, 11, 1, 10, 0, 0, 123456, tzinfo=UTC) + timedelta(**time)


@pytest.fixture
def spec() -> SandboxSpec:
    return decide(built_in(), SandboxRequest("lab", by_agent=True))


def test_the_label_holds_what_the_supervisor_is_told(spec: SandboxSpec) -> None:
    limits = lasting.limits(spec)
    assert limits == BY_AGENT
    assert lasting.read(lasting.written(limits)) == limits
    told = json.loads(connections.orders("k", (), limits=limits))
    assert {name: told[name] for name in limits} == limits


def test_without_limits_nothing_is_told(spec: SandboxSpec) -> None:
    none = lasting.limits(dataclasses.replace(spec, idle_timeout=None, idle_timeout_of_agents=None))
    assert (lasting.written(none), lasting.read(""), lasting.told(none)) == ("", {}, ())
    assert json.loads(connections.orders("k", (), limits=none)).keys() == {"connection", "environment"}
    assert lasting.by_age(none, STARTED) is None
    assert lasting.asked_since(none, STARTED, after(days=1000)) is None


@pytest.mark.parametrize(
    "label",
    ["{", "[]", "7", "[" * 100_000, '{"max_lifetime": "1"}', '{"max_lifetime": true}', '{"max_lifetime": 0}']
    + [f'{{"max_lifetime": {each}}}' for each in ("NaN", "Infinity", "1e12", "-1", "null")],
    ids=lambda text: text[:30],
)
def test_a_label_that_is_none_of_ours_sets_no_limit(label: str) -> None:
    assert lasting.read(label) == {}


def test_the_supervisor_means_the_same_by_its_names_its_numbers_and_its_times() -> None:
    ends = program("supervisor").ends
    assert {number: name for name, number in ends.STATUSES.items()} == lasting.STATUSES
    assert (ends.WARNED_SECONDS, ends.LOOK_SECONDS) == (lasting.ANNOUNCED, lasting.LOOKED)


@pytest.mark.parametrize(
    ("limits", "phrases"),
    [
        ({"idle_timeout": 86400.0}, ("after 1d with nobody connected and nothing running (idle_timeout)",)),
        (
            BY_AGENT,
            (
                (
                    "after 1d with nobody connected and nothing running; after 2h while only agents ever were "
                    "(idle_timeout)"
                ),
            ),
        ),
        (
            {"idle_timeout": 3600.0, "idle_timeout_of_agents": 3600.0, "max_lifetime": 28800.0},
            (
                "after 1h with nobody connected and nothing running (idle_timeout)",
                "after 8h, whatever runs (max_lifetime)",
            ),
        ),
    ],
)
def test_limits_are_told_in_words(limits: dict[str, float], phrases: tuple[str, ...]) -> None:
    assert lasting.told(limits) == phrases


def container(status: int, limits: dict[str, float] | None) -> dict[str, Any]:
    labels = {} if limits is None else {owner.ENDS: lasting.written(limits)}
    return {"State": {"ExitCode": status}, "Config": {"Labels": labels}}


@pytest.mark.parametrize(
    ("status", "limits", "over"),
    [
        (64, BY_AGENT, ("idle_timeout", "nobody was connected and nothing ran for 1d (idle_timeout)")),
        (
            65,
            BY_AGENT,
            (
                "idle_timeout",
                "nobody was connected and nothing ran for 2h, and only agents ever were there (idle_timeout)",
            ),
        ),
        (66, {"max_lifetime": 28800.0}, ("max_lifetime", "it had run for 8h (max_lifetime)")),
        (64, None, ("idle_timeout", "nobody was connected and nothing ran for too long (idle_timeout)")),
        (0, BY_AGENT, None),
        (2, BY_AGENT, None),
        (137, BY_AGENT, None),
    ],
)
def test_by_which_limit_a_container_ended_is_told_by_its_status(
    status: int, limits: dict[str, float] | None, over: tuple[str, str] | None
) -> None:
    assert endings.over(container(status, limits)) == over


def test_the_end_of_a_lifetime_is_known_from_the_start_and_near_in_its_last_ten_minutes() -> None:
    end = lasting.by_age({"max_lifetime": 28800.0}, STARTED)
    assert end is not None
    assert end.at == after(hours=8)
    assert end.near(after(hours=7)) is None
    assert end.near(after(hours=7, minutes=52)) == "ends in about 8 min: it will have run for 8h (max_lifetime)"
    assert end.told(after(hours=3)).startswith("ends in about 5 h: ")


def test_the_supervisor_is_asked_only_where_it_may_have_said_something() -> None:
    assert lasting.asked_since({"max_lifetime": 60.0}, STARTED, after(days=1)) is None
    assert lasting.asked_since({"idle_timeout": 86400.0}, STARTED, after(hours=23)) is None
    late = after(hours=23, minutes=50)
    since = lasting.asked_since({"idle_timeout": 86400.0}, STARTED, late)
    assert since is not None
    assert since <= late - timedelta(minutes=11)
    assert lasting.asked_since(BY_AGENT, STARTED, after(hours=1)) is None
    assert lasting.asked_since(BY_AGENT, STARTED, after(hours=1, minutes=50)) is not None


def line(event: str, **fields: Any) -> str:
    return json.dumps({"event": event, **fields, "time": after(hours=2).isoformat(timespec="milliseconds")})


def test_that_it_ends_as_unused_is_known_from_the_supervisors_last_word() -> None:
    ending = line("ending", limit="idle_timeout", seconds=540, text="x")
    said = endings.last_word_on_its_end(f"{line('started')}\n{ending}\n{line('ended', text='y')}")
    end = lasting.by_word(BY_AGENT, said)
    assert end is not None
    expected = "ends in about 8 min: nobody is connected and nothing runs (idle_timeout 1d)"
    assert end.near(after(hours=2, minutes=1)) == expected
    agents = line("ending", limit="idle_timeout_of_agents", seconds=540, text="x")
    end = lasting.by_word(BY_AGENT, endings.last_word_on_its_end(f"{ending}\n{agents}"))
    assert end is not None
    assert "(idle_timeout 2h where only agents ever were)" in end.why
    assert end.near(after(hours=2, minutes=8)) == f"ends in about 60 s: {end.why}"
    assert end.near(after(hours=3)) == f"ends in about 0 s: {end.why}"


@pytest.mark.parametrize(
    "last",
    [
        "",
        line("stays", limit="idle_timeout", text="x"),
        line("ending", limit="max_lifetime", seconds=1, text="x"),
        line("ending", limit="other", seconds=1),
        line("ending", limit="idle_timeout", seconds="soon"),
        '{"event": "ending", "limit": "idle_timeout", "seconds": 5, "time": "today"}',
    ],
)
def test_any_other_word_foretells_nothing(last: str) -> None:
    said = f"{line('ending', limit='idle_timeout', seconds=540, text='x')}\n{last}" if "stays" in last else last
    assert lasting.by_word(BY_AGENT, endings.last_word_on_its_end(said)) is None


def test_spans_are_told_as_a_person_would() -> None:
    end = End(after(hours=8), timedelta(minutes=10), "X")
    for left, span in ((5, "5 s"), (89, "89 s"), (480, "8 min"), (5000, "83 min"), (7200, "2 h")):
        assert end.told(end.at - timedelta(seconds=left)) == f"ends in about {span}: X"
