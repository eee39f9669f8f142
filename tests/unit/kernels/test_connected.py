"""What is known of a connected kernel: when it ends, and that this is said in time and once."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, cast

import pytest

from bridge import moments
from bridge.audit import Audit
from bridge.kernels.connected import Connected
from bridge.launchers import End
from bridge.session import KernelSession


class Jumped(datetime):
    """A wall clock that was set."""

    by = timedelta()

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Any:
        return datetime.now(tz) + cls.by


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The wall clock, and the one that goes on in sleep, each to be moved by itself."""
    moved: dict[str, Any] = {"age": 0.0}
    real = time.clock_gettime
    monkeypatch.setattr(time, "clock_gettime", lambda which: real(which) + moved["age"])
    monkeypatch.setattr(moments, "datetime", Jumped)
    monkeypatch.setattr(Jumped, "by", timedelta())
    return moved


@pytest.fixture
def lab(clocks: dict[str, Any]) -> Connected:
    """A sandbox that ends in an hour."""
    end = End(datetime.now(UTC) + timedelta(hours=1), timedelta(minutes=6), "it is old")
    session = cast("KernelSession", None)  # nothing is asked of it
    audit = cast("Audit", None)  # nor told
    return Connected("lab", Path("lab.json"), session, "k", "lab", supervised=True, audit=audit, end=end)


def test_its_end_is_told_when_it_is_near_and_once(lab: Connected, clocks: dict[str, Any]) -> None:
    clocks["age"] = 3600.0 - 420
    assert lab.take_notices() == ()
    clocks["age"] = 3600.0 - 300
    [told] = lab.take_notices()
    assert told.startswith("Sandbox lab ends in about 5 min: it is old.")
    assert lab.take_notices() == ()


@pytest.mark.parametrize("by", [timedelta(hours=2), -timedelta(hours=2)], ids=["ahead", "back"])
def test_setting_the_clock_changes_nothing_of_when_its_end_is_told(
    lab: Connected, clocks: dict[str, Any], by: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Jumped, "by", by)
    assert lab.take_notices() == ()
    clocks["age"] = 3600.0 - 300
    [told] = lab.take_notices()
    assert told.startswith("Sandbox lab ends in about 5 min: it is old.")
