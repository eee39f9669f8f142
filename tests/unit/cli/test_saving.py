"""A file is written where the person said and nowhere else, whatever code in a sandbox has put there."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from bridge.cli.saving import PRIVATE, USUAL, folder_of, in_units, must_be_writable, must_have_room, saved
from bridge.errors import UsageError


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A directory in which code in a sandbox writes, beside one that is the person's own."""
    (tmp_path / "own").mkdir()
    (tmp_path / "work" / "real").mkdir(parents=True)
    return tmp_path / "work"


def save(
    file: Path, content: bytes = b"new", *, force: bool = False, mode: int = USUAL, work: Path | None = None
) -> None:
    with saved(file, force=force, mode=mode, workspaces=[work] if work else []) as out:
        out.write(content)


def names(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_refused_with_where_it_leads(tmp_path: Path, *, force: bool, exists: bool) -> None:
    behind, link = tmp_path / "profile\x1b[2J", tmp_path / "result.csv"
    link.symlink_to(behind)
    if exists:
        behind.write_text("mine")
    with pytest.raises(UsageError, match=r"result\.csv is a link to .*profile\\x1b\[2J, and is neither followed nor"):
        must_be_writable(link, force=force)


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("exists", [True, False])
def test_a_link_that_is_put_there_meanwhile_leads_nowhere(tmp_path: Path, *, force: bool, exists: bool) -> None:
    behind, link = tmp_path / "profile", tmp_path / "result.csv"
    if exists:
        behind.write_text("mine")
    must_be_writable(link, force=force)
    link.symlink_to(behind)
    if force:
        save(link, force=True)
        assert link.read_bytes() == b"new"
        assert not link.is_symlink()
    else:
        with pytest.raises(UsageError, match="exists and was left as it is"):
            save(link)
    assert (behind.read_text() if exists else behind.exists()) == ("mine" if exists else False)
    assert names(tmp_path) == (["profile"] if exists else []) + ["result.csv"]


def test_in_a_workspace_no_link_on_the_way_is_followed(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = workspace.parent / "own"
    (workspace / "out").symlink_to(own)
    (workspace / "real" / "out").symlink_to("../../own")
    monkeypatch.chdir(workspace)
    for way in ("out/x", "real/out/x", "real/../out/x", f"{workspace}/out/x"):
        with pytest.raises(UsageError, match=r"out is a link to .*own\. It is in a sandbox's workspace"):
            save(Path(way), work=workspace)
    assert names(own) == []
    save(Path("real/x"), work=workspace)
    assert (workspace / "real/x").read_bytes() == b"new"


def test_links_of_the_persons_own_are_followed_to_a_workspace_and_elsewhere(workspace: Path) -> None:
    own = workspace.parent / "own"
    (own / "work").symlink_to(workspace)
    (own / "deep").symlink_to(workspace / "real")
    (own / "here").symlink_to(".")
    save(own / "work/a", work=workspace)
    save(own / "deep/b", work=workspace)
    save(own / "here/c", work=workspace)
    assert (names(workspace), names(workspace / "real")) == (["a", "real"], ["b"])
    (workspace / "out").symlink_to(own)
    with pytest.raises(UsageError, match="not followed"):
        save(own / "work/out/x", work=workspace)
    assert names(own) == ["c", "deep", "here", "work"]


def test_a_directory_that_is_swapped_for_a_link_after_it_was_opened_leads_nowhere(workspace: Path) -> None:
    with saved(workspace / "real/x", force=False, mode=USUAL, workspaces=[workspace]) as out:
        (workspace / "real").rename(workspace / "moved")
        (workspace / "real").symlink_to("../own")
        out.write(b"new")
    assert names(workspace.parent / "own") == []
    assert (workspace / "moved/x").read_bytes() == b"new"


def test_a_file_on_the_way_is_told_as_one(workspace: Path) -> None:
    (workspace / "file").write_text("")
    with pytest.raises(UsageError, match=r"x cannot be written \(Not a directory\)"):
        save(workspace / "file/x", work=workspace)


def test_no_descriptor_is_left_open(workspace: Path) -> None:
    (workspace / "out").symlink_to(".")
    before = names(Path("/proc/self/fd"))
    for way in ("real/x", "out/x", "none/x"):
        try:
            with folder_of(workspace / way, [workspace]):
                pass
        except (UsageError, FileNotFoundError):
            pass
    assert names(Path("/proc/self/fd")) == before


def test_what_is_replaced_keeps_its_permissions_and_what_is_private_stays_so(tmp_path: Path) -> None:
    file = tmp_path / "x"
    save(file)
    assert file.stat().st_mode & 0o777 == 0o644
    for mode in (0o755, 0o600, 0o4711):
        file.chmod(mode)
        save(file, force=True)
        assert file.stat().st_mode & 0o7777 == mode & 0o777
    file.chmod(0o644)
    save(file, force=True, mode=PRIVATE)
    assert file.stat().st_mode & 0o777 == 0o600


def test_where_there_are_no_hard_links_what_came_meanwhile_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refused)
    save(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"new"
    with (
        pytest.raises(UsageError, match="y exists and was left as it is"),
        saved(tmp_path / "y", force=False, mode=USUAL),
    ):
        (tmp_path / "y").write_text("theirs")
    assert (tmp_path / "y").read_text() == "theirs"
    assert names(tmp_path) == ["x", "y"]


def test_what_has_no_room_is_refused_with_both_sizes_and_leaves_nothing(tmp_path: Path) -> None:
    def room_for(out: IO[bytes], size: int) -> None:
        must_have_room(out, tmp_path / "x", size)

    with saved(tmp_path / "x", force=False, mode=USUAL) as out:
        room_for(out, 1)
    (tmp_path / "x").unlink()
    with (
        pytest.raises(UsageError, match=r"x would have 4 EiB, and where it is to be, \S+ \w+ are free\. Nothing was"),
        saved(tmp_path / "x", force=False, mode=USUAL) as out,
    ):
        room_for(out, 1 << 62)
    assert names(tmp_path) == []


def test_where_it_cannot_be_written_to_its_end_the_old_file_stays(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(UsageError, match=r"cannot be written \(File too large\)\. Nothing was written"):
            save(tmp_path / "x", bytes(100_000), force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (names(tmp_path), (tmp_path / "x").read_text()) == (["x"], "old")


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1 << 10, "1 KiB"),
        (1023 << 10, "1023 KiB"),
        (50_000_000, "47.7 MiB"),
        (1 << 62, "4 EiB"),
    ],
)
def test_sizes_are_for_a_person(size: int, words: str) -> None:
    assert in_units(size) == words
