"""What several bridges saw, read together: each cell once, in order, whatever else lies there."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.journal import Journal, Record
from bridge.journals import Entry, History, Journals, Missing
from bridge.outputs import DisplayData, ExecuteResult, Stream

MiB = 1 << 20
Bridge = Callable[..., Journal]


@pytest.fixture
def bridge(tmp_path: Path) -> Iterator[Bridge]:
    """Make the journal of one more bridge."""
    made: list[Journal] = []

    def make(limit: int = 64 * MiB) -> Journal:
        made.append(Journal(tmp_path, limit))
        return made[-1]

    yield make
    for each in made:
        each.close()


def begin(journal: Journal, msg_id: str, *, kernel: str = "p1", fingerprint: str = "f1", **more: Any) -> Record:
    known = {"code": f"code of {msg_id}", "client": "c", "username": "alice", **more}
    book = journal.book("lab", fingerprint=fingerprint, spec="python3")
    return book.begin(kernel=kernel, msg_id=msg_id, **known)


def read(directory: Path, choose: int = 0) -> tuple[History, list[Entry], list[list[Any]], list[str]]:
    journals = Journals(directory)
    history = journals.histories()[choose]
    entries = journals.entries(history)
    return history, entries, [list(each.outputs()) for each in entries], journals.troubles


def test_a_cell_of_which_one_bridge_saw_the_begin_and_another_one_the_end_is_there_once_and_whole(
    bridge: Bridge, tmp_path: Path
) -> None:
    ours, theirs = bridge(), bridge()
    late = begin(theirs, "m1", code="", client="", username="")
    late.add(Stream("stdout", "end\n"))
    late.write()
    late.end("ok", None)
    record = begin(ours, "m1", code="long()", number=7)
    record.start(3)
    record.add(Stream("stdout", "begin\nmiddle\n"))
    record.write()
    ours.close()
    _, [entry], [outputs], _ = read(tmp_path)
    assert outputs == [Stream("stdout", "begin\nmiddle\n")]
    cell = entry.cell
    assert (cell.code, cell.username, cell.client, cell.number, cell.count) == ("long()", "alice", "c", 7, 3)
    assert (cell.status, entry.has_begin, entry.is_going_on) == ("ok", True, False)
    assert cell.ended is not None


def test_the_larger_output_is_taken_also_where_it_is_not_of_the_bridge_that_saw_the_begin(
    bridge: Bridge, tmp_path: Path
) -> None:
    ours, theirs = bridge(), bridge()
    begin(ours, "m0").end("ok", 1)
    begin(ours, "m1")
    late = begin(theirs, "m1", code="")
    late.add(Stream("stdout", "all the rest\n"))
    late.write()
    _, [_, entry], [_, outputs], _ = read(tmp_path)
    assert outputs == [Stream("stdout", "all the rest\n")]
    assert (entry.cell.code, entry.is_going_on) == ("code of m1", True)


def test_a_bridge_that_still_waits_knows_more_than_one_that_lost_the_kernel(bridge: Bridge, tmp_path: Path) -> None:
    lost, waits = begin(bridge(), "m1"), begin(bridge(), "m1")
    lost.add(Stream("stdout", "so far"))
    lost.write()
    lost.end("lost", 1)
    assert [(each.cell.status, each.is_going_on) for each in read(tmp_path)[1]] == [("running", True)]
    waits.end("error", 1)
    assert [(each.cell.status, each.is_going_on) for each in read(tmp_path)[1]] == [("error", False)]


def test_it_is_known_that_nobody_saw_the_begin_of_a_cell_and_that_an_empty_one_was_empty(
    bridge: Bridge, tmp_path: Path
) -> None:
    journal = bridge()
    begin(journal, "late", code="").end("ok", None)
    begin(journal, "empty", code="").start(3)
    begin(journal, "empty and queued", code="", number=1)
    assert [each.has_begin for each in read(tmp_path)[1]] == [False, True, True]


def test_of_two_that_saw_the_end_the_one_with_more_output_is_taken(bridge: Bridge, tmp_path: Path) -> None:
    for text in ("a\n", "a\nb\n", ""):
        record = begin(bridge(), "m1")
        record.add(Stream("stdout", text))
        record.write()
        record.end("ok", 1)
    _, entries, [outputs], _ = read(tmp_path)
    assert len(entries) == 1
    assert outputs == [Stream("stdout", "a\nb\n")]


def test_cells_stand_in_the_order_in_which_the_kernel_began_them(bridge: Bridge, tmp_path: Path) -> None:
    ours, theirs = bridge(), bridge()
    waiting = begin(ours, "sent first")
    begin(theirs, "got in front").start(1)
    waiting.start(2)
    _, entries, _, _ = read(tmp_path)
    assert [each.cell.msg_id for each in entries] == ["got in front", "sent first"]


def test_restarts_are_one_history_and_another_kernel_of_the_name_is_another(bridge: Bridge, tmp_path: Path) -> None:
    first, second = bridge(), bridge()
    begin(first, "other", kernel="p0", fingerprint="f0")
    begin(first, "before")
    begin(second, "before")
    begin(second, "after", kernel="p2")
    history, entries, _, _ = read(tmp_path)
    assert [(each.cell.kernel, each.cell.msg_id) for each in entries] == [("p1", "before"), ("p2", "after")]
    assert (history.fingerprint, history.name, history.spec) == ("f1", "lab", "python3")
    assert [each.cell.msg_id for each in read(tmp_path, 1)[1]] == ["other"]


def test_what_a_living_bridge_has_is_read_and_whether_it_lives_is_known(bridge: Bridge, tmp_path: Path) -> None:
    journal = bridge()
    record = begin(journal, "m1")
    record.add(Stream("stdout", "so far"))
    record.write()
    _, [entry], [outputs], _ = read(tmp_path)
    assert outputs == [Stream("stdout", "so far")]
    assert entry.is_going_on
    journal.close()
    _, [entry], [outputs], _ = read(tmp_path)
    assert outputs == [Stream("stdout", "so far")]
    assert not entry.is_going_on


def test_reading_leaves_nothing_beside_what_an_ended_bridge_left(bridge: Bridge, tmp_path: Path) -> None:
    journal = bridge()
    begin(journal, "m1")
    journal.close()
    before = sorted(tmp_path.rglob("*"))
    read(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_cannot_be_read_is_named_and_the_rest_is_read(bridge: Bridge, tmp_path: Path) -> None:
    begin(bridge(), "m1")
    for name in ("garbage", "foreign", "fifo", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "garbage" / "cells.sqlite").write_bytes(b"no database " * 1000)
    with sqlite3.connect(tmp_path / "foreign" / "cells.sqlite") as other:
        other.execute("CREATE TABLE cells (something TEXT)")
    other.close()
    os.mkfifo(tmp_path / "fifo" / "cells.sqlite")
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "link").symlink_to(tmp_path / "garbage")
    _, entries, _, troubles = read(tmp_path)
    assert [each.cell.msg_id for each in entries] == ["m1"]
    assert len(troubles) == 6
    for name in ("garbage", "foreign", "fifo", "empty", "file", "link"):
        assert any(f"{tmp_path / name} cannot be read (" in each for each in troubles)


def test_a_file_that_is_damaged_in_the_middle_costs_what_was_there_and_no_more(bridge: Bridge, tmp_path: Path) -> None:
    damaged, sound = bridge(), bridge()
    record = begin(damaged, "m1")
    for number in range(40):
        record.add(DisplayData({"text/plain": f"{number}" * 30_000}))
    begin(sound, "m2")
    damaged.close()
    [file] = [each for each in tmp_path.glob("*/cells.sqlite") if each.stat().st_size > MiB]
    with file.open("r+b") as raw:
        raw.seek(16 * 32768)
        raw.write(b"\xff" * 4 * 32768)
    _, entries, outputs, _ = read(tmp_path)
    assert [each.cell.msg_id for each in entries] == ["m1", "m2"]
    assert Missing(0) in outputs[0]
    assert len(outputs[0]) > 1


def test_output_that_was_too_much_is_told_where_it_was_and_how_much(bridge: Bridge, tmp_path: Path) -> None:
    record = begin(bridge(4 * MiB), "m1")
    size = 0
    for number in range(10_000):
        text = f"{number:09d}\n" * 80
        size += len(text)
        record.add(Stream("stdout", text))
        record.write()
    record.end("ok", 1)
    _, _, [outputs], _ = read(tmp_path)
    [gap] = [number for number, each in enumerate(outputs) if isinstance(each, Missing)]
    assert 0 < gap < len(outputs) - 1
    assert sum(each.size if isinstance(each, Missing) else len(each.text) for each in outputs) == size


def test_what_was_cleared_is_not_missing(bridge: Bridge, tmp_path: Path) -> None:
    record = begin(bridge(), "m1")
    record.add(Stream("stdout", "old\n"))
    record.write()
    record.add(ExecuteResult({"text/plain": "x" * 200_000}, {}, 1))
    record.clear()
    record.add(ExecuteResult({"text/plain": "y" * 200_000}, {}, 1))
    _, _, [outputs], _ = read(tmp_path)
    assert outputs == [ExecuteResult({"text/plain": "y" * 200_000}, {}, 1)]


def test_a_cell_that_was_forgotten_meanwhile_is_told_as_missing(bridge: Bridge, tmp_path: Path) -> None:
    journal = bridge()
    record = begin(journal, "m1")
    record.add(Stream("stdout", "gone"))
    record.write()
    journals = Journals(tmp_path)
    [entry] = journals.entries(journals.histories()[0])
    record.forget()
    begin(journal, "m2").add(Stream("stdout", "of another cell under the same number"))
    assert list(entry.outputs()) == [Missing(0)]


def test_it_is_known_that_older_cells_made_room(bridge: Bridge, tmp_path: Path) -> None:
    journal = bridge(2 * MiB)
    for number in range(4):
        record = begin(journal, f"m{number}")
        record.add(Stream("stdout", "x" * MiB))
        record.write()
        record.end("ok", number)
        journals = Journals(tmp_path)
        assert journals.has_forgotten(journals.histories()[0]) is (number > 0)


def test_where_no_bridge_ever_ran_there_is_nothing(tmp_path: Path) -> None:
    journals = Journals(tmp_path / "none")
    assert journals.histories() == []
    assert journals.troubles == []


@pytest.fixture
def descriptors() -> Iterator[Callable[[int], None]]:
    """Let this process open only so many files more than it has open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def allow(more: int) -> None:
        # the bound is on the number of the highest one
        highest = max(int(each.name) for each in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + more, hard))

    yield allow
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_there_may_be_more_journals_of_one_kernel_than_files_may_be_open(
    tmp_path: Path, descriptors: Callable[[int], None]
) -> None:
    for number in range(60):
        journal = Journal(tmp_path, 64 * MiB)
        for msg_id in (f"m{number:02}", "all saw it"):
            record = begin(journal, msg_id)
            record.add(Stream("stdout", msg_id))
            record.write()
        journal.close()
    descriptors(8)
    _, entries, outputs, troubles = read(tmp_path)
    assert troubles == []
    assert sorted(each.cell.msg_id for each in entries) == ["all saw it", *(f"m{each:02}" for each in range(60))]
    assert outputs == [[Stream("stdout", each.cell.msg_id)] for each in entries]


def test_where_no_file_can_be_opened_a_sentence_says_so(
    bridge: Bridge, tmp_path: Path, descriptors: Callable[[int], None]
) -> None:
    begin(bridge(), "m1").add(Stream("stdout", "x"))
    journals = Journals(tmp_path)
    [history] = journals.histories()
    [entry] = journals.entries(history)
    filled = [os.open(tmp_path, os.O_RDONLY)]
    descriptors(0)
    try:
        with contextlib.suppress(OSError):
            while True:
                filled.append(os.open(tmp_path, os.O_RDONLY))
        assert list(entry.outputs()) == [Missing(0)]
        assert journals.entries(history) == []
        assert len(journals.troubles) == 1
        [trouble] = Journals(tmp_path).troubles
        assert "Too many open files" in trouble
    finally:
        for each in filled:
            os.close(each)


def test_a_journal_that_is_removed_meanwhile_is_told_and_the_rest_is_read(bridge: Bridge, tmp_path: Path) -> None:
    gone = bridge()
    begin(gone, "m1").add(Stream("stdout", "x"))
    begin(bridge(), "m2")
    journals = Journals(tmp_path)
    [history] = journals.histories()
    [entry, _] = journals.entries(history)
    shutil.rmtree(entry.seen.file.parent)
    assert list(entry.outputs()) == [Missing(0)]
    assert [each.cell.msg_id for each in journals.entries(history)] == ["m2"]
    assert len(journals.troubles) == 1
