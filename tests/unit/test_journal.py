"""What is kept on disk: all of it, bounded, readable by others, and never an error of the cell."""

from __future__ import annotations

import contextlib
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge import journal_file as kept
from bridge.journal import Journal, Page, Record
from bridge.journal_file import FILE, LOCKED, is_held
from bridge.outputs import DisplayData, Error, ExecuteResult, Output, Stream

MiB = 1 << 20


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal", 64 * MiB, page=4096)
    yield made
    made.close()


def begin(journal: Journal, code: str = "code", *, kernel: str = "k1", **more: Any) -> Record:
    known = {"msg_id": "m", "client": "c", "username": "alice", **more}
    return journal.book("lab").begin(kernel=kernel, code=code, **known)


def pages(record: Record, *, text: int = 4096, size: int = MiB, cursor: int = 0) -> Iterator[Page]:
    """Read page by page to the end, as a client does."""
    while True:
        page = record.page(cursor, text=text, size=size)
        assert page is not None
        yield page
        if not page.remaining:
            return
        assert page.cursor > cursor, "each page goes on"
        cursor = page.cursor


def written(outputs: Iterator[Output]) -> str:
    return "".join(each.text for each in outputs if isinstance(each, Stream))


def everything(record: Record, **budget: int) -> list[Output]:
    return [output for page in pages(record, **budget) for output in page.outputs]


def test_all_that_was_printed_is_read_page_by_page_and_nothing_twice(journal: Journal) -> None:
    record = begin(journal)
    lines = [f"line {number} é\n" for number in range(20_000)]
    for line in lines:
        record.add(Stream("stdout", line))
    found = list(pages(record))
    assert len(found) > 50
    assert all(len(written(iter(page.outputs)).encode()) <= 4096 for page in found)
    assert "".join(written(iter(page.outputs)) for page in found) == "".join(lines)
    assert all(written(iter(page.outputs)).endswith("\n") for page in found), "pages end where lines do"


def test_one_line_of_ten_megabytes_is_read_in_pages_too(journal: Journal) -> None:
    record = begin(journal)
    text = "0123456789" * MiB
    record.add(Stream("stdout", text))
    assert written(iter(everything(record, text=256 * 1024))) == text


def test_characters_that_grow_when_shown_still_fit_the_page(journal: Journal) -> None:
    record = begin(journal)
    record.add(Stream("stdout", "\0" * 50_000))
    for page in pages(record):
        assert 3 * len(written(iter(page.outputs))) <= 4096


def test_a_long_value_and_a_long_traceback_are_read_in_parts(journal: Journal) -> None:
    record = begin(journal)
    record.add(ExecuteResult({"text/plain": "v" * 20_000}, {}, 3))
    record.add(Error("E", "m", ("t" * 20_000, "last")))
    outputs = everything(record)
    values = [each.data["text/plain"] for each in outputs if isinstance(each, ExecuteResult)]
    lines = [line for each in outputs if isinstance(each, Error) for line in each.traceback]
    assert ("".join(values), len(values) > 1) == ("v" * 20_000, True)
    assert ("".join(lines), len(lines) > 2) == ("t" * 20_000 + "\nlast", True)


def test_every_kind_of_output_comes_back_as_it_was(journal: Journal) -> None:
    outputs: list[Output] = [
        Stream("stdout", "out \ud800 \0\n"),
        Stream("stderr", "err"),
        DisplayData({"text/plain": "d", "image/png": "aGk="}, {"image/png": {"width": 3}}),
        ExecuteResult({"application/json": {"a": [1, None]}}, {}, 7),
        Error("E", "v", ("\x1b[31mt1", "t2")),
    ]
    record = begin(journal)
    for output in outputs:
        record.add(output)
    assert everything(record) == outputs


def test_a_reader_goes_on_where_it_was_while_the_cell_runs(journal: Journal) -> None:
    record = begin(journal)
    record.add(Stream("stdout", "first\n"))
    cursor = record.cursor
    record.add(Stream("stdout", "second\n"))
    page = record.page(cursor, text=4096, size=MiB)
    assert page == Page((Stream("stdout", "second\n"),), 2, 0, 0)


def test_what_the_cell_cleared_is_gone_and_cursors_stay_true(journal: Journal) -> None:
    record = begin(journal)
    record.add(Stream("stdout", "old\n"))
    cursor = record.cursor
    record.clear()
    record.add(Stream("stdout", "new\n"))
    assert everything(record) == [Stream("stdout", "new\n")]
    assert next(pages(record, cursor=cursor)).outputs == (Stream("stdout", "new\n"),)


def test_a_display_is_updated_where_it_is_also_in_an_earlier_cell_but_not_in_another_kernel(journal: Journal) -> None:
    first, other, second = begin(journal), begin(journal, kernel="k2"), begin(journal)
    for record in (first, other):
        record.add(DisplayData({"text/plain": "old"}), "d1")
    second.update("d1", DisplayData({"text/plain": "new"}))
    assert everything(first) == [DisplayData({"text/plain": "new"})]
    assert everything(other) == [DisplayData({"text/plain": "old"})]
    assert everything(second) == []


def test_cells_of_others_are_told_with_who_ran_them_and_how_they_ended(journal: Journal) -> None:
    record = begin(journal, "1/0", username="bob\ud800")
    running = record.read()
    assert running is not None
    assert (running.status, running.ended) == ("running", None)
    record.end("error", 4)
    (cell,) = journal.cells("kernel = ? AND number IS NULL", "k1")
    assert (cell.code, cell.username, cell.status, cell.count) == ("1/0", "bob?", "error", 4)
    assert cell.ended
    assert cell.ended >= cell.began


def test_the_oldest_cells_make_room_for_new_ones(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 4 * MiB)
    records = [begin(journal, f"cell {number}") for number in range(8)]
    for record in records:
        record.add(Stream("stdout", "x" * MiB))
        record.end("ok", 1)
    assert records[0].read() is None
    assert records[0].page(0, text=10, size=10) is None
    assert written(iter(everything(records[-1]))) == "x" * MiB
    assert 2 <= len(list(journal.cells("1"))) <= 4
    journal.close()


def test_a_cell_that_alone_is_too_much_keeps_its_start_and_its_end_and_the_loss_is_counted(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 4 * MiB)
    record = begin(journal)
    size = 0
    for number in range(20_000):
        text = f"{number:09d}\n" * 50
        size += len(text)
        record.add(Stream("stdout", text))
    text = written(iter(everything(record)))
    (page, *_) = pages(record)
    assert f"\n… {page.missing} bytes are missing here: too much to keep …\n" in text
    text = text.replace(f"\n… {page.missing} bytes are missing here: too much to keep …\n", "")
    assert page.remaining < 4 * MiB
    assert text.startswith("000000000\n")
    assert text.endswith("000019999\n")
    assert len(text) + page.missing == size
    assert MiB < len(text) < 4 * MiB
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < 12 * MiB
    journal.close()


def test_nobody_else_can_read_it_and_other_processes_of_the_user_can_while_it_is_written(
    journal: Journal, tmp_path: Path
) -> None:
    record = begin(journal, "secret = 1")
    (file,) = (tmp_path / "journal").glob("*/cells.sqlite")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    reader = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    assert reader.execute("SELECT code FROM cells").fetchall() == [(b"secret = 1",)]
    record.add(Stream("stdout", "x" * 10_000))
    assert reader.execute("SELECT count(*) FROM outputs").fetchone()[0] > 0
    reader.close()


def test_what_ended_bridges_kept_goes_first_and_that_of_living_ones_stays(tmp_path: Path) -> None:
    ended, alive = Journal(tmp_path, 8 * MiB), Journal(tmp_path, 8 * MiB)
    for journal in (ended, alive):
        begin(journal).add(Stream("stdout", "x" * 4 * MiB))
    ended.close()
    assert len(list(tmp_path.iterdir())) == 2
    third = Journal(tmp_path, 2 * MiB)
    begin(third)
    assert len(list(tmp_path.iterdir())) == 2
    assert written(iter(everything(begin(alive)))) == ""
    for journal in (alive, third):
        journal.close()


def test_one_directory_that_cannot_be_looked_into_does_not_keep_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "0 sealed").mkdir()
    (tmp_path / "1 with a link to nothing").mkdir()
    (tmp_path / "1 with a link to nothing" / "link").symlink_to(tmp_path / "nothing")
    ended = Journal(tmp_path, 8 * MiB)
    begin(ended).add(Stream("stdout", "x" * 6 * MiB))
    ended.close()

    def held(directory: Path) -> bool:
        if directory.name == "0 sealed":  # a mode does not stop a superuser
            raise PermissionError(13, "Permission denied")
        return is_held(directory)

    monkeypatch.setattr("bridge.journal_file.is_held", held)
    started = Journal(tmp_path, 4 * MiB)
    begin(started)
    [sealed, living] = sorted(tmp_path.iterdir())
    assert sealed.name == "0 sealed"
    assert is_held(living)
    started.close()


def test_of_very_many_ended_bridges_the_oldest_go_however_little_they_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.journal_file.ENDED", 3)
    for number in range(6):
        (tmp_path / f"20250101T00000{number}-0").mkdir()
    started = Journal(tmp_path, 4 * MiB)
    begin(started)
    assert [each.name[:15] for each in sorted(tmp_path.iterdir())][:-1] == [
        f"20250101T00000{each}" for each in (3, 4, 5)
    ]
    started.close()


def test_a_bridge_that_saw_nothing_leaves_nothing(tmp_path: Path) -> None:
    Journal(tmp_path / "journal", MiB).close()
    assert not (tmp_path / "journal").exists()
    journal = Journal(tmp_path / "journal", MiB)
    begin(journal).forget()
    journal.close()
    assert list((tmp_path / "journal").iterdir()) == []


def test_where_no_directory_can_be_made_little_is_kept_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    journal = Journal(tmp_path / "file" / "journal", 1 << 40)
    record = begin(journal)
    record.add(Stream("stdout", "x" * 100))
    assert everything(record) == [Stream("stdout", "x" * 100)]
    assert journal.problem is not None
    for _ in range(3):
        begin(journal).add(Stream("stdout", "y" * 12 * MiB))
    assert sum(len(code) for (code,) in journal._file.rows("SELECT body FROM outputs")) <= 16 * MiB
    journal.close()


def test_a_full_disk_is_counted_and_not_raised(journal: Journal) -> None:
    record = begin(journal)
    record.add(Stream("stdout", "kept\n" * 2000))
    record.cursor  # noqa: B018 - writes what waits
    # the database's own bound stands for the disk's: SQLite fails with the same error, SQLITE_FULL
    pages_now = journal._file.scalar("PRAGMA page_count")
    journal._file.database().execute(f"PRAGMA max_page_count = {pages_now}")
    record.add(Stream("stdout", "lost\n" * 100_000))
    record.add(DisplayData({"text/plain": "lost too"}))
    page = record.page(0, text=4096, size=MiB)
    assert page is not None
    assert written(iter(page.outputs)).startswith("kept\n")
    assert page.missing >= 500_000 - 4096 * 20
    assert "could be kept" in str(record.trouble)
    assert "full" in str(journal.problem)
    assert begin(journal, "x" * MiB).page(0, text=10, size=10) is None


def test_anothers_lock_holds_nothing_up_for_long_and_what_it_costs_is_told(journal: Journal, tmp_path: Path) -> None:
    record, other = begin(journal), begin(journal)
    record.add(Stream("stdout", "before\n"))
    record.write()
    (file,) = tmp_path.rglob(FILE)
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        for number in range(100):
            record.add(Stream("stdout", f"meanwhile {number}\n"))
            record.write()
        other.end("ok", 7)
        unknown = begin(journal)
        assert time.monotonic() - started < 3
        assert LOCKED in str(record.trouble)
        foreign.execute("ROLLBACK")
    record.add(Stream("stdout", "after\n"))
    record.end("ok", 1)
    page = record.page(0, text=4096, size=MiB)
    assert page is not None
    assert page.missing == sum(len(f"meanwhile {number}\n") for number in range(100))
    texts = written(iter(page.outputs))
    assert texts.startswith("before\n")
    assert texts.endswith("after\n")
    assert f"{page.missing} bytes are missing here" in texts
    ended = other.read()
    assert ended is not None
    assert (ended.status, ended.count, ended.ended is None) == ("ok", 7, False)
    assert LOCKED in str(unknown.trouble)
    assert journal.problem == LOCKED


@contextlib.contextmanager
def locked(tmp_path: Path) -> Iterator[None]:
    """Have another program hold a lock on the journal's file."""
    (file,) = tmp_path.rglob(FILE)
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        yield
        foreign.execute("ROLLBACK")


def test_of_a_lock_that_costs_nothing_nothing_is_told(journal: Journal, tmp_path: Path) -> None:
    record = begin(journal)
    with locked(tmp_path):
        record.start(1)
        record.ask("who? ")
        record.end("ok", 1)
    record.ask_no_more()
    assert (record.trouble, journal.problem) == (None, None)
    ended = record.read()
    assert ended is not None
    assert (ended.status, ended.count) == ("ok", 1)


def test_what_cannot_be_written_behind_a_lock_keeps_nothing_else_from_being_written(
    journal: Journal, tmp_path: Path
) -> None:
    record = begin(journal)
    with locked(tmp_path):
        record.miss(5)
        record.start(2**70)  # no number of SQLite's
        journal._file._owed.append(("UPDATE cells SET count = ? WHERE id = ?", (2**70, record.cell)))
        record.end("ok", 3)
    later = begin(journal)
    later.add(Stream("stdout", "later"))
    assert everything(later) == [Stream("stdout", "later")]
    assert "too large" in str(journal.problem)
    ended = record.read()
    assert ended is not None
    assert (ended.status, ended.count) == ("ok", 3)


def test_a_journal_is_closed_whatever_is_owed_and_what_is_lost_is_told(journal: Journal, tmp_path: Path) -> None:
    record = begin(journal)
    with locked(tmp_path):
        record.end("ok", 1)
        assert journal.problem is None
        journal.close()
        assert journal.problem == LOCKED


def test_what_is_too_much_to_be_owed_is_told(journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "OWED", 2)
    first, second, third = begin(journal), begin(journal), begin(journal)
    with locked(tmp_path):
        first.end("ok", 1)
        second.end("ok", 2)
        assert journal.problem is None
        third.end("ok", 3)
        assert journal.problem == LOCKED
    assert [each.status for each in journal.cells("1")] == ["running"] * 3
    journal.know("k9", "", "", "{}")
    assert [each.status for each in journal.cells("1")] == ["ok", "ok", "running"]


def test_a_disk_that_is_full_after_a_lock_is_told_as_that(journal: Journal, tmp_path: Path) -> None:
    record = begin(journal)
    with locked(tmp_path):
        record.add(DisplayData({"text/plain": "lost"}))
        assert journal.problem == LOCKED
    journal._file.database().execute(f"PRAGMA max_page_count = {journal._file.scalar('PRAGMA page_count')}")
    record.add(DisplayData({"text/plain": "x" * MiB}))
    assert "full" in str(journal.problem)
    assert "full" in str(record.trouble)


def test_the_size_is_what_is_there_after_a_lock_whatever_was_to_go_meanwhile(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", 64 * MiB)
    cleared, forgotten, grown = (begin(journal) for _ in range(3))
    for each in (cleared, forgotten, grown):
        each.add(DisplayData({"text/plain": "x" * 1000}), "d")
    before = journal._size
    with locked(tmp_path):
        for _ in range(3):
            cleared.clear()
        forgotten.forget()
        grown.update("d", DisplayData({"text/plain": "x" * 5000}))
        assert journal._size == before
    grown.add(DisplayData({"text/plain": "y" * 1000}))
    counted = journal._size
    journal._measure()
    assert journal._size == counted
    journal.close()


def test_a_lock_in_which_there_is_no_room_makes_nothing_go_and_nothing_is_told_as_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "journal", MiB)
    record = begin(journal)
    for _ in range(10):
        record.add(DisplayData({"text/plain": "x" * 90_000}))
    write_all = journal._file.write_all

    def held_from_now_on(*arguments: Any) -> Any:
        with locked(tmp_path):
            return write_all(*arguments)

    size = journal._size
    monkeypatch.setattr(journal._file, "write_all", held_from_now_on)
    assert not journal._thin()
    monkeypatch.undo()
    assert journal._size == size
    page = record.page(0, text=2 * MiB, size=2 * MiB)
    assert page is not None
    kept_text = "".join(each.data["text/plain"] for each in page.outputs if isinstance(each, DisplayData))
    assert (len(kept_text), page.missing, journal.problem) == (900_000, 0, None)
    journal.close()


def test_an_output_is_found_by_its_place_and_pages_say_where_it_is(journal: Journal) -> None:
    record = begin(journal)
    record.add(Stream("stdout", "x\n" * 10_000))
    place = record.add(DisplayData({"image/png": "AAAA"}))
    assert place
    long = record.add(ExecuteResult({"text/plain": "y" * 10_000}))
    assert long
    assert record.add(Stream("stdout", "text")) is None
    assert journal.output(record.cell, place, most=MiB) == (DisplayData({"image/png": "AAAA"}), 33)
    whole, _ = journal.output(record.cell, long + 3, most=MiB)
    assert whole == ExecuteResult({"text/plain": "y" * 10_000})
    assert whole.place == long
    places = [each.place for each in everything(record) if isinstance(each, DisplayData | ExecuteResult)]
    assert set(places) == {place, long}
    assert places[0] == place


def test_an_output_that_is_too_large_is_not_read_and_one_that_is_not_there_has_no_bytes(journal: Journal) -> None:
    record = begin(journal)
    place = record.add(DisplayData({"image/png": "A" * 10_000}))
    assert place == 0
    found, size = journal.output(record.cell, place, most=1000)
    assert found is None
    assert size > 10_000
    assert journal.output(record.cell, 7, most=1000) == (None, 0)
    assert journal.output(999, 0, most=1000) == (None, 0)
    record.clear()
    assert journal.output(record.cell, place, most=MiB) == (None, 0)
