"""Files below one directory, read and written by what runs inside, run here; and what is made of any answer."""

from __future__ import annotations

import base64
import ctypes
import hashlib
import json
import os
import posix
import random
import resource
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bridge import looking
from bridge.errors import KernelError, UsageError
from bridge.looking import files
from bridge.looking.files import PIECE, Piece, piece_expression, read_piece, read_written

DRAFT = ".draft.part"
OUTSIDE = "outside"
DESCRIPTORS = Path("/proc/self/fd")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory below which all is, beside one that must not be reached."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret").write_text(OUTSIDE)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def names(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


def run(home: Path, function: str, *arguments: Any, **options: Any) -> str:
    """Run a function as the kernel does, and return its answer as the kernel shows it."""
    shell, inside = SimpleNamespace(starting_dir=str(home)), inside_names()
    return repr(inside["answer"](lambda: inside[function](shell, *arguments, **options)))


@cache
def inside_names() -> dict[str, Any]:
    inside: dict[str, Any] = {}
    for text in looking._inside(files.FILES):
        exec(text, inside)  # noqa: S102 - as in the kernel
    return inside


def read(home: Path, path: str, start: int = 0, size: int = PIECE) -> Piece:
    return read_piece(run(home, "piece", path, start, size), start=start, size=size)


def write(home: Path, path: str, content: bytes, *, start: int = 0, last: bool = True, replace: bool = False) -> str:
    told = base64.b64encode(content).decode()
    answer = run(home, "write", path, DRAFT, start, told, last=last, replace=replace)
    return read_written(answer, content, to_replace="say so")


def test_what_was_written_is_read_and_directories_are_made(home: Path) -> None:
    assert write(home, "a/b/x.bin", b"\x00\xff") == f"{home}/a/b/x.bin"
    assert (home / "a/b/x.bin").read_bytes() == b"\x00\xff"
    assert (read(home, "a/b/x.bin").data, read(home, "a/b/x.bin").size) == (b"\x00\xff", 2)
    assert read(home, f"{home}/a/./b//x.bin", 1).data == b"\xff"
    assert names(home / "a/b") == ["x.bin"]


def test_a_path_through_a_link_to_the_directory_itself_is_below_it(home: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(home)
    assert write(tmp_path / "link", f"{tmp_path}/link/x", b"1") == f"{home}/x"
    assert read(tmp_path / "link", f"{home}/x").data == b"1"


def test_a_file_is_0644_as_far_as_the_umask_lets_it(home: Path) -> None:
    before = os.umask(0o027)
    try:
        write(home, "x", b"")
    finally:
        os.umask(before)
    assert (home / "x").stat().st_mode & 0o777 == 0o640


NAMES = [
    "with space",
    "new\nline",
    "ümläut \U0001f600",
    "'quote\"",
    "-dash",
    "\udcff\udc80",
    "\\x41",
    "{brace}",
    "a" * 255,
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_any_name_that_a_file_may_have_is_taken(home: Path, name: str) -> None:
    write(home, name, b"x")
    assert names(home) == [name]
    assert read(home, name).data == b"x"
    assert ascii(name) in piece_expression(name, start=0, size=1).replace("\\\\", "\\") or "'" in name


@pytest.mark.parametrize("name", ["", ".", "..", "a/", "a/..", "a/.", "/", "x\0y"])
def test_what_is_no_name_of_a_file_is_refused_before_anything_is_sent(name: str) -> None:
    with pytest.raises(UsageError, match="names no file"):
        piece_expression(name, start=0, size=1)


WAYS_OUT = [
    "../elsewhere/secret",
    "link/secret",
    "file-link",
    "a/../../elsewhere/secret",
    "{parent}/elsewhere/secret",
    "{home}/../elsewhere/secret",
    "relative-link/secret",
]


@pytest.fixture
def links(home: Path, tmp_path: Path) -> None:
    (home / "a").mkdir()
    (home / "link").symlink_to(tmp_path / "elsewhere")
    (home / "file-link").symlink_to(tmp_path / "elsewhere" / "secret")
    (home / "relative-link").symlink_to("../elsewhere")


@pytest.mark.usefixtures("links")
@pytest.mark.parametrize("path", WAYS_OUT)
def test_nothing_outside_is_read(home: Path, path: str) -> None:
    with pytest.raises(UsageError, match=r"below .*home only"):
        read(home, path.format(parent=home.parent, home=home))


@pytest.mark.usefixtures("links")
@pytest.mark.parametrize("path", [each.replace("secret", "new") for each in WAYS_OUT])
@pytest.mark.parametrize("replace", [True, False])
def test_nothing_outside_is_written(home: Path, tmp_path: Path, path: str, *, replace: bool) -> None:
    with pytest.raises(UsageError, match=r"below .*home only|a link, which is not replaced"):
        write(home, path.format(parent=home.parent, home=home), b"x", replace=replace)
    assert names(tmp_path / "elsewhere") == ["secret"]
    assert (tmp_path / "elsewhere" / "secret").read_text() == OUTSIDE
    assert names(tmp_path) == ["elsewhere", "home"]


def test_links_that_stay_inside_are_followed_but_not_replaced(home: Path) -> None:
    write(home, "real/x", b"1")
    (home / "way").symlink_to("real")
    (home / "x").symlink_to("real/x")
    (home / "dangling").symlink_to("nowhere")
    assert read(home, "way/x").data == b"1"
    assert read(home, "x").data == b"1"
    assert write(home, "way/y", b"2") == f"{home}/real/y"
    for each in ("x", "dangling"):
        with pytest.raises(UsageError, match=f"{each} is a link, which is not replaced"):
            write(home, each, b"3", replace=True)
    assert (home / "real/x").read_bytes() == b"1"


@pytest.mark.parametrize("target", ["/etc/passwd", "/proc/1/mem", "/proc/self/mem", "/dev/zero", "/proc/self/cwd/x"])
def test_a_link_to_what_is_special_on_the_system_is_not_followed(home: Path, target: str) -> None:
    (home / "link").symlink_to(target)
    with pytest.raises(UsageError, match=r"only\.|cannot be read|There is no"):
        read(home, "link")


def test_only_regular_files_are_opened_and_a_fifo_makes_nobody_wait(home: Path) -> None:
    os.mkfifo(home / "fifo")
    (home / "directory").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(home / "socket"))
        for name, kind in (("fifo", "a FIFO"), ("directory", "a directory"), ("socket", "a socket")):
            with pytest.raises(UsageError, match=f"{name} is {kind}"):
                read(home, name)
            with pytest.raises(UsageError, match=f"{name} is {kind}, which is not replaced"):
                write(home, name, b"x", replace=True)
    for name in ("zero", "null", "full"):
        with pytest.raises(UsageError, match=f"{name} is a device"):
            read(Path("/dev"), name)
        with pytest.raises(UsageError, match=f"{name} is a device"):
            write(Path("/dev"), name, b"x", replace=True)


def test_a_loop_of_links_is_an_error(home: Path) -> None:
    (home / "one").symlink_to("two")
    (home / "two").symlink_to("one")
    with pytest.raises(UsageError, match="cannot be read: Too many levels of symbolic links"):
        read(home, "one/x")
    with pytest.raises(UsageError, match="cannot be written: Too many levels of symbolic links"):
        write(home, "one/x", b"")


@pytest.fixture
def workspace(home: Path) -> Path:
    """A workspace beside the home directory."""
    (home.parent / "work").mkdir()
    return home.parent / "work"


def test_below_the_home_directory_files_are_reached_beside_those_of_the_workspace(home: Path, workspace: Path) -> None:
    assert write(workspace, "x", b"1") == f"{workspace}/x"
    assert write(workspace, "~/a/x", b"2") == f"{home}/a/x"
    assert write(workspace, f"{home}/y", b"3") == f"{home}/y"
    assert write(workspace, f"{workspace}/y", b"4") == f"{workspace}/y"
    assert [read(workspace, each).data for each in ("x", "~/a/x", "~/y", "y")] == [b"1", b"2", b"3", b"4"]
    (workspace / "link").symlink_to(home / "a")
    assert read(workspace, "link/x").data == b"2"
    with pytest.raises(UsageError, match=r"There is no ~/no in .*/home\."):
        read(workspace, "~/no")


def test_beside_a_workspace_too_nothing_else_is_reached(home: Path, workspace: Path) -> None:
    rule = f"Files are read and written below {workspace} or {home} only"
    (workspace / "link").symlink_to(home.parent / "elsewhere")
    (home / "link").symlink_to(home.parent / "elsewhere")
    for path in ("link/secret", "~/link/secret", "../elsewhere/secret", "~/../elsewhere/secret", "~root/x", "/etc/x"):
        with pytest.raises(UsageError, match=rule):
            read(workspace, path)
        with pytest.raises(UsageError, match=rule):
            write(workspace, path, b"x", replace=True)
    assert (home.parent / "elsewhere/secret").read_text() == OUTSIDE


def test_where_there_is_no_home_directory_the_workspace_is_all(
    home: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(home / "none"))
    write(workspace, "x", b"1")
    with pytest.raises(UsageError, match=f"below {workspace} only"):
        write(workspace, "~/x", b"1")


def test_a_file_that_is_replaced_keeps_its_permissions(home: Path) -> None:
    for mode in (0o755, 0o600, 0o4711):
        (home / "x").write_text("old")
        (home / "x").chmod(mode)
        write(home, "x", b"one", last=False, replace=True)
        write(home, "x", b"two", start=3, replace=True)
        assert ((home / "x").read_bytes(), (home / "x").stat().st_mode & 0o7777) == (b"onetwo", mode & 0o777)


def test_only_old_drafts_of_the_pattern_are_removed(home: Path) -> None:
    draft = ".kernel-bridge-" + "0" * 32 + ".part"
    (home / "kept").mkdir()
    for name in (draft, draft[:-6] + "1.part", "other.part", ".kernel-bridge-notes.part"):
        (home / name).write_text("")
        os.utime(home / name, (0, time.time() - 3700))
    (home / draft).touch()
    (home / (draft[:-6] + "2.part")).mkdir()
    (home / (draft[:-6] + "3.part")).symlink_to("kept")
    os.utime(home / (draft[:-6] + "2.part"), (0, 0))
    os.utime(home / (draft[:-6] + "3.part"), (0, 0), follow_symlinks=False)
    write(home, "x", b"")
    left = {draft, draft[:-6] + "2.part", draft[:-6] + "3.part", "other.part", ".kernel-bridge-notes.part"}
    assert set(names(home)) == left | {"kept", "x"}


EXCHANGE = 2
"""renameat2(2): both names are there at every moment."""
FROM_HERE = -100


def exchange(one: Path, other: Path) -> None:
    system: Any = ctypes.CDLL(None)
    done: int = system.renameat2(FROM_HERE, bytes(one), FROM_HERE, bytes(other), EXCHANGE)
    assert done == 0


@pytest.fixture
def swapped(home: Path, tmp_path: Path) -> Iterator[None]:
    """Swap a directory and a link to outside as fast as can be."""
    (home / "d").mkdir()
    (home / "d" / "secret").write_text("inside")
    (home / "link").symlink_to(tmp_path / "elsewhere")
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            exchange(home / "d", home / "link")

    swapping = threading.Thread(target=swap)
    swapping.start()
    yield
    over.set()
    swapping.join()


@pytest.mark.usefixtures("swapped")
def test_a_directory_that_is_swapped_for_a_link_leads_nowhere_outside(home: Path, tmp_path: Path) -> None:
    def reads() -> bool:
        return read(home, "d/secret").data == b"inside"

    def writes() -> bool:
        return write(home, "d/new", b"x", replace=True) != ""

    seen = Counter[tuple[str, bool]]()
    for _ in range(1000):
        for work in (reads, writes):
            try:
                assert work()
                seen[work.__name__, True] += 1
            except UsageError:
                seen[work.__name__, False] += 1
        assert names(tmp_path / "elsewhere") == ["secret"]
    assert len(seen) == 4, seen


def test_what_was_looked_at_is_what_is_read_whatever_has_its_name_by_then(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "secret").write_text("inside")
    look = posix.fstat

    def swap_and_look(handle: int) -> os.stat_result:
        monkeypatch.setattr("posix.fstat", look)
        exchange(home / "secret", tmp_path / "elsewhere" / "secret")
        return look(handle)

    monkeypatch.setattr("posix.fstat", swap_and_look)
    assert read(home, "secret").data == b"inside"


def test_a_file_that_exists_is_left_as_it_is_unless_it_is_to_be_replaced(home: Path) -> None:
    write(home, "x", b"old")
    with pytest.raises(UsageError, match="x exists already and was left as it is; say so"):
        write(home, "x", b"new")
    with pytest.raises(UsageError, match="exists already"):  # before the first of many pieces, not behind the last
        write(home, "x", b"new", last=False)
    assert (home / "x").read_bytes() == b"old"
    write(home, "x", b"new", replace=True)
    assert (home / "x").read_bytes() == b"new"
    assert names(home) == ["x"]


def test_a_file_that_comes_while_another_is_written_is_not_replaced(home: Path) -> None:
    write(home, "x", b"one", last=False)
    (home / "x").write_text("theirs")
    with pytest.raises(UsageError, match="exists already"):
        write(home, "x", b"two", start=3)
    assert (home / "x").read_text() == "theirs"


def test_a_file_that_comes_at_the_last_moment_is_not_replaced(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_at = posix.pwrite

    def come_and_write(handle: int, content: bytes, start: int) -> int:
        (home / "x").write_text("theirs")
        return write_at(handle, content, start)

    monkeypatch.setattr("posix.pwrite", come_and_write)
    with pytest.raises(UsageError, match="exists already"):
        write(home, "x", b"ours")
    assert (home / "x").read_text() == "theirs"
    assert names(home) == ["x"]


def test_where_there_are_no_links_a_file_is_renamed_but_not_over_another(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("posix.link", refused)
    write(home, "x", b"1")
    assert names(home) == ["x"]
    write_at = posix.pwrite

    def come_and_write(handle: int, content: bytes, start: int) -> int:
        (home / "y").write_text("theirs")
        return write_at(handle, content, start)

    monkeypatch.setattr("posix.pwrite", come_and_write)
    with pytest.raises(UsageError, match="exists already"):
        write(home, "y", b"ours")
    assert (home / "y").read_text() == "theirs"
    assert names(home) == ["x", "y"]


def test_pieces_are_put_together_and_have_the_name_only_after_the_last(home: Path) -> None:
    write(home, "x", b"one", last=False)
    assert names(home) == [DRAFT]
    write(home, "x", b"two", start=3, last=False)
    write(home, "x", b"", start=6)
    assert (home / "x").read_bytes() == b"onetwo"
    assert names(home) == ["x"]


def test_a_draft_that_something_else_has_changed_is_given_up(home: Path) -> None:
    write(home, "x", b"one", last=False)
    (home / DRAFT).write_text("other size")
    with pytest.raises(UsageError, match="changed by something else in the sandbox"):
        write(home, "x", b"two", start=3)
    assert names(home) == []
    write(home, "x", b"one", last=False)
    (home / DRAFT).unlink()
    (home / DRAFT).symlink_to("/etc/passwd")
    with pytest.raises(UsageError, match="cannot be written"):
        write(home, "x", b"two", start=3)


def test_a_draft_is_removed(home: Path) -> None:
    write(home, "x", b"one", last=False)
    run(home, "discard", "x", DRAFT)
    assert names(home) == []
    run(home, "discard", "no/such/x", DRAFT)


def test_a_name_that_is_too_long_is_told_before_anything_is_written(home: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written: File name too long"):
        write(home, "a" * 256, b"x", last=False)
    assert names(home) == []


def test_a_path_of_more_steps_than_there_are_descriptors_is_taken(home: Path) -> None:
    path = "/".join(["d"] * 150 + ["x"])
    before, limits = names(DESCRIPTORS), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, limits[1]))
    try:
        write(home, path, b"deep")
        assert read(home, path).data == b"deep"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert names(DESCRIPTORS) == before


def test_a_missing_file_is_told_with_the_names_near_it(home: Path) -> None:
    for name in ("prices.csv", "other\x1b[31m", "a/x"):
        write(home, name, b"")
    with pytest.raises(UsageError, match=r"There is no price\.csv in .*/home\. Near it: prices\.csv\."):
        read(home, "price.csv")
    with pytest.raises(UsageError, match=r"There is: a, other\\x1b\[31m, prices\.csv\."):
        read(home, "zzz")
    with pytest.raises(UsageError, match="There is no b/x, nor a directory for it"):
        read(home, "b/x")
    with pytest.raises(UsageError, match="Not a directory"):
        read(home, "prices.csv/x")


def test_a_file_that_changes_is_another_version(home: Path) -> None:
    write(home, "x", b"12345")
    first = read(home, "x", 0, 2)
    assert read(home, "x", 2, 2).version == first.version
    (home / "x").write_text("1234567")
    assert read(home, "x", 2, 2).version != first.version


def test_no_descriptor_is_left_open_by_what_is_refused(home: Path) -> None:
    before = names(DESCRIPTORS)
    os.mkfifo(home / "fifo")
    for path in ("fifo", "none", "../x", "/etc/passwd"):
        with pytest.raises(UsageError):
            read(home, path)
        with pytest.raises(UsageError):
            write(home, path if path != "none" else "a" * 256, b"x")
    assert names(DESCRIPTORS) == before


# -- answers that nobody honest would give


def told(**content: Any) -> str:
    return repr(json.dumps(content))


def answered(content: bytes = b"x", **other: Any) -> str:
    sound = {
        "size": 1,
        "version": "1",
        "data": base64.b64encode(content).decode(),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    return told(**(sound | other))


LIES = [
    answered(b"xy"),
    answered(sha256="0" * 64),
    answered(data="not base64!"),
    answered(data=5),
    answered(size=-1),
    answered(size=1 << 63),
    answered(size=10**400),
    answered(size="many"),
    answered(size=float("inf")),
    told(),
    told(missing="x", wanted="x", names=5, place="y"),
    answered(more="A" * (PIECE * 4)),
    "'" + "[" * 100_000 + "'",
    "1",
    "__import__('os')",
]


@pytest.mark.parametrize("answer", LIES, ids=range(len(LIES)))
def test_a_lie_about_a_file_is_told_as_one(answer: str) -> None:
    assert read_piece(answered(), start=0, size=1).data == b"x"
    with pytest.raises(KernelError, match=r"not sound|cannot be read"):
        read_piece(answer, start=0, size=1)


@pytest.mark.parametrize("answer", [told(), told(sha256="0" * 64, place="/x"), told(place="/x"), "5"])
def test_a_lie_about_what_was_written_is_told_as_one(answer: str) -> None:
    with pytest.raises(KernelError, match=r"not sound|cannot be read"):
        read_written(answer, b"x", to_replace="say so")


def test_a_missing_file_is_looked_for_in_no_time_whatever_names_are_told() -> None:
    letters = [chr(0xA1 + number) for number in range(100)] * 10
    shuffled = random.Random(1)  # noqa: S311 - for sequences with which difflib takes long
    wanted, *names_told = ["".join(shuffled.sample(letters, len(letters))) for _ in range(1001)]
    for each in (names_told, ["a" * 3_000_000], ["ab"] * 300_000):
        content = {"missing": wanted, "wanted": wanted, "names": each, "place": "/home"}
        answer = repr(json.dumps(content, ensure_ascii=False))
        before = time.process_time()
        with pytest.raises(UsageError, match="There is no"):
            read_piece(answer, start=0, size=1)
        assert time.process_time() - before < 1


def test_among_many_names_one_that_begins_the_same_way_is_found() -> None:
    many = [f"x{number}" for number in range(900)]
    answer = told(missing="price.csv", wanted="price.csv", names=[*many, "prices.csv"], place="/")
    with pytest.raises(UsageError, match=r"Near it: prices\.csv\."):
        read_piece(answer, start=0, size=1)


def test_what_the_kernel_says_is_bounded_and_moves_no_cursor() -> None:
    for answer in (
        told(refused="\x1b[2J\u202e" + "a" * 100_000),
        told(missing="\x1b" * 5000, wanted="", names=[], place=""),
    ):
        with pytest.raises(UsageError) as refused:
            read_piece(answer, start=0, size=1)
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 6000
