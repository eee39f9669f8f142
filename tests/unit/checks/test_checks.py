"""Checks run beside each other, and none hides another."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from bridge.checks import Check, Finding, run, size
from bridge.errors import UsageError

GOOD = Finding("good", "ok", "fine")


def test_a_check_that_hangs_or_fails_hides_neither_the_others_nor_what_it_had_found() -> None:
    never = threading.Event()

    def hangs() -> Iterator[Finding]:
        yield Finding("slow", "ok", "the first half")
        never.wait()

    def fails() -> Iterator[Finding]:
        yield Finding("broken", "ok", "the first half")
        raise KeyError("a secret")

    def refuses() -> Iterator[Finding]:
        raise UsageError("One sentence.")
        yield GOOD

    def denied() -> Iterator[Finding]:
        raise PermissionError(13, "Permission denied", "/etc/x")
        yield GOOD

    started = time.monotonic()
    found = run(
        [
            Check("slow", hangs, late="fail"),
            Check("broken", fails),
            Check("refuses", refuses),
            Check("denied", denied),
            Check("good", lambda: [GOOD]),
        ],
        patience=0.3,
    )
    assert time.monotonic() - started < 5
    never.set()
    assert [(each.check, each.level) for each in found] == [
        ("slow", "ok"),
        ("slow", "fail"),
        ("broken", "ok"),
        ("broken", "warn"),
        ("refuses", "warn"),
        ("denied", "warn"),
        ("good", "ok"),
    ]
    assert "0.3 s" in found[1].found
    assert "KeyError" in found[3].found
    assert not any("secret" in each.found for each in found)
    assert "One sentence." in found[4].found
    assert "Permission denied (/etc/x)" in found[5].found
    assert all(each.cure for each in found if each.level != "ok")


def test_a_size_is_rounded_down_to_what_a_person_reads() -> None:
    assert [size(each) for each in (0, 2**20 - 1, 5 * 2**20, 3 * 2**30 - 1)] == ["0B", "0B", "5MiB", "2GiB"]
