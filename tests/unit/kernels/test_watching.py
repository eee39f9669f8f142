"""What is told of the others' cells: bounded, in order, nothing twice and nothing lost between two answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import UsageError
from bridge.journal import Journal, Record
from bridge.kernels.activity import Activity
from bridge.kernels.listing import Status
from bridge.kernels.watching import CELLS, Watched, activity
from bridge.looking.names import NameChanges
from bridge.outputs import DisplayData, Error, Stream

SIZE = 48 * 1024


@pytest.fixture
def journal() -> Iterator[Journal]:
    made = Journal(None)
    yield made
    made.close()


def begun(journal: Journal, code: str, *, name: str = "lab", kernel: str = "k1", number: int | None = None) -> Record:
    return journal.book(name).begin(
        kernel=kernel, msg_id="s_1_2", code=code, client="s", username="alice", number=number
    )


def ran(journal: Journal, code: str, output: str = "", **where: Any) -> None:
    record = begun(journal, code, **where)
    if output:
        record.add(Stream("stdout", output))
    record.end("ok", None)


def seen(journal: Journal, since: str | None = None, *, size: int = SIZE, names: NameChanges | None = None) -> Activity:
    status = Status("lab", "host", "idle", (), 2, "python 3.13", "/run/lab.json")
    watched = Watched(status, {"k1": 1, "k2": 2}, datetime.now(UTC), names)
    return activity(journal, watched, since=since, size=size)


def codes(told: Activity) -> list[str | None]:
    return [each.code for each in told.cells]


def test_an_answer_goes_on_where_the_one_before_ended(journal: Journal) -> None:
    ran(journal, "a")
    first = seen(journal)
    assert codes(first) == ["a"]
    assert codes(seen(journal, first.cursor)) == []
    ran(journal, "b")
    second = seen(journal, first.cursor)
    assert codes(second) == ["b"]
    assert codes(seen(journal, second.cursor)) == []


def test_a_cell_is_told_while_it_runs_and_once_more_when_it_has_ended(journal: Journal) -> None:
    record = begun(journal, "long()")
    record.add(Stream("stdout", "so far\n"))
    record.write()
    first = seen(journal)
    assert codes(first) == []
    assert [(each.code, each.outcome, each.output) for each in first.running] == [("long()", "running", "so far")]
    ran(journal, "beside()")
    second = seen(journal, first.cursor)
    assert codes(second) == ["beside()"]
    record.end("error", None)
    third = seen(journal, second.cursor)
    assert [(each.code, each.outcome) for each in third.cells] == [("long()", "error")]
    assert third.running == ()


def test_a_cell_has_the_number_that_the_user_sees(journal: Journal) -> None:
    record = begun(journal, "a")
    record.start(7)
    record.end("ok", 7)
    ran(journal, "of which no number came")
    assert [each.count for each in seen(journal).cells] == [7, None]


def test_what_was_asked_for_and_not_watched_is_told(journal: Journal) -> None:
    [_, note] = seen(journal, "2000-01-01").notes
    assert "ran before may be missing" in note
    assert "kernel-bridge export lab" in note
    assert "missing" not in "".join(seen(journal).notes)
    assert "missing" not in "".join(seen(journal, "2100-01-01").notes)


def test_our_own_cells_and_those_of_other_kernels_are_left_out(journal: Journal) -> None:
    ran(journal, "ours", number=1)
    ran(journal, "of another kernel", name="other")
    ran(journal, "of an earlier kernel by that name", kernel="k0")
    ran(journal, "theirs")
    assert codes(seen(journal)) == ["theirs"]


def test_cells_before_and_after_a_restart_are_told_apart(journal: Journal) -> None:
    ran(journal, "before", kernel="k1")
    ran(journal, "after", kernel="k2")
    assert [(each.code, each.epoch) for each in seen(journal).cells] == [("before", 1), ("after", 2)]


def test_without_since_the_newest_are_told_and_with_it_all_in_pages(journal: Journal) -> None:
    start = seen(journal).cursor
    for number in range(3 * CELLS + 7):
        ran(journal, str(number))
    newest = seen(journal)
    assert codes(newest) == [str(number) for number in range(2 * CELLS + 7, 3 * CELLS + 7)]
    assert newest.left_out == 2 * CELLS + 7
    read: list[str | None] = []
    page = seen(journal, start)
    while page.left_out:
        read += codes(page)
        page = seen(journal, page.cursor)
    read += codes(page)
    assert read == [str(number) for number in range(3 * CELLS + 7)]


@pytest.mark.parametrize("since", [None, "2000-01-01"])
def test_an_answer_stays_within_its_size_and_says_how_many_are_missing(journal: Journal, since: str | None) -> None:
    for number in range(20):
        ran(journal, f"# {number}\n" + "code\n" * 1000, "output\n" * 1000)
    told = seen(journal, since, size=8192)
    assert len(json.dumps(asdict(told), indent=2, default=str).encode()) <= 8192
    assert 0 < len(told.cells) < 20
    assert told.left_out + len(told.cells) == 20


def test_one_cell_is_told_even_where_there_is_room_for_none(journal: Journal) -> None:
    ran(journal, "code\n" * 1000, "output\n" * 1000)
    ran(journal, "next")
    told = seen(journal, "2000-01-01", size=2048)
    assert [len(each.code or "") < 600 for each in told.cells] == [True]
    assert codes(seen(journal, told.cursor)) == ["next"]


def test_of_a_long_output_the_start_and_the_end_are_told(journal: Journal) -> None:
    record = begun(journal, "flood()")
    for number in range(50_000):
        record.add(Stream("stdout", f"line {number}\n"))
    record.add(Error("ValueError", "at last", ("Traceback", "\x1b[31mValueError\x1b[0m: at last")))
    record.end("error", None)
    [cell] = seen(journal).cells
    assert cell.output.startswith("line 0\n")
    assert "more bytes, at their end:" in cell.output
    assert cell.output.endswith("ValueError: at last")
    assert len(cell.output.encode()) <= 1000


def test_images_are_named_and_not_sent(journal: Journal) -> None:
    record = begun(journal, "plot()")
    record.add(DisplayData({"image/png": "A" * 4000, "text/plain": "<Figure>"}))
    record.add(DisplayData({"text/html": "<b>x</b>"}))
    record.add(DisplayData({"text/plain": "plain"}))
    record.end("ok", None)
    assert seen(journal).cells[0].output == (
        "[image/png (3000 bytes): kernel-bridge://kernels/lab/cells/1/outputs/0]\n"
        "[text/html (6 bytes): kernel-bridge://kernels/lab/cells/1/outputs/1]\nplain"
    )


def test_what_a_terminal_overwrites_is_not_told(journal: Journal) -> None:
    ran(journal, "bar()", "10%\r20%\r\x1b[32m100%\x1b[0m\n")
    assert seen(journal).cells[0].output == "100%"


def test_a_cell_whose_code_nobody_saw_has_none(journal: Journal) -> None:
    ran(journal, "", "late\n")
    assert [(each.code, each.output) for each in seen(journal).cells] == [(None, "late")]


def test_the_client_and_the_duration_are_told(journal: Journal) -> None:
    ran(journal, "x")
    [cell] = seen(journal).cells
    assert (cell.username, cell.session, cell.client) == ("alice", "s", "jupyter_client (a console, Spyder, nbclient)")
    assert cell.began.tzinfo is UTC
    assert 0 <= cell.seconds < 5


@pytest.mark.parametrize("since", ["yesterday", "", "17", "12:00"])
def test_what_is_no_time_is_refused_with_an_example(journal: Journal, since: str) -> None:
    with pytest.raises(UsageError, match=r"is not a time.*`cursor`.*T\d\d:"):
        seen(journal, since)


def test_a_clock_that_is_set_back_loses_no_cell(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    first = seen(journal)
    monkeypatch.setattr("time.time", lambda: 1_000_000_000.0)
    ran(journal, "after the clock was set back")
    assert codes(seen(journal, first.cursor)) == ["after the clock was set back"]


def test_a_journal_on_disk_tells_the_same(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    ran(journal, "a")
    first = seen(journal)
    ran(journal, "b")
    assert (codes(first), codes(seen(journal, first.cursor))) == (["a"], ["b"])
    journal.close()
