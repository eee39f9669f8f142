"""An owner's lock and its guard, which has it too."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bridge.errors import NameTaken
from bridge.ide import owning
from bridge.ide.guard import Guard
from bridge.ide.owning import own

NO_ENGINE = "unix:///no/such.sock"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owning, "PATIENCE", 0.0)


def test_a_name_has_one_owner_until_it_is_released(tmp_path: Path) -> None:
    first = asyncio.run(own("a", tmp_path))
    with pytest.raises(NameTaken, match="Another IDE owns sandbox a"):
        asyncio.run(own("a", tmp_path))
    asyncio.run(own("b", tmp_path)).release()
    first.release()
    asyncio.run(own("a", tmp_path)).release()


def test_a_guard_has_the_lock_until_it_has_done_its_work(tmp_path: Path) -> None:
    owner = asyncio.run(own("a", tmp_path))
    guard = Guard("a", NO_ENGINE, owner.lock)
    owner.release()
    with pytest.raises(NameTaken):
        asyncio.run(own("a", tmp_path))
    guard.release()
    asyncio.run(own("a", tmp_path)).release()


def test_a_guard_whose_owner_is_gone_ends_also_where_no_engine_answers(tmp_path: Path) -> None:
    owner = asyncio.run(own("a", tmp_path))
    guard = Guard("a", NO_ENGINE, owner.lock)
    owner.release()
    guard._process.communicate(timeout=60)
    assert guard._process.returncode == 0
    asyncio.run(own("a", tmp_path)).release()


def test_a_guard_of_a_name_that_is_nobody_elses_needs_no_lock() -> None:
    guard = Guard("a", NO_ENGINE)
    guard.release()
    assert guard._process.returncode == 0
