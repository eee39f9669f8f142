"""How a container or a kernel ended, in one sentence."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from bridge.launchers.docker import endings


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({"ExitCode": 137, "OOMKilled": True}, "killed: out of memory (2 GiB)"),
        ({"ExitCode": 137, "OOMKilled": False}, "killed from outside (SIGKILL)"),
        ({"ExitCode": 0, "OOMKilled": True}, "stopped from outside"),
        ({"ExitCode": 143}, "ended by signal 15 (SIGTERM)"),
        ({"ExitCode": 200}, "ended by signal 72"),
        ({"ExitCode": 2}, "its supervisor ended with exit status 2"),
        ({"ExitCode": 127, "Error": "no such file"}, "it could not be run: no such file"),
    ],
)
def test_an_ending_says_what_is_known_and_no_more(state: dict[str, object], sentence: str) -> None:
    said = endings.container_ending({"State": state, "HostConfig": {"Memory": 2 << 30}})
    assert said.startswith(sentence)
    assert "\n" not in said


def line(event: str, text: str, second: int) -> str:
    return json.dumps({"event": event, "text": text, "time": f"2026-11-23T10:00:{second:02}.000+00:00"})


LINES = "\n".join(
    [
        line("started", "x", 1),
        line("ended", "the first", 2),
        line("started", "x", 3),
        line("ended", "the second", 4),
        line("started", "x", 5),
        "not json",
        "[]",
        "",
    ]
)


def test_the_last_ending_of_the_kernel_is_the_last_one_in_the_log() -> None:
    assert endings.last_kernel_ending(LINES) == "the second"
    assert endings.last_kernel_ending("") is None
    assert endings.last_kernel_ending(line("started", "x", 1)) is None


def test_an_ending_from_before_the_moment_asked_about_is_not_told() -> None:
    assert endings.last_kernel_ending(LINES, datetime(2026, 11, 23, 10, 0, 4, tzinfo=UTC)) == "the second"
    assert endings.last_kernel_ending(LINES, datetime(2026, 11, 23, 10, 0, 5, tzinfo=UTC)) is None


def test_why_a_supervisor_gave_up_is_in_its_own_words() -> None:
    assert endings.failure(line("failed", "no line came", 1)) == "no line came"
    assert endings.failure(LINES) is None
