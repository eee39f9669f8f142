"""A file in another's place: whole, private, and written also where its draft is swept under it."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from bridge import replacing


def test_what_is_put_is_whole_private_and_locked_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    file.write_text("old")
    handle, locked = replacing.put(file, b"new")
    assert locked
    with file.open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(handle)
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"new", 0o600)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("holds_it", [False, True])
@pytest.mark.parametrize("often", [1, 2, 3])
def test_a_draft_that_is_swept_before_it_was_locked_is_written_again_a_few_times(
    often: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, holds_it: bool
) -> None:
    made, swept = tempfile.mkstemp, list[int]()

    def swept_at_once(**options: Any) -> tuple[int, str]:
        handle, name = made(**options)
        if len(swept) < often:
            swept.append(os.open(name, os.O_RDWR))
            if holds_it:
                fcntl.flock(swept[-1], fcntl.LOCK_EX)
            Path(name).unlink()
        return handle, name

    monkeypatch.setattr(tempfile, "mkstemp", swept_at_once)
    file = tmp_path / "file.json"
    if often < 3:
        replacing.replace(file, b"new")
        assert file.read_bytes() == b"new"
    else:
        with pytest.raises(OSError, match=r"No such file|temporarily unavailable"):
            replacing.replace(file, b"new")
    assert list(tmp_path.iterdir()) == ([file] if often < 3 else [])
    for each in swept:
        os.close(each)
