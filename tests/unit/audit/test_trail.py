"""The audit's file: what is appended, what is refused, and how it makes room."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.audit import trail
from bridge.audit.trail import MAX_LINE, Trail, Unwritten

NOBODY = 65534


def line(number: int, size: int = 0) -> bytes:
    return json.dumps({"version": 1, "number": number, "fill": "x" * size}, separators=(",", ":")).encode() + b"\n"


def numbers(file: Path) -> list[int]:
    return [json.loads(each)["number"] for each in file.read_text().splitlines()]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    directory = tmp_path / "audit"
    directory.mkdir(mode=0o700)
    return directory / "audit.jsonl"


def made(file: Path, *, max_size: int = 1000, keep: int = 3) -> Trail:
    return Trail(file, max_size=max_size, keep=keep)


def older(file: Path) -> list[Path]:
    return sorted(each for each in file.parent.iterdir() if each != file)


def test_lines_are_appended_to_a_file_that_only_its_owner_may_read(file: Path) -> None:
    before = os.umask(0)
    try:
        made(file).append(line(1))
    finally:
        os.umask(before)
    made(file).append(line(2))
    assert numbers(file) == [1, 2]
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_full_file_is_moved_away_with_all_its_lines_and_the_oldest_is_removed(file: Path) -> None:
    written = made(file, max_size=100, keep=2)
    for number in range(12):
        written.append(line(number))
        assert file.stat().st_size <= 100
    kept = [*older(file), file]
    assert len(kept) == 3
    assert [number for each in kept for number in numbers(each)] == list(range(12))[-len(kept) * 2 :]
    assert all(re.fullmatch(r"audit\.jsonl\.\d{8}T\d{12}Z", each.name) for each in older(file))
    assert all(each.stat().st_mode & 0o777 == 0o600 for each in kept)


def test_files_that_only_look_similar_are_never_removed(file: Path) -> None:
    others = [
        file.with_name(name) for name in ("audit.jsonl.1", "audit.jsonl.bak", "xaudit.jsonl.20200101T000000000000Z")
    ]
    for each in others:
        each.write_text("mine")
    written = made(file, max_size=60, keep=1)
    for number in range(6):
        written.append(line(number))
    assert all(each.read_text() == "mine" for each in others)
    assert len(older(file)) == len(others) + 1


def test_a_line_that_is_longer_than_the_file_may_be_is_written_all_the_same(file: Path) -> None:
    written = made(file, max_size=50)
    written.append(line(1, 500))
    written.append(line(2))
    assert numbers(older(file)[0]) == [1]
    assert numbers(file) == [2]


def test_a_line_that_was_torn_by_a_kill_is_taken_out(file: Path) -> None:
    written = made(file)
    written.append(line(1))
    with file.open("ab") as torn:
        torn.write(line(2)[:-5])
    written.append(line(3))
    assert numbers(file) == [1, 3]


def test_the_first_line_may_be_the_torn_one(file: Path) -> None:
    file.write_bytes(b'{"vers')
    file.chmod(0o600)
    made(file).append(line(1))
    assert numbers(file) == [1]


@pytest.mark.parametrize("content", [b"a diary\n", b'{"other": 1}\n', b"\0" * 20])
def test_a_file_of_something_else_is_not_written_into(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(Unwritten, match="something else than an audit"):
        made(file).append(line(1))
    assert file.read_bytes() == content
    assert "something else" in (made(file).trouble() or "")


def test_a_file_without_any_end_of_a_line_is_no_audit(file: Path) -> None:
    content = trail.BEGIN + b"x" * (MAX_LINE + 10)
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(Unwritten, match="its last line has no end"):
        made(file, max_size=2**30).append(line(1))
    assert file.read_bytes() == content


def fifo(file: Path) -> None:
    os.mkfifo(file, 0o600)


def device(file: Path) -> None:
    os.mknod(file, 0o600 | 0o020000, os.makedev(1, 3))


def symlink(file: Path) -> None:
    target = file.with_name("elsewhere")
    target.touch(0o600)
    file.symlink_to(target)


def directory(file: Path) -> None:
    file.mkdir()


def open_to_all(file: Path) -> None:
    file.touch()
    file.chmod(0o604)


def anothers(file: Path) -> None:
    file.touch(0o600)
    os.chown(file, NOBODY, NOBODY)


def writable_directory(file: Path) -> None:
    file.parent.chmod(0o777)


def sticky_directory(file: Path) -> None:
    file.parent.chmod(0o1777)


def group_directory(file: Path) -> None:
    file.parent.chmod(0o770)


def anothers_directory(file: Path) -> None:
    os.chown(file.parent, NOBODY, NOBODY)


def writable_above(file: Path) -> None:
    file.parent.parent.chmod(0o777)


def link_that_all_may_replace(file: Path) -> None:
    elsewhere = file.parent.rename(file.parent.with_name("elsewhere"))
    links = file.parent.with_name("links")
    links.mkdir()
    (links / "link").symlink_to(elsewhere)
    file.parent.symlink_to(links / "link")
    links.chmod(0o777)


def no_directory(file: Path) -> None:
    file.parent.rmdir()


@pytest.mark.parametrize(
    ("arrange", "why", "cure"),
    [
        (fifo, "not a regular file", "name another"),
        (device, "not a regular file", "name another"),
        (symlink, "symbolic links", "not a symlink"),
        (directory, "directory", "name a file"),
        (open_to_all, "others may read or write it", "chmod o-rwx"),
        (anothers, "belongs to user 65534", "chown"),
        (writable_directory, "others may replace files", "chmod go-w"),
        (sticky_directory, "others may replace files", "chmod go-w"),
        (group_directory, "others may replace files", "chmod go-w"),
        (anothers_directory, "its directory belongs to user 65534", "root's"),
        (writable_above, "everyone may replace files there", "chmod o-w"),
        (link_that_all_may_replace, "everyone may replace files there", "chmod o-w"),
        (no_directory, "No such file or directory", "mkdir -p -m 700"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_others_could_read_or_replace_and_what_is_no_file_is_refused(
    file: Path, arrange: Callable[[Path], None], why: str, cure: str
) -> None:
    arrange(file)
    with pytest.raises(Unwritten) as caught:
        made(file).append(line(1))
    reason, _, what_to_do = str(caught.value).partition("; ")
    assert why in reason or why in str(caught.value)
    assert cure in what_to_do
    assert made(file).trouble() == str(caught.value), "a look tells the same"


def test_a_group_may_share_a_file_of_roots(file: Path) -> None:
    file.touch()
    file.chmod(0o660)
    made(file).append(line(1))
    assert numbers(file) == [1]


def test_whoever_holds_the_lock_for_long_is_not_waited_for_without_end(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trail, "PATIENCE", 0.05)
    made(file).append(line(1))
    with file.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Unwritten, match="another process has held it"):
            made(file).append(line(2))
    made(file).append(line(3))
    assert numbers(file) == [1, 3]


def test_a_line_never_goes_into_a_file_that_was_moved_away_while_it_waited(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(file).append(line(1))
    moved, lock = file.with_name("moved"), trail._lock

    def moved_meanwhile(descriptor: int, deadline: float) -> None:
        if not moved.exists():
            file.rename(moved)
        lock(descriptor, deadline)

    monkeypatch.setattr(trail, "_lock", moved_meanwhile)
    made(file).append(line(2))
    assert (numbers(moved), numbers(file)) == ([1], [2])


def test_a_file_that_is_moved_away_again_and_again_is_given_up(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trail, "PATIENCE", 0.05)
    monkeypatch.setattr(trail, "_lock", lambda *_: file.unlink())
    with pytest.raises(Unwritten, match="moved away again and again"):
        made(file).append(line(1))


def test_a_look_at_what_would_work_writes_nothing(file: Path) -> None:
    assert made(file).trouble() is None
    assert not file.exists()
    made(file).append(line(1))
    content = file.read_bytes()
    assert made(file).trouble() is None
    assert file.read_bytes() == content
    assert not made(file).is_too_long()
    assert made(file, max_size=5).is_too_long()
