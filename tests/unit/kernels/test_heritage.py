"""What the next bridge takes over from those that have ended."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import KernelNotResponding
from bridge.journal import Journal, Record
from bridge.journal_file import FILE
from bridge.kernels import heritage
from bridge.kernels.heritage import OTHERS, Heritage, claimed, given, read_heritage
from bridge.outputs import Output, Stream

MiB = 1 << 20


@pytest.fixture
def bridge(tmp_path: Path) -> Iterator[Callable[[], Journal]]:
    """Make the journal of one more bridge."""
    made: list[Journal] = []

    def make() -> Journal:
        made.append(Journal(tmp_path, MiB))
        return made[-1]

    yield make
    for each in made:
        each.close()


def run(
    journal: Journal,
    msg_id: str,
    text: str = "",
    *,
    process: str = "p1",
    fingerprint: str = "f1",
    ends: bool = True,
    **more: Any,
) -> Record:
    known = {"code": f"code of {msg_id}", "client": f"client of {msg_id}", "username": "agent", **more}
    record = journal.book("lab", fingerprint=fingerprint).begin(kernel=process, msg_id=msg_id, **known)
    record.start(5)
    if text:
        record.add(Stream("stdout", text))
    record.write()
    if ends:
        record.end("ok", 5)
    return record


def printed(outputs: Iterator[Output] | tuple[Output, ...]) -> str:
    return "".join(each.text for each in outputs if isinstance(each, Stream))


def text_of(record: Record) -> str:
    page = record.page(0, text=1000, size=1000)
    assert page
    return printed(page.outputs)


def left(tmp_path: Path, fingerprint: str = "f1") -> Heritage:
    return read_heritage(tmp_path, fingerprint)


def give(found: Heritage, journal: Journal, name: str, process: str, username: str) -> dict[int, Record]:
    return given(found.kept(process, username), journal, name)


def test_what_an_ended_bridge_ran_is_read_by_its_number(bridge: Any, tmp_path: Path) -> None:
    journal = bridge()
    run(journal, "m1", "one", number=1)
    run(journal, "m2", "two", number=2)
    journal.close()
    heir = bridge()
    found = give(left(tmp_path), heir, "another name", "p1", "agent")
    assert {number: text_of(record) for number, record in found.items()} == {1: "one", 2: "two"}
    assert [(each.name, each.number, each.status) for each in heir.cells("1")] == [
        ("another name", 1, "ok"),
        ("another name", 2, "ok"),
    ]


@pytest.mark.parametrize(
    ("process", "username", "fingerprint"),
    [("p2", "agent", "f1"), ("p1", "another", "f1"), ("p1", "agent", "f2")],
    ids=["another process", "another agent", "another kernel"],
)
def test_what_is_of_another_process_agent_or_kernel_is_not(
    bridge: Any, tmp_path: Path, process: str, username: str, fingerprint: str
) -> None:
    journal = bridge()
    run(journal, "m1", "one", number=1)
    run(journal, "m2", "two", number=2, ends=False)
    journal.close()
    found = left(tmp_path, fingerprint)
    assert give(found, bridge(), "lab", process, username) == {}
    assert (found.unended(username) is not None) == (process == "p2")


def test_of_a_bridge_with_two_kernels_each_ones_own_cell_is_found(bridge: Any, tmp_path: Path) -> None:
    journal = bridge()
    run(journal, "m1", number=1, ends=False)
    run(journal, "m2", number=1, ends=False, process="p2", fingerprint="f2")
    journal.close()
    for fingerprint, msg_id in (("f1", "m1"), ("f2", "m2")):
        with claimed(left(tmp_path, fingerprint).unended("agent")) as found:
            assert found
            assert found.cell.msg_id == msg_id


def test_what_living_bridges_have_is_theirs(bridge: Any, tmp_path: Path) -> None:
    run(bridge(), "m1", "one", number=1)
    run(bridge(), "m2", ends=False, number=2)
    heir = bridge()
    assert left(tmp_path).unended("agent") is None
    assert give(left(tmp_path), heir, "lab", "p1", "agent") == {}
    assert heir.count("1") == 0


def test_of_two_ended_bridges_the_later_one_has_the_number(bridge: Any, tmp_path: Path) -> None:
    for text in ("early", "late"):
        journal = bridge()
        run(journal, f"m {text}", text, number=1)
        journal.close()
    for place in tmp_path.iterdir():  # as by their times, of which they have the seconds
        place.rename(tmp_path / ("1" if b"early" in (place / FILE).read_bytes() else "2"))
    assert text_of(give(left(tmp_path), bridge(), "lab", "p1", "agent")[1]) == "late"


def test_a_cell_that_has_not_ended_is_claimed_by_one_heir_alone(bridge: Any, tmp_path: Path) -> None:
    journal = bridge()
    run(journal, "m1", "ended", number=1)
    run(journal, "m2", "so far", number=2, ends=False)
    run(journal, "m3", "of a person", username="alice", ends=False)
    journal.close()
    with claimed(left(tmp_path).unended("agent")) as first, claimed(left(tmp_path).unended("agent")) as second:
        assert first
        assert second is None
    assert (first.cell.msg_id, first.cell.number, first.cell.client) == ("m2", 2, "client of m2")
    heir = bridge()
    execution, record = first.kept().handed_over(heir, "lab")
    assert (execution.number, execution.status, execution.count) == (2, "running", 5)
    assert printed(execution.result().outputs) == text_of(record) == "so far"


def test_a_claim_that_leads_to_nothing_is_released(bridge: Any, tmp_path: Path) -> None:
    journal = bridge()
    run(journal, "m1", number=1, ends=False)
    journal.close()

    def fail() -> None:
        with claimed(left(tmp_path).unended("agent")) as found:
            assert found
            raise KernelNotResponding("silent")

    with pytest.raises(KernelNotResponding):
        fail()
    with claimed(left(tmp_path).unended("agent")) as found:
        assert found


def test_a_claim_is_released_behind_a_lock_too(bridge: Any, tmp_path: Path) -> None:
    journal = bridge()
    run(journal, "m1", number=1, ends=False)
    journal.close()
    (file,) = tmp_path.rglob(FILE)

    def fail(foreign: sqlite3.Connection) -> None:
        with claimed(left(tmp_path).unended("agent")):
            foreign.execute("BEGIN IMMEDIATE")
            raise KernelNotResponding("silent")

    with closing(sqlite3.connect(file, isolation_level=None)) as foreign:
        with pytest.raises(KernelNotResponding):
            fail(foreign)
        assert left(tmp_path).unended("agent") is None
        foreign.execute("ROLLBACK")
    late = time.monotonic() + 20
    while left(tmp_path).unended("agent") is None:
        assert time.monotonic() < late
        time.sleep(0.02)


def test_what_others_ran_is_copied_with_when_and_how_it_ended_and_each_cell_once(bridge: Any, tmp_path: Path) -> None:
    for _ in range(2):  # two bridges saw the same
        journal = bridge()
        run(journal, "m1", "hers", username="alice")
        run(journal, "m2", "of another agent", username="another", number=1)
        run(journal, "m3", "goes on", username="alice", ends=False)
        journal.close()
    heir = bridge()
    assert give(left(tmp_path), heir, "another name", "p1", "agent") == {}
    first, second = heir.cells("1")
    known = [each.began for seen in left(tmp_path)._seen for each in seen.cells("p1") if each.msg_id == "m1"]
    assert (first.name, first.username, first.code, first.status) == ("another name", "alice", "code of m1", "ok")
    assert (first.count, first.client, first.number) == (5, "client of m1", None)
    assert first.ended
    assert first.began in known
    assert text_of(Record(heir, first.id)) == "hers"
    assert (second.username, second.number) == ("another", None)


def test_of_very_many_cells_the_newest_are_copied(bridge: Any, tmp_path: Path) -> None:
    journal = bridge()
    for number in range(OTHERS + 5):
        run(journal, f"m{number}", username="alice")
    journal.close()
    heir = bridge()
    give(left(tmp_path), heir, "lab", "p1", "agent")
    assert [each.msg_id for each in heir.cells("1")] == [f"m{number}" for number in range(5, OTHERS + 5)]


def test_of_very_much_output_the_newest_is_copied_and_the_rest_told_as_missing(
    bridge: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heritage, "ROOM", 10)
    journal = bridge()
    for number, text in enumerate(["too much", "new", "newer"], start=1):
        run(journal, text, text, number=number)
    journal.close()
    found = give(left(tmp_path), bridge(), "lab", "p1", "agent")
    pages = [found[number].page(0, text=100, size=100) for number in (1, 2, 3)]
    assert [(printed(page.outputs), page.missing) for page in pages if page] == [("", 8), ("new", 0), ("newer", 0)]


def test_what_is_missing_in_the_middle_of_an_output_is_told_as_missing_after_it_was_copied(
    bridge: Any, tmp_path: Path
) -> None:
    journal = bridge()
    for number, ends in ((1, True), (2, False)):
        record = run(journal, f"m{number}", "first", number=number, ends=False)
        record.miss(1000)
        if ends:
            record.end("ok", 5)
    journal.close()
    heir = bridge()
    with claimed(left(tmp_path).unended("agent")) as unended:
        records = give(left(tmp_path), heir, "lab", "p1", "agent")
        assert unended
        _, followed = unended.kept().handed_over(heir, "lab")
    pages = [each.page(0, text=100, size=100) for each in (records[1], followed)]
    assert [(printed(page.outputs), page.missing) for page in pages if page] == [("first", 1000)] * 2


def test_of_a_running_cell_with_very_much_output_as_much_is_copied_as_there_is_room_for(
    bridge: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heritage, "ROOM", 100)
    journal = bridge()
    record = run(journal, "m1", "x" * 90, number=1, ends=False)
    for _ in range(3):
        record.add(Stream("stderr", "y" * 90))
        record.add(Stream("stdout", ""))
    record.write()
    journal.close()
    with claimed(left(tmp_path).unended("agent")) as unended:
        assert unended
        _, followed = unended.kept().handed_over(bridge(), "lab")
    page = followed.page(0, text=1000, size=1000)
    assert page
    assert (printed(page.outputs), page.missing) == ("x" * 90, 270)


def test_a_journal_that_cannot_be_read_keeps_no_other_one(bridge: Any, tmp_path: Path) -> None:
    for text in ("one", "two"):
        journal = bridge()
        run(journal, text, text, number=len(text))
        journal.close()
    found = left(tmp_path)
    found._seen[0].file.write_bytes(b"no database" * 1000)
    (record,) = give(found, bridge(), "lab", "p1", "agent").values()
    assert text_of(record) in {"one", "two"}
    assert found.unended("agent") is None
